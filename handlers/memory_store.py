"""The ledger's entries in the memory of one process: local use and tests."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from handlers.entries import Entry
from handlers.ledger import Conflict, Stored


class MemoryStore:
    """A Store; its clock is the event loop's."""

    def __init__(self) -> None:
        self._stored: dict[str, tuple[Entry, int, float]] = {}

    async def load(self, job_id: str) -> Stored | None:
        if job_id not in self._stored:
            return None
        entry, version, written_at = self._stored[job_id]
        return Stored(entry, version, asyncio.get_running_loop().time() - written_at)

    async def due(self, now: datetime, limit: int) -> list[Stored]:
        waiting = [job_id for job_id, (entry, _, _) in self._stored.items() if entry.not_before]
        due = [stored for job_id in waiting if (stored := await self.load(job_id)) and _not_before(stored) <= now]
        return sorted(due, key=_not_before)[:limit]

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        _, current, _ = self._stored.get(entry.job_id, (None, None, None))
        if current != version or (link and link.job_id in self._stored):
            raise Conflict
        written_at = asyncio.get_running_loop().time()
        for written in filter(None, (entry, link)):
            self._stored[written.job_id] = (written, (version or 0) + 1, written_at)
        return (version or 0) + 1


def _not_before(stored: Stored) -> datetime:
    return stored.entry.not_before or datetime.max.replace(tzinfo=UTC)
