"""What a person sees: colours and progress on a terminal, plain lines elsewhere, JSON for programs.

What comes from messages, from the ledger or from Google is shown without its control characters, line breaks and
direction marks, which could tell a terminal anything.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_MOST_LINES = 20  # of one kind
_NO_LIMIT = 100_000  # columns, where nobody reads along: lines are not to be broken


class Report:
    """Results go to standard output, progress to standard error."""

    def __init__(self) -> None:
        self._out, self._err = (_console(stderr=stderr) for stderr in (False, True))

    def say(self, text: str, style: str = "") -> None:
        self._out.print(Text(printable(text), style))

    def say_each(self, texts: Sequence[str], style: str) -> None:
        """The first of them, one a line, and how many more there are."""
        for text in texts[:_MOST_LINES]:
            self.say(text, style)
        if len(texts) > _MOST_LINES:
            self.say(f"… and {len(texts) - _MOST_LINES} more (--json)", style)

    def json(self, value: Any) -> None:
        """Indented, since people read it too, and in ASCII, whose escapes a terminal shows as they stand."""
        self._out.file.write(json.dumps(value, indent=2) + "\n")

    @contextmanager
    def progress(self, doing: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
        """A bar while it lasts; gives what to call with the number done. Nothing is shown where nobody looks."""
        counted = MofNCompleteColumn() if total is not None else TextColumn("{task.completed}")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
        shown = columns if total is not None else (columns[0], columns[1], columns[3])
        with Progress(*shown, console=self._err, transient=True, disable=not self._err.is_terminal) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda done: bar.update(task, completed=done)

    def line(self, *parts: str | tuple[str, str]) -> None:
        """A line of parts, each with a style or without one."""
        safe = (printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts)
        self._out.print(Text.assemble(*safe))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        for name, value in facts:
            grid.add_row(f"  {name}", Text(printable(value)))
        self._out.print(grid)

    def table(self, heads: list[str], rows: Iterable[list[str]]) -> None:
        table = Table(box=box.SIMPLE_HEAD if self._out.is_terminal else None, pad_edge=False, header_style="dim")
        for head in heads:
            justify: JustifyMethod = "right" if head.startswith(">") else "left"
            table.add_column(head.lstrip(">").upper(), justify=justify, overflow="fold")  # an id is shown whole
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._out.print(table)


def printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _NO_LIMIT
    return console
