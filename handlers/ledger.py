"""The retry ledger: one entry per failed job, so that no delivery makes Google retry it a second time.

    delivery A   claim ─ fence 1 ─────── POST ─────── record ✓
    delivery B         claim: held → 503       claim: answered → republish

    delivery A   claim ─ fence 1 ─── POST ✗ (process dies)
    delivery B                          lease lapses ─ claim ─ fence 2, one call in doubt ─ POST ─ record ✓
    delivery A   (was only frozen, wakes) ───────────────────────────────────────── record ✗ superseded

A lease is measured as the age of the claim on the store's own clock, never by comparing two instances' clocks.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from handlers.entries import Entry
from handlers.events import ArchiveJobFailed
from handlers.outcomes import Throttled, Unavailable
from handlers.telemetry import log

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between tries to reach the store


class Stored(Struct, frozen=True):
    """An entry as it was read. `age` is the seconds since it was written, on the store's clock."""

    entry: Entry
    version: Any
    age: float


class Conflict(Exception):
    """The stored entry is not at the version that the write expected."""


class Store(Protocol):
    """Where entries are kept. Its methods raise Unavailable or Misconfigured where the store cannot be used."""

    async def load(self, job_id: str) -> Stored | None: ...

    async def due(self, now: datetime, limit: int) -> list[Stored]:
        """Deferrals whose time has come, the longest due first, up to this many."""

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        """Store the entry, all or nothing, if it still has this version (None: if there is none), and the link
        with it, if there is no entry for its job. Returns the new version; raises Conflict."""


class Kept(Struct, frozen=True):
    """An entry as the store keeps it, with its version."""

    entry: Entry
    version: Any


class Claim(Kept, frozen=True):
    """The right to call Google for this job, until the lease lapses. `lapsed`: an earlier claim had done so."""

    lapsed: bool = False


class Settled(Kept, frozen=True):
    """The job needs no call: it is answered, or it waits for its time."""


class Held(Struct, frozen=True):
    """Another delivery holds the claim, and its lease has not lapsed."""


class Superseded(Exception):
    """The lease lapsed and another delivery took the claim over: what this one learned was not recorded."""


class Ledger:
    """The protocol over a Store. It tries again until the store answers: callers set the deadline."""

    def __init__(
        self,
        store: Store,
        *,
        lease_seconds: float,
        keep: timedelta,
        now: Callable[[], datetime],
        new_holder: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._keep = keep
        self._now = now
        self.new_holder = new_holder

    async def claim(
        self, event: ArchiveJobFailed, holder: str = "", *, expected: bool = False
    ) -> Claim | Held | Settled:
        """Ask for the right to call Google for this job. Of any number that ask at once, one gets it.

        Most jobs are new, so the first try creates an entry without looking; where one is `expected`, it looks.
        Raises Throttled where nothing was written, Unavailable where something may have been, and Misconfigured.
        """
        holder = holder or self.new_holder()
        found: Stored | None = None
        unread, pause = expected, _FIRST_PAUSE
        lapsed = writing = in_doubt = False
        while True:
            try:
                if unread:
                    found = await self._store.load(event.job_id)
                if found and found.entry.holder == holder:
                    return Claim(found.entry, found.version, lapsed)  # our own write, whose answer was lost
                verdict = self._judge(found, event, holder)
                if not isinstance(verdict, Entry):
                    return verdict
                lapsed = found is not None and found.entry.state == "claimed"  # and yet it can be had
                writing = True
                return Claim(verdict, await self._store.write(verdict, found.version if found else None), lapsed)
            except Conflict:
                unread = True
            except Unavailable as fault:
                throttled = isinstance(fault, Throttled)
                in_doubt = in_doubt or (writing and not throttled)
                if throttled and not in_doubt:
                    raise
                unread, pause = True, await _wait(pause, fault)

    def _judge(self, found: Stored | None, event: ArchiveJobFailed, holder: str) -> Entry | Held | Settled:
        """What a claim meets: the claimed entry to write, or the reason why there is none to be had."""
        now = self._now()
        unknown = Entry(job_id=event.job_id, root_job_id="", attempt=0, updated_at=now, expire_at=now)
        old = found.entry if found else unknown
        if found and old.is_settled(now):
            return Settled(old, found.version)
        lapsed = old.state == "claimed"
        if found and lapsed and found.age <= old.lease_seconds:
            return Held()
        return replace(
            old,
            root_job_id=event.root_job_id or old.root_job_id or event.job_id,
            attempt=max(event.attempt, old.attempt),
            user_id=event.user_id,
            credential_id=event.credential_id,
            state="claimed",
            fence=old.fence + 1,
            holder=holder,
            lease_seconds=self._lease_seconds,
            calls_counted=old.calls_counted + lapsed,
            updated_at=now,
            expire_at=now + self._keep,
        )

    async def withdraw(self, event: ArchiveJobFailed, holder: str) -> None:
        """Give up a claim that may have been written though nobody waited for it, so that it does not lapse.

        It may still be under way, so something is written in any case, for it to conflict with.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                found = await self._store.load(event.job_id)
                mine = found.entry if found and found.entry.holder == holder else self._judge(found, event, holder)
                if isinstance(mine, Entry):  # if not, what was written since then is in its way
                    await self._store.write(replace(mine.released(), holder=""), found.version if found else None)
                return
            except Conflict:
                continue
            except Unavailable as fault:
                pause = await _wait(pause, fault)

    async def record(self, claim: Claim, became: Entry) -> Kept:
        """Write what became of the claimed entry, and give the claim up. Raises Superseded."""
        now = self._now()
        expire_at = max(now, became.not_before or now) + self._keep
        entry = replace(became, holder="", updated_at=now, expire_at=expire_at)
        link = entry.of_new_job()
        version, unread, pause = claim.version, False, _FIRST_PAUSE
        while True:
            try:
                if unread:
                    found = await self._store.load(entry.job_id)
                    if found and found.entry == entry:
                        return Kept(entry, found.version)  # our own write, whose answer was lost
                    if not found or found.entry.holder != claim.entry.holder:
                        raise Superseded
                    version, link = found.version, None  # the link was in the way: the new job is known already
                return Kept(entry, await self._store.write(entry, version, link))
            except Conflict:
                unread = True
            except Unavailable as fault:
                pause = await _wait(pause, fault)

    async def due(self, limit: int) -> list[Stored]:
        """Deferrals whose time has come, with their events to put back."""
        return await self._store.due(self._now(), limit)

    async def put_back(self, stored: Stored, publish: Callable[[], Awaitable[None]]) -> None:
        """Put a deferral's event back with `publish`.

        It is open before it is published: a delivery on whose clock it is not yet due would find it deferred, and
        acknowledge it. And it stays due until it is published: a run that dies in between is done again by the next.
        One that a delivery has got hold of meanwhile stays due until its outcome is published: that delivery may be a
        late duplicate of a message that was acknowledged long ago, and Pub/Sub owe no other.
        """
        if stored.entry.state not in ("deferred", "open"):
            await publish()
            return
        opened = replace(stored.entry.released(), updated_at=self._now())
        with suppress(Conflict):
            version = await self._store.write(opened, stored.version)
            await publish()
            await self._store.write(opened.done(), version)

    async def announced(self, kept: Kept) -> None:
        """The outcome is published: what was deferred once is no longer due."""
        with suppress(Conflict):
            await self._store.write(kept.entry.done(), kept.version)


async def reopen(store: Store, stored: Stored, now: datetime) -> None:
    """Let a job be claimed again that was rejected, once a person has put right what stood behind it.

    Raises Conflict if somebody wrote meanwhile.
    """
    await store.write(replace(stored.entry.reopened(), updated_at=now), stored.version)


async def _wait(pause: float, fault: Unavailable) -> float:
    log.debug("%s; trying again", fault)  # the delivery's line says what came of it
    await asyncio.sleep(pause)
    return min(pause * 2, _LONGEST_PAUSE)
