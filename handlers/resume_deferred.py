"""The scheduled use case: jobs whose cooldown is over go back to the failed topic, watched ones to the started topic.

due in the ledger, lease and pause over ─► open ─► publish the event as it was kept ─► no longer due

An event that is published twice, because a run died or two ran at once, is one more delivery of a job that the ledger
knows: it costs nothing.
"""

import asyncio

import msgspec
from msgspec import Struct

from handlers.domain.outcomes import Misconfigured, Outcome, Resumed, StepError, Transient
from handlers.ledger import Ledger
from handlers.ports import Page, Publisher, Unreadable, VersionedEntry
from handlers.steps import ANSWERED, PUBLISHED, Deadlines
from handlers.telemetry.logging import LogLine, log

MAX_CONCURRENCY = 50  # entries in hand at the same time: each may hold a large event
_MAX_FAULTS = 100  # after so many it is not for single events that it fails


class ResumeDeferred(Struct, frozen=True, kw_only=True):
    """`limit` is how many entries one run puts back, `deadline` the seconds that it may take for them."""

    ledger: Ledger
    topic: Publisher
    limit: int
    deadline: float

    async def __call__(self, line: LogLine) -> Outcome:
        """One run. Raises StepError; any other exception is a bug. Unpublished entries stay due."""
        deadlines = Deadlines(self.deadline, line)
        tried = put_back = 0
        faults: list[BaseException] = []
        page = Page([], None)
        while tried < self.limit and len(faults) < _MAX_FAULTS and deadlines.seconds_left(ANSWERED) > 0:
            size = min(MAX_CONCURRENCY, self.limit - tried)
            page = await deadlines.step("due", PUBLISHED, self.ledger.due(size, page.following))
            for one in page.entries:
                if isinstance(one, Unreadable):
                    log.warning(one.detail)
            entries = [one for one in page.entries if isinstance(one, VersionedEntry)]
            ends = await deadlines.step("publish", PUBLISHED, self._put_all_back(entries))
            tried += len(entries)
            put_back += ends.count(True)
            faults += [end for end in ends if isinstance(end, BaseException)]
            if page.following is None:
                break
        if faults:
            line.failed("publish")
            # when all others are done: one that cannot be published delays nobody. A bug first, then a fault of ours
            raise min(faults, key=lambda fault: (isinstance(fault, StepError), isinstance(fault, Transient)))
        return Resumed(put_back)

    async def _put_all_back(self, found: list[VersionedEntry]) -> list[bool | BaseException]:
        """A coroutine, so that its tasks begin within the step, and have its span."""
        return await asyncio.gather(*map(self._put_back, found), return_exceptions=True)

    async def _put_back(self, found: VersionedEntry) -> bool:
        attributes = msgspec.json.decode(found.entry.attributes or "{}", type=dict[str, str])

        async def publish() -> None:
            try:
                await self.topic.publish(found.entry.event, attributes)
            except Misconfigured:
                if not attributes:
                    raise
                # perhaps it is those that are refused: whoever calls over HTTP can send what no topic takes
                await self.topic.publish(found.entry.event, {})

        return await self.ledger.put_back(found, publish)
