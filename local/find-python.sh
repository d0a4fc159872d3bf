#!/bin/sh
# Prints the interpreter to work with: the deployed runtime's where it is installed (on the path or in pyenv),
# otherwise any other that is new enough.
wanted=$(sed 's/^python\([0-9]\)/\1./' "$(dirname "$0")/../infra/runtime.txt")
pyenv=${PYENV_ROOT:-$HOME/.pyenv}/versions
for python in "python$wanted" "$pyenv/$wanted"*/bin/python python3 python3.14 python3.13 python3.12 python3.11; do
    if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$python"
        exit 0
    fi
done
echo "Python 3.11 or newer is needed, with its venv module." >&2
exit 1
