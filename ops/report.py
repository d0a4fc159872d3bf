"""What a person sees: colours and progress on a terminal, plain lines elsewhere, JSON for programs.

What comes from messages, from the ledger or from Google is shown without its control characters, line breaks and
direction marks, which could tell a terminal anything.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from handlers.domain.events import timestamp
from handlers.ports import Unreadable, VersionedEntry
from ops.checks import Line, State
from ops.forget import LIVES_ON, Traces
from ops.listing import Listing
from ops.messages import UNREADABLE, PendingMessage
from ops.redrive import ScanResult, Skipped
from ops.story import Told, clock, span

_STATES = {"retried": "green", "rejected": "red", "claimed": "yellow", "deferred": "cyan", "open": "yellow"}
_MARKS = {State.OK: ("✓", "green"), State.FAILED: ("✗", "red"), State.NOT_CHECKED: ("?", "yellow")}
_NO_LIMIT = 100_000  # columns, where nobody reads along: lines are not to be broken


class Work(Protocol):
    """What is done with the messages that match."""

    handled: list[PendingMessage]
    skipped: list[Skipped]

    async def run(self, messages: list[PendingMessage], done: Callable[[int], object]) -> None: ...


class Report:
    """Results go to standard output, progress to standard error."""

    def __init__(self) -> None:
        self._out, self._err = (_console(stderr=stderr) for stderr in (False, True))

    def say(self, text: str, style: str = "") -> None:
        self._out.print(Text(printable(text), style))

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

    # Redrive and discard

    def scanned(self, result: ScanResult, subscription: str, now: datetime, show: int) -> None:
        """What a scan brought: counted, and the first of what matches one by one."""
        matching = sum(count.matching for count in result.counts.values())
        more = "" if result.complete else ", and there are more"
        self.say(f"{subscription}: {result.scanned} messages, {matching} matching{more}", "bold")
        if result.counts:
            self._counts(result, now)
        else:
            self.say("What another run or program has in hand right now does not show.")
        would = {reason: count.by_name for (reason, _), count in result.counts.items() if reason != UNREADABLE}
        named = [f"--reason {reason} ({number})" for reason, number in sorted(would.items()) if number]
        if named and not matching:
            self.say(f"Would match: {', '.join(named)}")
        if result.messages and show:
            self.say("")
            self._messages(result.messages[:show], now)
            if len(result.messages) > show:
                self.say(f"… and {len(result.messages) - show} more (--show)")
        self.say("")

    def ended(self, work: Work, result: ScanResult, done: str, end: str) -> None:
        """How a run ended: done, looked (and no more), stopped or failed. `done` is what becomes of the messages."""
        if end == "stopped":
            self.say(f"Stopped. What was not {done.split(' on ', maxsplit=1)[0]} is available again.", "yellow")
        if end == "looked" and result.messages:
            self.say(f"Nothing was changed. With --go, {len(result.messages)} of these are {done}.")
        elif end == "done" or work.handled:
            self.say(f"{len(work.handled)} of {len(result.messages)} {done}.", "bold")
        for skipped in work.skipped:
            message = skipped.message
            self.say(f"Skipped: message {message.message_id}, job {message.job_id or '?'}: {skipped.why}.", "red")

    def _counts(self, result: ScanResult, now: datetime) -> None:
        sources = any(source for _, source in result.counts)
        heads = ["reason", *(["from"] if sources else []), ">messages", ">matching", ">users", ">oldest", ">newest"]
        rows = []
        for (reason, source), count in sorted(result.counts.items(), key=lambda item: -item[1].found):
            ages = [span(now - moment) if moment else "" for moment in (count.oldest, count.newest)]
            numbers = [str(number) for number in (count.found, count.matching, len(count.users))]
            rows.append([reason, *([source] if sources else []), *numbers, *ages])
        self._table(heads, rows)

    def _messages(self, messages: list[PendingMessage], now: datetime) -> None:
        dead = any(message.deliveries for message in messages)
        heads = [">age", "reason", "job", "user", "credential", ">deliveries" if dead else "detail"]
        self._table(
            heads,
            (
                [
                    span(now - message.arrived_at),
                    f"{message.reason} {message.cause}".strip(),
                    message.job_id,
                    message.user_id,
                    message.credential_id,
                    str(message.deliveries) if dead else message.detail,
                ]
                for message in messages
            ),
        )

    # The ledger

    def story(self, chain: list[Told | Unreadable], job_id: str, budget: int) -> None:
        """A chain, its jobs from the first to the newest."""
        entries = [told.entry for told in chain if isinstance(told, Told)]
        asked = next((entry for entry in entries if entry.job_id == job_id), None)
        if asked:
            self.say(f"Job {job_id} of user {asked.user_id}, credential {asked.credential_id}", "bold")
            ids = [told.entry.job_id if isinstance(told, Told) else told.job_id for told in chain]
            ids += filter(None, [entries[-1].new_job_id])
            if asked.root_job_id not in ids:
                ids.insert(0, f"{asked.root_job_id} (not in the ledger)")
            self.say(f"Chain {' → '.join(ids)}, with {entries[-1].retries_used} of {budget} retries used")
        for told in chain:
            if isinstance(told, Told):
                self._job(told, budget, asked=told.entry.job_id == job_id and len(chain) > 1)
            else:
                self.say("")
                self.say(f"{told.detail} Every delivery of this job is a fault until it is mended.", "red")

    def _job(self, told: Told, budget: int, *, asked: bool) -> None:
        entry = told.entry
        state = f"rejected: {entry.reason} {entry.cause}".strip() if entry.state == "rejected" else entry.state
        title = Text.assemble("\n", (printable(entry.job_id), "bold"), "  ", (printable(state), _STATES[entry.state]))
        self._out.print(title.append("  ◄ asked for" if asked else ""))
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim")
        facts.add_column()
        for name, value in _facts(told, budget):
            facts.add_row(f"  {name}", Text(printable(value)))
        self._out.print(facts)

    def listing(self, listing: Listing, now: datetime) -> None:
        self.say(", ".join(f"{number} {state}" for state, number in listing.counts.items()), "bold")
        if listing.entries:
            self.say("")
            heads = [">age", "state", "reason", "job", "user", "credential", ">used", ">in doubt", "not before"]
            self._table(heads, (_row(found, now) for found in listing.entries))
        if not listing.complete:
            self.say("… and there are more: --user, --reason, --state")
        for one in listing.unreadable:
            self.say(one.detail, "red")

    def traces(self, traces: Traces, *, gone: bool) -> None:
        """What there is, or was, of a user."""
        for name in traces.secrets or ["none"]:
            self.say(f"Secret: {name}")
        self.say(f"Ledger entries: {len(traces.entries)}; waiting looks: {len(traces.looks)}")
        if traces.others:
            self.say(f"This user's events name further credentials: {', '.join(traces.others)}. Theirs? --credential")
        self.say("Deleted." if gone else "Nothing was changed. With --go, all of these are deleted for good.", "bold")
        self.say("")
        for text in LIVES_ON:
            self.say(text)

    # The doctor

    def checked(self, lines: list[Line]) -> None:
        for line in lines:
            mark, style = _MARKS[line.state]
            said = f"{line.subject}: " if line.detail else line.subject
            told = Text.assemble((mark, style), f" {printable(said)}{printable(line.detail)}")
            self._out.print(told.append(f" → {printable(line.remedy)}" if line.remedy else ""))

    def _table(self, heads: list[str], rows: Iterable[list[str]]) -> None:
        table = Table(box=box.SIMPLE_HEAD if self._out.is_terminal else None, pad_edge=False, header_style="dim")
        for head in heads:
            table.add_column(head.lstrip(">").upper(), justify="right" if head.startswith(">") else "left")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._out.print(table)


def _facts(told: Told, budget: int) -> Iterator[tuple[str, str]]:
    entry = told.entry
    doubt = f", {entry.unconfirmed_calls} of them in doubt" if entry.unconfirmed_calls else ""
    before = f"{entry.retries_before} of {budget} used before this job failed"
    before += f" ({entry.in_doubt_before} in doubt)" if entry.in_doubt_before else ""
    yield "retries", f"{before}, {entry.calls_made} for it{doubt}"
    yield "claims", str(entry.claim_count)
    if entry.new_job_id:
        yield "new job", entry.new_job_id
    if entry.detail:
        yield "detail" if entry.state == "rejected" else "earlier", entry.detail
    if entry.not_before:
        yield "not before", clock(entry.not_before)
    yield "written", clock(entry.updated_at)
    yield "kept until", clock(entry.expire_at)
    yield "next", told.next


def _row(found: VersionedEntry, now: datetime) -> list[str]:
    entry = found.entry
    return [
        span(now - found.written_at),
        entry.state,
        f"{entry.reason} {entry.cause}".strip(),
        entry.job_id,
        entry.user_id,
        entry.credential_id,
        str(entry.retries_used),
        str(entry.calls_in_doubt),
        clock(entry.not_before) if entry.not_before else "",
    ]


def run_as_json(work: Work, result: ScanResult, subscription: str, done: str, end: str) -> dict[str, Any]:
    """A redrive or a discard. `done` is the name of what was done."""
    return {
        "subscription": subscription,
        "scanned": result.scanned,
        "complete": result.complete,
        "reasons": [
            {
                "reason": reason,
                "source": source,
                "messages": count.found,
                "matching": count.matching,
                "matchingByName": count.by_name,
                "users": len(count.users),
                "oldest": timestamp(count.oldest) if count.oldest else "",
                "newest": timestamp(count.newest) if count.newest else "",
            }
            for (reason, source), count in result.counts.items()
        ],
        "messages": [_message(message) for message in result.messages],
        "end": end,
        done: [message.message_id for message in work.handled],
        "skipped": [{"messageId": skipped.message.message_id, "why": skipped.why} for skipped in work.skipped],
    }


def _message(message: PendingMessage) -> dict[str, Any]:
    return {
        "messageId": message.message_id,
        "arrivedAt": timestamp(message.arrived_at),
        "reason": message.reason,
        "cause": message.cause,
        "detail": message.detail,
        "archiveJobId": message.job_id,
        "userId": message.user_id,
        "credentialId": message.credential_id,
        "source": message.source,
        "deliveries": message.deliveries,
    }


def printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _NO_LIMIT
    return console
