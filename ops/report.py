"""What a person sees: colours and progress on a terminal, plain lines elsewhere, JSON for programs.

What comes from messages is shown without its control characters, which could tell a terminal anything.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from handlers.events import timestamp
from ops.letters import Letter
from ops.redrive import Found, Redrive
from ops.story import Told, clock, span

_STATES = {"retried": "green", "rejected": "red", "claimed": "yellow", "deferred": "cyan", "open": "yellow"}
_NO_LIMIT = 100_000  # columns, where nobody reads along: lines are not to be broken


class Screen:
    """Results go to standard output, progress and notes to standard error."""

    def __init__(self) -> None:
        self._out, self._err = (_console(stderr=stderr) for stderr in (False, True))

    def say(self, text: str, style: str = "") -> None:
        self._out.print(Text(printable(text), style))

    def json(self, value: Any) -> None:
        """Indented, since people read it too."""
        self._out.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    @contextmanager
    def progress(self, doing: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
        """A bar while it lasts; gives what to call with the number done. Nothing is shown where nobody looks."""
        counted = MofNCompleteColumn() if total is not None else TextColumn("{task.completed}")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
        shown = columns if total is not None else (columns[0], columns[1], columns[3])
        with Progress(*shown, console=self._err, transient=True, disable=not self._err.is_terminal) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda done: bar.update(task, completed=done)

    # The redrive

    def found(self, found: Found, subscription: str, now: datetime, show: int) -> None:
        """What a look brought: counted, and the first of what matches one by one."""
        matching = sum(tally.wanted for tally in found.tallies.values())
        more = "" if found.complete else ", and there are more"
        self.say(f"{subscription}: {found.looked_at} messages, {matching} matching{more}", "bold")
        if found.tallies:
            self._tallies(found, now)
        else:
            self.say("What another run or program has in hand right now does not show.")
        if found.letters and show:
            self.say("")
            self._letters(found.letters[:show], now)
            if len(found.letters) > show:
                self.say(f"… and {len(found.letters) - show} more (--show)")
        self.say("")

    def end(self, run: Redrive, found: Found, topic: str, end: str) -> None:
        """How a run ended: done, looked (and no more), stopped or failed."""
        if end == "stopped":
            self.say("Stopped. What was not put back is available again.", "yellow")
        if end == "looked" and found.letters:
            self.say(f"Nothing was changed. With --go, {len(found.letters)} of these go back on {_short(topic)}.")
        elif end == "done" or run.put_back:
            self.say(f"{len(run.put_back)} of {len(found.letters)} put back on {_short(topic)}.", "bold")
        for left in run.left:
            self.say(f"Left: message {left.letter.message_id}, job {left.letter.job_id or '?'}: {left.why}.", "red")

    def _tallies(self, found: Found, now: datetime) -> None:
        sources = any(source for _, source in found.tallies)
        heads = ["reason", *(["from"] if sources else []), ">messages", ">matching", ">users", ">oldest", ">newest"]
        rows = []
        for (reason, source), tally in sorted(found.tallies.items(), key=lambda item: -item[1].found):
            ages = [span(now - moment) if moment else "" for moment in (tally.oldest, tally.newest)]
            counts = [str(number) for number in (tally.found, tally.wanted, len(tally.users))]
            rows.append([reason, *([source] if sources else []), *counts, *ages])
        self._table(heads, rows)

    def _letters(self, letters: list[Letter], now: datetime) -> None:
        dead = any(letter.deliveries for letter in letters)
        heads = [">age", "reason", "job", "user", ">deliveries" if dead else "detail"]
        rows = [
            [
                span(now - letter.arrived_at),
                letter.reason,
                letter.job_id,
                letter.user_id,
                str(letter.deliveries) if dead else letter.detail,
            ]
            for letter in letters
        ]
        self._table(heads, rows)

    # The story

    def story(self, chain: list[Told], job_id: str, budget: int) -> None:
        """A chain, its jobs from the first to the newest."""
        asked = next(told.entry for told in chain if told.entry.job_id == job_id)
        newest = chain[-1].entry
        self.say(f"Job {job_id} of user {asked.user_id}, credential {asked.credential_id}", "bold")
        ids = [told.entry.job_id for told in chain]
        if newest.new_job_id:
            ids.append(newest.new_job_id)
        if asked.root_job_id not in ids:
            ids.insert(0, f"{asked.root_job_id} (not in the ledger)")
        self.say(f"Chain {' → '.join(ids)}, with {newest.used} of {budget} retries used")
        for told in chain:
            self._job(told, budget, asked=told.entry.job_id == job_id and len(chain) > 1)

    def _job(self, told: Told, budget: int, *, asked: bool) -> None:
        entry = told.entry
        state = f"rejected: {entry.reason}" if entry.state == "rejected" else entry.state
        title = Text.assemble("\n", (printable(entry.job_id), "bold"), "  ", (printable(state), _STATES[entry.state]))
        self._out.print(title.append("  ◄ asked for" if asked else ""))
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim")
        facts.add_column()
        for name, value in _facts(told, budget):
            facts.add_row(f"  {name}", Text(printable(value)))
        self._out.print(facts)

    def _table(self, heads: list[str], rows: Iterable[list[str]]) -> None:
        table = Table(box=box.SIMPLE_HEAD if self._out.is_terminal else None, pad_edge=False, header_style="dim")
        for head in heads:
            table.add_column(head.lstrip(">").upper(), justify="right" if head.startswith(">") else "left")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._out.print(table)


def _facts(told: Told, budget: int) -> Iterator[tuple[str, str]]:
    entry = told.entry
    doubt = f", {entry.calls_in_doubt} of them in doubt" if entry.calls_in_doubt else ""
    yield "retries", f"{entry.attempt} of {budget} used before this job failed, {entry.calls_counted} for it{doubt}"
    yield "claims", str(entry.fence)
    if entry.new_job_id:
        yield "new job", entry.new_job_id
    if entry.detail:
        yield "detail" if entry.state == "rejected" else "earlier", entry.detail
    if entry.not_before:
        yield "not before", clock(entry.not_before)
    yield "written", clock(entry.updated_at)
    yield "kept until", clock(entry.expire_at)
    yield "next", told.next


def summary(run: Redrive, found: Found, subscription: str, end: str) -> dict[str, Any]:
    """A run as JSON."""
    return {
        "subscription": subscription,
        "lookedAt": found.looked_at,
        "complete": found.complete,
        "reasons": [
            {
                "reason": reason,
                "source": source,
                "messages": tally.found,
                "matching": tally.wanted,
                "users": len(tally.users),
                "oldest": timestamp(tally.oldest) if tally.oldest else "",
                "newest": timestamp(tally.newest) if tally.newest else "",
            }
            for (reason, source), tally in found.tallies.items()
        ],
        "letters": [_letter(letter) for letter in found.letters],
        "end": end,
        "putBack": [letter.message_id for letter in run.put_back],
        "left": [{"messageId": left.letter.message_id, "why": left.why} for left in run.left],
    }


def _letter(letter: Letter) -> dict[str, Any]:
    return {
        "messageId": letter.message_id,
        "arrivedAt": timestamp(letter.arrived_at),
        "reason": letter.reason,
        "detail": letter.detail,
        "archiveJobId": letter.job_id,
        "userId": letter.user_id,
        "source": letter.source,
        "deliveries": letter.deliveries,
    }


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def printable(text: str) -> str:
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _NO_LIMIT
    return console
