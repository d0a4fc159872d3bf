"""The scheduled use case: jobs whose cooldown is over go back to the failed topic.

due in the ledger ─► open ─► publish the event as it was kept ─► no longer due

An event that is published twice, because a run died or two ran at once, is one more delivery of a job that the ledger
knows: it costs nothing.
"""

import asyncio

import msgspec
from msgspec import Struct

from handlers.domain.outcomes import Misconfigured, Outcome, Resumed, RetryLater, faults_as_outcomes
from handlers.ledger import Ledger
from handlers.ports import DeliveryLog, Publisher, Unreadable, VersionedEntry

MAX_CONCURRENCY = 50  # entries in hand at the same time: each may hold a large event
_STOP_STARTING_AT = 7 / 9  # of a run's time
_MAX_FAULTS = 100  # after so many it is not for single events that it fails


class ResumeDeferred(Struct, frozen=True, kw_only=True):
    """`limit` is how many entries one run puts back, `deadline` the seconds that it may take for them."""

    ledger: Ledger
    topic: Publisher
    limit: int
    deadline: float

    @faults_as_outcomes
    async def __call__(self, log: DeliveryLog) -> Outcome:
        """One run. What it raises is a bug. Unpublished entries stay due."""
        try:
            return Resumed(await self._run(log))
        except TimeoutError:
            return RetryLater("not over in time")

    async def _run(self, log: DeliveryLog) -> int:
        """How many were put back."""
        clock = asyncio.get_running_loop().time
        faults: list[BaseException] = []
        unreadable: dict[str, str] = {}
        tried: set[str] = set()
        stop_at = clock() + self.deadline * _STOP_STARTING_AT
        wanted = MAX_CONCURRENCY
        async with asyncio.timeout(self.deadline):
            while len(tried) < self.limit and len(faults) < _MAX_FAULTS and clock() < stop_at:
                with log.step("due"):
                    due = await self.ledger.due(wanted)
                unreadable |= {one.job_id: one.detail for one in due if isinstance(one, Unreadable)}
                entries = [one for one in due if isinstance(one, VersionedEntry)]
                fresh = [one for one in entries if one.entry.job_id not in tried][: self.limit - len(tried)]
                if not fresh and len(due) < wanted:
                    break
                wanted = MAX_CONCURRENCY + len(due) - len(fresh)  # what stays due is in the way
                tried |= {one.entry.job_id for one in fresh}
                with log.step("publish"):
                    ended = await asyncio.gather(*map(self._put_back, fresh), return_exceptions=True)
                faults += [end for end in ended if end]
        for detail in unreadable.values():
            log.warning(detail)
        if faults:
            log.failed("publish")
            raise faults[0]  # when all others are done: one that cannot be published delays nobody
        return len(tried)

    async def _put_back(self, found: VersionedEntry) -> None:
        attributes = msgspec.json.decode(found.entry.attributes or "{}", type=dict[str, str])

        async def publish() -> None:
            try:
                await self.topic.publish(found.entry.event, attributes)
            except Misconfigured:
                if not attributes:
                    raise
                # perhaps it is those that are refused: with a trace's, a message may have more than Pub/Sub takes
                await self.topic.publish(found.entry.event, {})

        await self.ledger.put_back(found, publish)
