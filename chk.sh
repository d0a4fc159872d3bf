V=/work/main/.venv/bin
C="--no-cache --config format.skip-magic-trailing-comma=true --config lint.isort.split-on-trailing-comma=false"
$V/ruff format -q $C main.py handlers; $V/ruff check -q --select I,F401 --fix $C main.py handlers;$V/ruff format -q $C main.py handlers; $V/ruff check -q --no-cache main.py handlers
$V/mypy --cache-dir /tmp/mypyc main.py handlers 2>&1 | tail -15
./lines.sh
