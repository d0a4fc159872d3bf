"""The ledger's entries in the memory of one process: local use and tests."""

from collections.abc import Callable
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Any

from handlers.domain.ledger_entry import LedgerEntry
from handlers.ports import Conflict, Page, VersionedEntry


class MemoryStore:
    """A Store. `now` is its clock."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._stored: dict[str, tuple[LedgerEntry, int, datetime]] = {}

    async def load(self, job_id: str) -> VersionedEntry | None:
        if job_id not in self._stored:
            return None
        return VersionedEntry(*self._stored[job_id], self._now())

    async def due(self, before: datetime, limit: int, start: Any = None) -> Page:
        waiting = ((entry.not_before, job_id) for job_id, (entry, _, _) in self._stored.items() if entry.not_before)
        longest = nsmallest(limit, (one for one in waiting if one[0] <= before and (start is None or one > start)))
        following = longest[-1] if len(longest) == limit else None
        return Page([VersionedEntry(*self._stored[job_id], self._now()) for _, job_id in longest], following)

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        _, current, _ = self._stored.get(entry.job_id, (None, None, None))
        if current != version or (link and link.job_id in self._stored):
            raise Conflict
        for written in filter(None, (entry, link)):
            self._stored[written.job_id] = (written, (version or 0) + 1, self._now())
        return VersionedEntry(*self._stored[entry.job_id], self._now())
