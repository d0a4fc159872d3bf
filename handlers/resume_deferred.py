"""The scheduled use case: jobs whose cooldown is over go back to the failed topic.

    due in the ledger ─► open ─► publish the event as it came ─► no longer due

An event that is published twice, because a run died or two ran at once, is one more delivery of a job
that the ledger knows: it costs nothing.
"""

import asyncio

import msgspec
from msgspec import Struct

from handlers.ledger import Ledger, Stored
from handlers.outcomes import Broken, Misconfigured, NotNow, Resumed, Unavailable, put_off
from handlers.ports import Publisher
from handlers.telemetry import Journal

_AT_ONCE = 50  # deferrals in hand at the same time
_LAST = 7 / 9  # of a run's time, after which it begins with no others
_MOST_FAULTS = 100  # after so many it is not for single events that it fails


class ResumeDeferred(Struct, frozen=True, kw_only=True):
    """`limit` is how many deferrals one run puts back, `deadline` the seconds that it may take for them."""

    ledger: Ledger
    failed: Publisher
    limit: int
    deadline: float

    async def __call__(self, journal: Journal) -> Resumed | NotNow | Broken:
        """One run. What it raises is a bug. What it leaves is due again."""
        try:
            return Resumed(await self._all(journal))
        except (Unavailable, Misconfigured) as fault:
            return put_off(fault)
        except TimeoutError:
            return NotNow("not over in time")

    async def _all(self, journal: Journal) -> int:
        """How many were put back: a few at a time, since each may hold a large event, and some stay due for now."""
        clock = asyncio.get_running_loop().time
        faults: list[BaseException] = []
        tried: set[str] = set()
        still_due, last = 0, clock() + self.deadline * _LAST
        async with asyncio.timeout(self.deadline):
            while len(tried) < self.limit and len(faults) < _MOST_FAULTS and clock() < last:
                with journal.step("due"):
                    due = await self.ledger.due(_AT_ONCE + still_due)
                fresh = [stored for stored in due if stored.entry.job_id not in tried][: self.limit - len(tried)]
                if not fresh and len(due) < _AT_ONCE + still_due:
                    break
                still_due = len(due) - len(fresh)
                tried |= {stored.entry.job_id for stored in fresh}
                with journal.step("publish"):
                    ended = await asyncio.gather(*map(self._put_back, fresh), return_exceptions=True)
                faults += [end for end in ended if end]
        if faults:
            journal.failed("publish")
            raise faults[0]  # when all the others are done: one that cannot be published holds up nobody
        return len(tried)

    async def _put_back(self, stored: Stored) -> None:
        attributes = msgspec.json.decode(stored.entry.attributes or "{}", type=dict[str, str])
        await self.ledger.put_back(stored, lambda: self.failed.publish(stored.entry.event, attributes))
