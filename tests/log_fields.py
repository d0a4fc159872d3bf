"""The fields of the log line, as docs/logs.md tells operators."""

import re
from pathlib import Path

FIELDS = frozenset(
    re.findall(r"^\| `(\w+)` \|", (Path(__file__).parents[1] / "docs/logs.md").read_text(), re.MULTILINE)
)
