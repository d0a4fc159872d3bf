"""What a server and its workers have used, from Linux's /proc."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living descendants."""
    return sum(sum(map(int, _after_name(each, "stat")[11:13])) for each in _tree(pid)) / _TICKS


def memory_mb(pid: int) -> float:
    """Their proportional set size: what they share is counted once."""
    return sum(_pss_kb(each) for each in _tree(pid)) / 1024


def _tree(pid: int) -> Iterator[int]:
    """Without the shell that ends the server if the benchmark dies."""
    if Path(f"/proc/{pid}/comm").read_text() != "sh\n":
        yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _tree(int(child))


def _after_name(pid: int, file: str) -> list[str]:
    return Path(f"/proc/{pid}/{file}").read_text().rpartition(")")[2].split()


def _pss_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
