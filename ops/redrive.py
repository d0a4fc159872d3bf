"""Redrive and discard: what was given up on, or rejected, goes back on the failed topic, or is thrown away.

scan: pull everything, count it, keep what matches in hand
      │
put back, one by one:
      reopen the ledger's entry, where it would only repeat its rejection ─► publish ─► acknowledge

Whatever ends it, nothing is lost: a message is acknowledged when Pub/Sub has accepted its event, and is available again
otherwise. An event that was put back twice, by two runs at once or one that died, is one more delivery of a job that
the ledger knows: it costs nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from handlers.domain.events import parse_failed, timestamp
from handlers.domain.outcomes import Misconfigured, Reason, Transient
from handlers.ledger import reopen
from handlers.ports import Conflict, Publisher, Store, UnreadableEntry
from ops.leases import MAX_ACK_IDS, Leases
from ops.messages import Filter, PendingMessage, Read

MAX_SCANNED = 100_000  # messages in one run: each is in hand until all were seen
MAX_BYTES = 200_000_000  # of events in hand
_MAX_CONCURRENCY = 50  # events on their way at the same time
_MAX_FAULTS = 5  # after so many it is not for single messages that they cannot be published
_TIMEOUT = 60.0  # seconds with the ledger and the topic, for one event
_PAUSE_SECONDS = 0.5


@dataclass(slots=True)
class Count:
    """The messages of one reason. `by_name` would match if the reason were named."""

    found: int = 0
    matching: int = 0
    by_name: int = 0
    users: set[str] = field(default_factory=set)
    oldest: datetime | None = None
    newest: datetime | None = None

    def add(self, message: PendingMessage, *, matches: bool, fits: bool) -> None:
        self.found += 1
        self.matching += matches
        self.by_name += fits and not matches
        self.users |= {message.user_id} - {""}
        self.oldest = min(self.oldest or message.arrived_at, message.arrived_at)
        self.newest = max(self.newest or message.arrived_at, message.arrived_at)


@dataclass(slots=True)
class ScanResult:
    """What a scan brought. `seen_all` is False where there was too much to see it all."""

    messages: list[PendingMessage] = field(default_factory=list)  # what matches, up to the limit, the oldest first
    counts: dict[tuple[str, str], Count] = field(default_factory=lambda: defaultdict(Count))  # by reason and source
    scanned: int = 0
    seen_all: bool = True

    @property
    def matching(self) -> int:
        """How many match, those beyond the limit included."""
        return sum(count.matching for count in self.counts.values())

    @property
    def complete(self) -> bool:
        """Whether `messages` are all that match."""
        return self.seen_all and self.matching == len(self.messages)


async def scan(
    leases: Leases,
    read: Read,
    wanted: Filter,
    now: Callable[[], datetime],
    *,
    limit: int,
    patience: float,
    seen: Callable[[int], object],
) -> ScanResult:
    """See what is there, until nothing of it came for `patience` seconds. Raises Transient or Misconfigured.

    What is published meanwhile does not keep it going: with a rejection every few seconds it would never end.

    What does not match stays in hand until all was seen, or it would be handed out again and again instead of what lies
    behind it; then it is released at once.
    """
    result, size, begun = ScanResult(), 0, now()
    clock = asyncio.get_running_loop().time
    until = clock() + patience
    while pulled := await leases.pull(patience):
        for message in map(read, pulled):
            if message.arrived_at <= begun:
                until = clock() + patience
            matches, fits = wanted.matches(message, now()), wanted.fits(message, now())
            result.counts[message.reason, message.source].add(message, matches=matches, fits=fits)
            if matches and len(result.messages) < limit and size < MAX_BYTES:
                result.messages.append(message)
                size += len(message.data)
        result.scanned += len(pulled)
        seen(result.scanned)
        if result.scanned >= MAX_SCANNED or clock() >= until:
            result.seen_all = False
            break
    result.messages.sort(key=lambda message: message.arrived_at)
    await leases.release(leases.held - {message.message_id for message in result.messages})
    return result


@dataclass(frozen=True, slots=True)
class Skipped:
    """A message that was not put back, and why."""

    message: PendingMessage
    why: str


@dataclass(slots=True)
class Discard:
    """Acknowledges messages, and nothing else: they are gone."""

    leases: Leases
    handled: list[PendingMessage] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def look(self, messages: list[PendingMessage]) -> None:
        """Anything can be thrown away."""

    async def run(self, messages: list[PendingMessage], done: Callable[[int], object]) -> None:
        """Raises Transient or Misconfigured."""
        for start in range(0, len(messages), MAX_ACK_IDS):
            some = messages[start : start + MAX_ACK_IDS]
            try:
                await self.leases.acknowledge([message.message_id for message in some])
            finally:  # it may be stopped with this done
                held = self.leases.held
                self.handled += [message for message in some if message.message_id not in held]
            done(len(self.handled))


@dataclass(slots=True)
class Redrive:
    """One run over one subscription, `rate` messages in a second at most.

    What it has put back stands in `handled`, and what not in `skipped`, at any time.
    """

    leases: Leases
    failed: Publisher
    store: Store | None
    now: Callable[[], datetime]
    rate: float
    budget: int  # RETRY_BUDGET
    handled: list[PendingMessage] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    grace: float = 10.0  # seconds for what is on its way when the run is stopped
    faults: list[Misconfigured] = field(default_factory=list)

    def look(self, messages: list[PendingMessage]) -> None:
        """Say of which it is certain that they would be skipped."""
        self.skipped += [Skipped(message, message.obstacle) for message in messages if message.obstacle]

    async def run(self, messages: list[PendingMessage], done: Callable[[int], object]) -> None:
        """Put these back. Raises Transient or Misconfigured where it cannot go on.

        When it is cancelled, what is on its way gets there first.
        """
        clock = asyncio.get_running_loop().time
        turn, under_way = clock(), set[asyncio.Task[None]]()
        try:
            for message in messages:
                await asyncio.sleep(turn - clock())
                turn = max(turn, clock()) + 1 / self.rate
                if len(under_way) >= _MAX_CONCURRENCY:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in under_way if task.done()]:
                    under_way.remove(task)
                    task.result()
                done(len(self.handled) + len(self.skipped))
                under_way.add(asyncio.create_task(self._put_back(message)))
            if under_way:
                await asyncio.wait(under_way)
            for task in under_way:
                task.result()
            if self.faults and not self.handled:
                raise self.faults[0]
        finally:
            if under_way:
                _, late = await asyncio.wait(under_way, timeout=self.grace)
                for task in late:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)
            done(len(self.handled) + len(self.skipped))

    async def _put_back(self, message: PendingMessage) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                why = message.obstacle or await self._reopen(message)
                if not why:
                    await self.failed.publish(message.data, message.attributes)
        except TimeoutError:
            raise Transient(f"no answer within {_TIMEOUT:g} s") from None
        except UnreadableEntry as error:
            why = str(error)
        except Misconfigured as fault:  # perhaps this very message's
            self.faults.append(fault)
            if len(self.faults) >= _MAX_FAULTS:
                raise
            why = str(fault)
        if why:
            self.skipped.append(Skipped(message, why))
            return
        self.handled.append(message)
        await self.leases.acknowledge([message.message_id])

    async def _reopen(self, message: PendingMessage) -> str:
        """Let the function decide on this job anew. Gives why that is not to be had."""
        if not message.reopens:
            return ""
        if self.store is None:
            return "its job is answered for good in the function's own memory (RETRY_LEDGER=memory)"
        used_up = message.reason == Reason.RETRY_BUDGET_EXHAUSTED
        if used_up and parse_failed(message.data).retries_before >= self.budget:
            return "its event's own `attempt` uses up the budget: publish it with the right one"
        while True:
            try:
                found = await self.store.load(message.job_id)
                if found is None and used_up:
                    return ""  # there is nothing that would repeat the rejection
                if found is None:
                    return "the ledger knows no such job: is this the function's database?"
                entry = found.entry
                # a budget that is used up is rejected anew at each event, so any of its rejections stands for all
                same = used_up or timestamp(entry.updated_at) == message.rejected_at
                if entry.state == "rejected" and entry.reason == message.reason and same:
                    await reopen(self.store, found, self.now())
            except Conflict:
                continue
            except Transient:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            return ""  # reopened; or claimed or answered anew since, so it has had its other try
