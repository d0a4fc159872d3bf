"""The scheduled use case: jobs whose cooldown is over go back to the failed topic.

    due in the ledger ─► open ─► publish the event as it came ─► no longer due

An event that is published twice, because a run died or two ran at once, is one more delivery of a job
that the ledger knows: it costs nothing.
"""

import asyncio
from dataclasses import dataclass

import msgspec

from handlers.ledger import Ledger, Stored
from handlers.outcomes import Broken, Misconfigured, NotNow, Resumed, Unavailable
from handlers.ports import Publisher

_AT_ONCE = 50  # deferrals in hand at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeDeferred:
    """`limit` is how many deferrals one run puts back, `deadline` the seconds that it may take for them."""

    ledger: Ledger
    failed: Publisher
    limit: int
    deadline: float

    async def __call__(self) -> Resumed | NotNow | Broken:
        """One run. What it raises is a bug. What it leaves is due again."""
        try:
            return Resumed(await self._all())
        except Unavailable as fault:
            return NotNow(str(fault))
        except TimeoutError:
            return NotNow("not over in time")
        except Misconfigured as fault:
            return Broken(str(fault))

    async def _all(self) -> int:
        faults: list[BaseException] = []
        async with asyncio.timeout(self.deadline):
            due = await self.ledger.due(self.limit)
            for start in range(0, len(due), _AT_ONCE):
                putting = (self._put_back(stored) for stored in due[start : start + _AT_ONCE])
                faults += [end for end in await asyncio.gather(*putting, return_exceptions=True) if end]
        if faults:
            raise faults[0]  # when all the others are done: one that cannot be published holds up nobody
        return len(due)

    async def _put_back(self, stored: Stored) -> None:
        attributes = msgspec.json.decode(stored.entry.attributes or "{}", type=dict[str, str])
        await self.ledger.put_back(stored, lambda: self.failed.publish(stored.entry.event, attributes))
