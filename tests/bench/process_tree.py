"""What a server and its workers have used, from Linux's /proc."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living descendants."""
    return sum(sum(map(int, _after_name(each, "stat")[11:13])) for each in _tree(pid)) / _TICKS


def memory_mb(pid: int) -> float:
    """Their own memory, what they share counted once, and the files that one of them has mapped at the most.

    Not their proportional set size: of a file it counts less, the more other programs on this machine use it too.
    """
    mapped = max(each["Rss"] - each["Anonymous"] for each in map(_memory_kb, _tree(pid)))
    return own_memory_mb(pid) + mapped / 1024


def own_memory_mb(pid: int) -> float:
    """Without mapped files: how many of their pages are mapped depends on how the kernel has cached them, too."""
    return sum(_memory_kb(each)["Pss_Anon"] for each in _tree(pid)) / 1024


def _tree(pid: int) -> Iterator[int]:
    """Without the shell that ends the server if the benchmark dies."""
    if Path(f"/proc/{pid}/comm").read_text() != "sh\n":
        yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _tree(int(child))


def _after_name(pid: int, file: str) -> list[str]:
    return Path(f"/proc/{pid}/{file}").read_text().rpartition(")")[2].split()


def _memory_kb(pid: int) -> dict[str, int]:
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return {name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
