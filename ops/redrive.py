"""The redrive: what was given up on, or rejected, goes back on the failed topic for another try.

look: pull everything, count it, keep what is wanted in hand
      │
put back, one by one:
      reopen the ledger's entry, if the job would only be rejected again ─► publish ─► acknowledge

Whatever ends it, nothing is lost: a message is acknowledged when Pub/Sub has accepted its event, and is available again
otherwise. An event that was put back twice, by two runs at once or one that died, is one more delivery of a job that
the ledger knows: it costs nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from handlers.entries import REVISABLE
from handlers.events import timestamp
from handlers.ledger import Conflict, Store, reopen
from handlers.outcomes import Unavailable
from handlers.ports import Publisher
from ops.leases import Leases
from ops.letters import Letter, Read, Wanted

MOST_LOOKED_AT = 100_000  # messages in one run: each is in hand until all were seen
MOST_BYTES = 200_000_000  # of events in hand
_AT_ONCE = 50  # events on their way at the same time
_PATIENCE_SECONDS = 60.0  # with the ledger and the topic, for one event
_PAUSE_SECONDS = 0.5


@dataclass(slots=True)
class Tally:
    """The letters of one reason."""

    found: int = 0
    wanted: int = 0
    users: set[str] = field(default_factory=set)
    oldest: datetime | None = None
    newest: datetime | None = None

    def count(self, letter: Letter, *, wanted: bool) -> None:
        self.found += 1
        self.wanted += wanted
        self.users |= {letter.user_id} - {""}
        self.oldest = min(self.oldest or letter.arrived_at, letter.arrived_at)
        self.newest = max(self.newest or letter.arrived_at, letter.arrived_at)


@dataclass(slots=True)
class Found:
    """What a look brought. `complete` is False where there was too much to see it all."""

    letters: list[Letter] = field(default_factory=list)  # the wanted ones up to the limit, the oldest first
    tallies: dict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))  # by reason and source
    looked_at: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Left:
    """A letter that was not put back, and why."""

    letter: Letter
    why: str


@dataclass(slots=True)
class Redrive:
    """One run over one subscription. What it has done stands in `put_back` and `left` at any time."""

    leases: Leases
    read: Read
    failed: Publisher
    store: Store | None
    now: Callable[[], datetime]
    put_back: list[Letter] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    grace: float = 10.0  # seconds for what is on its way when the run is stopped

    async def look(self, wanted: Wanted, *, limit: int, patience: float, seen: Callable[[int], object]) -> Found:
        """See what is there, until nothing new came for `patience` seconds. Raises Unavailable or Misconfigured.

        What is not wanted stays in hand until all was seen, or it would be handed out again and again instead of what
        lies behind it; then it is released at once.
        """
        found, size = Found(), 0
        while messages := await self.leases.pull(patience):
            for letter in map(self.read, messages):
                meant = wanted(letter, self.now())
                found.tallies[letter.reason, letter.source].count(letter, wanted=meant)
                if meant and len(found.letters) < limit and size < MOST_BYTES:
                    found.letters.append(letter)
                    size += len(letter.data)
            found.looked_at += len(messages)
            seen(found.looked_at)
            if found.looked_at >= MOST_LOOKED_AT:
                found.complete = False
                break
        found.letters.sort(key=lambda letter: letter.arrived_at)
        await self.leases.release(self.leases.held - {letter.message_id for letter in found.letters})
        return found

    async def run(self, letters: list[Letter], *, rate: float, done: Callable[[int], object]) -> None:
        """Put these back, `rate` in a second at most. Raises Unavailable or Misconfigured, at the first such fault.

        When it is cancelled, what is on its way gets there first.
        """
        clock = asyncio.get_running_loop().time
        turn, under_way = clock(), set[asyncio.Task[None]]()
        try:
            for letter in letters:
                await asyncio.sleep(turn - clock())
                turn = max(turn, clock()) + 1 / rate
                if len(under_way) >= _AT_ONCE:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in under_way if task.done()]:
                    under_way.remove(task)
                    task.result()
                done(len(self.put_back) + len(self.left))
                under_way.add(asyncio.create_task(self._one(letter)))
            if under_way:
                await asyncio.wait(under_way)
            for task in under_way:
                task.result()
        finally:
            if under_way:
                _, late = await asyncio.wait(under_way, timeout=self.grace)
                for task in late:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)
            done(len(self.put_back) + len(self.left))

    async def _one(self, letter: Letter) -> None:
        if why := self._hopeless(letter):
            self.left.append(Left(letter, why))
            return
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                known = await self._reopened(letter)
                if known:
                    await self.failed.publish(letter.data, letter.attributes)
        except TimeoutError:
            raise Unavailable(f"no answer within {_PATIENCE_SECONDS:g} s") from None
        if not known:
            self.left.append(Left(letter, "the ledger knows no such job: is this the function's database?"))
            return
        self.put_back.append(letter)
        await self.leases.acknowledge(letter.message_id)

    def _hopeless(self, letter: Letter) -> str:
        if not letter.data and not letter.attributes:
            return "it is empty, and Pub/Sub takes no empty message"
        if letter.closed and self.store is None:
            return "its job is answered for good in the function's own memory (RETRY_LEDGER=memory)"
        return ""

    async def _reopened(self, letter: Letter) -> bool:
        """Whether the function will now look at this job again. False if it is unknown to a ledger that must know it.

        A job that was claimed or answered anew since this rejection needs no reopening: it has had its other try.
        """
        while letter.closed and self.store:
            try:
                stored = await self.store.load(letter.job_id)
                if stored is None:
                    return False
                entry = stored.entry
                # of a job that was rejected again and again for the same reason, any of the letters stands for all
                same = letter.reason in REVISABLE or timestamp(entry.updated_at) == letter.rejected_at
                if entry.state == "rejected" and entry.reason == letter.reason and same:
                    await reopen(self.store, stored, self.now())
                return True
            except Conflict:
                continue
            except Unavailable:
                await asyncio.sleep(_PAUSE_SECONDS)
        return True
