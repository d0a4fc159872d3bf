"""The release before this one, from the repository's history: the two share a ledger while one replaces the other.

With each release, COMMIT and RELEASE become those of the release before it. tests/simulation/predecessor.py builds its
parts, and tests/simulation/excuses.py says which promises it does not keep.
"""

import atexit
import importlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

COMMIT = "546e8d4827ec8e721a4f32053668cf51c7af84ea"
RELEASE = "1.0"

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGE = "handlers_of_predecessor"
_IMPORT = re.compile(r"^(\s*(?:from|import) )handlers\b", re.MULTILINE)


class PredecessorMissing(Exception):
    """The history has no such commit: a shallow clone, or no clone at all."""


@cache
def source() -> Path:
    """A folder with its main.py and its handlers/, as they were released."""
    archive = _git("archive", COMMIT, "main.py", "handlers")
    if not archive and _git("rev-parse", "--is-shallow-repository").strip() == b"true":
        _git("fetch", "--quiet", "--depth=1", "origin", COMMIT)
        archive = _git("archive", COMMIT, "main.py", "handlers")
    if not archive:
        raise PredecessorMissing(f"release {RELEASE}: {COMMIT:.7} is not in this clone, `git fetch --unshallow`")
    folder = Path(tempfile.mkdtemp(prefix="predecessor-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


@cache
def _importable() -> str:
    """The folder's path with a copy of its handlers/ under another name, in which they import each other."""
    folder = source() / "renamed"
    shutil.copytree(source() / "handlers", folder / _PACKAGE)
    for module in (folder / _PACKAGE).glob("**/*.py"):
        module.write_text(_IMPORT.sub(rf"\g<1>{_PACKAGE}", module.read_text()))
    sys.path.append(str(folder))
    return _PACKAGE


def module(name: str) -> Any:
    """The module handlers.<name> of that release, to be used beside this one's."""
    return importlib.import_module(f"{_importable()}.{name}")


def _git(*arguments: str) -> bytes:
    """What it prints, nothing where it fails."""
    try:
        return subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, check=False).stdout
    except FileNotFoundError:
        return b""
