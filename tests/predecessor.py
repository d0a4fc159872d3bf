"""The release before this one: the two share a ledger while one replaces the other.

predecessor.tar.gz has it, since a build's clone has one commit. With each release, RELEASE becomes the one before it:
`git archive --format=tar.gz --output=tests/predecessor.tar.gz COMMIT main.py handlers`. tests/simulation/predecessor.py
builds its parts, and tests/simulation/excuses.py says which promises it does not keep.
"""

import atexit
import importlib
import re
import shutil
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

RELEASE = "1.0"

_ARCHIVE = Path(__file__).with_suffix(".tar.gz")
_PACKAGE = "handlers_of_predecessor"
_IMPORT = re.compile(r"^(\s*(?:from|import) )handlers\b", re.MULTILINE)


@cache
def source() -> Path:
    """A folder with its main.py and its handlers/, as they were released."""
    folder = Path(tempfile.mkdtemp(prefix="predecessor-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(_ARCHIVE) as files:
        # https://docs.python.org/3/library/tarfile.html#supporting-older-python-versions: Debian 12 has 3.11.2
        files.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        files.extractall(folder)
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
