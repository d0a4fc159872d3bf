"""The retry ledger: one entry per failed job, so that no delivery makes Google retry it a second time.

    delivery A   claim 1 ─────────────── POST ─────── record ✓
    delivery B         claim: in progress → 503      claim: decided → republish

    delivery A   claim 1 ─────── POST ✗ (process dies)
    delivery B                       lease is over ─ claim 2, one call in doubt ─ POST ─ record ✓
    delivery A   (was only frozen, wakes) ──────────────────────────────────── record ✗ lease lost

A lease, a pause and a deferral are measured on the store's own clock, never by comparing two instances' clocks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from handlers.domain.decisions import RetryPolicy
from handlers.domain.events import JobEvent
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Throttled, Transient
from handlers.ports import Conflict, Page, Store, Unreadable, UnreadableEntry, VersionedEntry

_T = TypeVar("_T")

CLOCK_SKEW = timedelta(hours=1)  # by which an instance's clock may be off; due entries are judged by the store's


class NotYet(Struct, frozen=True):
    """Another delivery holds the claim, or the pause after a call in doubt is not over."""

    detail: str


class NoCallNeeded(Struct, frozen=True):
    """The job needs no call: it is answered, or it waits for its time."""

    found: VersionedEntry


class Claimable(Struct, frozen=True):
    """A claim is to be had. `entry` is the job's as it would be after it; `found` what is stored now."""

    found: VersionedEntry | None
    entry: LedgerEntry


class Claim(Struct, frozen=True):
    """The right to call Google for this job, until the lease is over. `lapsed`: an earlier claim's lease was."""

    stored: VersionedEntry
    lapsed: bool = False

    @property
    def entry(self) -> LedgerEntry:
        return self.stored.entry


def _back_off() -> Iterator[float]:
    """Seconds to wait between two tries to reach the store: 0.05 first, each time twice as long, up to 5."""
    seconds = 0.05
    while True:
        yield seconds
        seconds = min(seconds * 2, 5.0)


class LeaseLost(Exception):
    """The lease was over and another delivery has the claim: what this one learned is not recorded."""


class Ledger:
    """The protocol over a Store. Its methods try until the store answers, so callers set the deadline; what comes of a
    deferral is tried once.
    """

    def __init__(
        self,
        store: Store,
        policy: RetryPolicy,
        *,
        lease_seconds: float,
        keep: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._policy = policy
        self._lease_seconds = lease_seconds
        self._keep = keep
        self._now = now

    async def look(self, job: JobEvent) -> Claimable | NotYet | NoCallNeeded:
        """What a claim would meet. Raises Throttled."""
        return self._judge(await _until_answered(lambda: self._store.load(job.job_id), Throttled), job)

    async def claim(self, job: JobEvent, owner: str, looked: Claimable | None = None) -> Claim | NotYet | NoCallNeeded:
        """Ask for the right to call Google for this job. Of any number that ask at once, one gets it.

        Most jobs are new, so without a look the first try creates an entry. Raises Throttled where nothing was written,
        and Transient where something may have been.
        """
        verdict = looked or self._judge(None, job)
        back_off, maybe_written = _back_off(), False
        while isinstance(verdict, Claimable):
            found, entry = verdict.found, replace(verdict.entry, lease_owner=owner)
            lapsed = found is not None and found.entry.state == "claimed"
            try:
                return Claim(await self._store.write(entry, found.version if found else None), lapsed)
            except Conflict:
                pass
            except Transient as fault:
                maybe_written = maybe_written or not isinstance(fault, Throttled)
                if not maybe_written:
                    raise
            await asyncio.sleep(next(back_off))
            found = await self._load(job.job_id)
            if found and found.entry.lease_owner == owner:
                return Claim(found, lapsed)  # our own write, whose answer was lost
            verdict = self._judge(found, job)
        return verdict

    def _judge(self, found: VersionedEntry | None, job: JobEvent) -> Claimable | NotYet | NoCallNeeded:
        now = self._now()
        new = LedgerEntry(job_id=job.job_id, root_job_id="", retries_before=0, updated_at=now, expire_at=now)
        old = found.entry if found else new
        if found:
            if old.is_final_for(job, found.written_at, found.read_at):
                return NoCallNeeded(found)
            if not_yet := self._not_yet(found):
                return not_yet
        claimed = old.claimed(job, owner="", lease_seconds=self._lease_seconds)
        return Claimable(found, replace(claimed, updated_at=now, expire_at=now + self._keep))

    def _not_yet(self, found: VersionedEntry) -> NotYet | None:
        """Why a delivery of this job would have to wait, if it would."""
        if found.entry.state == "claimed" and found.age <= found.entry.lease_seconds:
            return NotYet("another delivery of this job is in progress")
        left = self._policy.pause_before(found.entry) - found.age
        if left > 0:
            return NotYet(f"a call to Google had no answer: the next one waits for {left:.0f} s more")
        return None

    async def withdraw(self, job: JobEvent, owner: str) -> None:
        """Give up a claim that may have been written though its answer was lost, so that it does not lapse.

        The claim may still be under way. So where it is not found, an open entry is written in its place, with which
        it conflicts when it arrives.
        """
        back_off = _back_off()
        while True:
            found = await self._load(job.job_id)
            is_ours = found and found.entry.lease_owner == owner
            free = Claimable(found, found.entry) if found and is_ours else self._judge(found, job)
            if not isinstance(free, Claimable):
                return  # what was written since then is in its way
            released = replace(free.entry.released(), lease_owner="")
            if await self._written(released, found.version if found else None, back_off):
                return

    async def record(self, claim: Claim, entry: LedgerEntry) -> VersionedEntry:
        """Write what became of the claimed entry, and end the claim. Raises LeaseLost."""
        entry = self._unclaimed(entry)
        link = entry.entry_of_new_job()
        version, back_off = claim.stored.version, _back_off()
        while True:
            if written := await self._written(entry, version, back_off, link):
                return written
            found = await self._load(entry.job_id)
            if found and found.entry == entry:
                return found  # our own write, whose answer was lost
            if not found or found.entry.lease_owner != claim.entry.lease_owner:
                raise LeaseLost
            version = found.version
            if entry.state != "deferred":  # what was kept before may be put back meanwhile
                entry = entry.with_event_of(found.entry)
            if link and await self._is_known(link.job_id):
                link = None

    async def _is_known(self, job_id: str) -> bool:
        """An entry that cannot be read is there, too."""
        try:
            return await self._load(job_id) is not None
        except UnreadableEntry:
            return True

    async def keep(self, job: JobEvent, found: VersionedEntry | None, entry: LedgerEntry) -> None:
        """Write an entry that waits or is ended, without a claim: of two that come at once, either will do. What waits
        for a credential that has come since `found` stays.
        """
        entry, is_new = self._unclaimed(entry), not found or not found.entry.is_of(job)
        version, back_off = found.version if found else None, _back_off()
        while not await self._written(entry, version, back_off):
            found = await self._load(job.job_id)
            if found and found.version != version and not _gives_way(found.entry, job, is_new):
                return  # our own write, whose answer was lost, or another look's
            version = found.version if found else None

    def _unclaimed(self, entry: LedgerEntry) -> LedgerEntry:
        now = self._now()
        return replace(entry, lease_owner="", updated_at=now, expire_at=max(now, entry.not_before or now) + self._keep)

    async def replace_kept(self, found: VersionedEntry, entry: LedgerEntry) -> VersionedEntry:
        """Keep another event of a deferred job. Raises Transient where somebody wrote meanwhile."""
        try:
            return await self._store.write(replace(entry, updated_at=self._now()), found.version)
        except Conflict:
            raise Transient("the deferred job was written to meanwhile") from None

    async def due(self, limit: int, start: Any = None) -> Page:
        """Deferrals whose time has come, with their events to put back, and entries that nobody can read."""
        page = await _until_answered(lambda: self._store.due(self._now() + CLOCK_SKEW, limit, start))
        due = [with_event(one) for one in page.entries if isinstance(one, Unreadable) or _is_due(one)]
        return Page(due, page.following if len(due) == len(page.entries) else None)

    async def put_back(self, found: VersionedEntry, publish: Callable[[], Awaitable[None]]) -> bool:
        """Put a deferral's event back with `publish`. False where its delivery would have to wait: it stays due.

        What is deferred is opened first: a delivery that finds it deferred is acknowledged. It is due until the event
        is published, so that a run that dies is repeated. Where a delivery has written to it meanwhile it stays due:
        Pub/Sub may no longer hold that delivery's message.
        """
        if found.entry.state in ("deferred", "open", "claimed"):
            if self._not_yet(found):
                return False
            found = replace(found, entry=found.entry.waited())
        if found.entry.state in ("deferred", "open"):
            try:
                opened = replace(found.entry.released(), updated_at=self._now())
                found = await self._store.write(opened, found.version)
            except Conflict:
                return False
        await publish()
        await self.no_longer_due(found)
        return True

    async def no_longer_due(self, found: VersionedEntry) -> None:
        """End a deferral: its outcome, or its event, is published since `found` was read."""
        with suppress(Conflict):
            await self._store.write(found.entry.done(found.written_at), found.version)

    async def _load(self, job_id: str) -> VersionedEntry | None:
        return await _until_answered(lambda: self._store.load(job_id))

    async def _written(
        self, entry: LedgerEntry, version: Any, back_off: Iterator[float], link: LedgerEntry | None = None
    ) -> VersionedEntry | None:
        """One try. None after a pause, where the entry may or may not be written."""
        with suppress(Conflict, Transient):
            return await self._store.write(entry, version, link)
        await asyncio.sleep(next(back_off))
        return None


async def _until_answered(ask: Callable[[], Awaitable[_T]], *raised: type[Exception]) -> _T:
    """Ask until the store answers. Of what is transient, only these are raised."""
    back_off = _back_off()
    while True:
        try:
            return await ask()
        except raised:
            raise
        except Transient:
            await asyncio.sleep(next(back_off))


async def reopen(store: Store, found: VersionedEntry, now: datetime) -> None:
    """Let a job be claimed again that was rejected, once a person has fixed the cause. Raises Conflict."""
    await store.write(replace(found.entry.reopened(), updated_at=now), found.version)


def _gives_way(entry: LedgerEntry, job: JobEvent, is_new: bool) -> bool:
    """Whether what somebody else wrote meanwhile may be written over: it is open, or it waits for another credential,
    and this event's `is_new` to the job.
    """
    return entry.state == "open" or (is_new and entry.state == "deferred" and not entry.is_of(job))


def _is_due(found: VersionedEntry) -> bool:
    return found.entry.not_before is None or found.entry.not_before <= found.read_at


def with_event(found: VersionedEntry | Unreadable) -> VersionedEntry | Unreadable:
    """Pub/Sub takes no empty message: such an entry would be tried in vain at each run, before all others."""
    if isinstance(found, Unreadable) or found.entry.event:
        return found
    job_id = found.entry.job_id
    return Unreadable(job_id, f"ledger entry {job_id} cannot be read (it is due, and has no event): edited by hand?")
