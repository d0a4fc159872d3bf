"""Python in a process of its own, with the environment that it is given."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`said` is its standard input."""
    return subprocess.run(
        [sys.executable, "-c", code],
        input=said,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
