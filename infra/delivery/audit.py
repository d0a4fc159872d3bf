"""Fail when a package that the function is made of has a known vulnerability that nobody has accepted.

The packages are those of requirements.txt, as they are pinned; the vulnerabilities are OSV's (https://osv.dev), which
gathers PyPI's and GitHub's. What accepted-vulnerabilities.toml lists passes until its day. When OSV cannot be asked,
that is a failure too: not to know is not to be safe.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ACCEPTED = Path(__file__).with_name("accepted-vulnerabilities.toml")
OSV = "https://api.osv.dev/v1/query"


def accepted(path: Path, today: date) -> list[str]:
    """The ids that pass. Raises ValueError for one without a reason or day, or whose day is over."""
    ids = []
    for entry in tomllib.loads(path.read_text()).get("accepted", []):
        name, until = entry.get("id"), entry.get("until")
        if not name or not entry.get("reason") or not isinstance(until, date):
            raise ValueError(f"{path.name}: {name or 'an entry'} needs an id, a reason and a day (until).")
        if until < today:
            raise ValueError(f"{path.name}: {name} was accepted until {until}: look at it again.")
        ids.append(name)
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requirements", default=ROOT / "requirements.txt")
    parser.add_argument("--accepted", type=Path, default=ACCEPTED)
    arguments = parser.parse_args()
    try:
        ids = accepted(arguments.accepted, datetime.now(UTC).date())
    except ValueError as wrong:
        sys.exit(str(wrong))
    line = [sys.executable, "-m", "pip_audit", "--requirement", str(arguments.requirements), "--require-hashes"]
    line += ["--disable-pip", "--vulnerability-service=osv", f"--osv-url={os.environ.get('OSV_URL', OSV)}"]
    line += ["--progress-spinner=off", "--timeout=30", *(f"--ignore-vuln={name}" for name in ids)]
    sys.exit(subprocess.run(line, check=False).returncode)


if __name__ == "__main__":
    main()
