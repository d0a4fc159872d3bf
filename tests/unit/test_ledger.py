"""Rules of the ledger, held against both of its stores: memory, and Firestore on Google's emulator."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.entries import Entry
from handlers.events import ArchiveJobFailed
from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.ledger import Claim, Conflict, Held, Ledger, Settled, Store, Stored, Superseded, reopen
from handlers.memory_store import MemoryStore
from handlers.outcomes import Misconfigured, Reason, Throttled, Unavailable
from handlers.rpc import Channels
from tests.unit.world import NOW

MakeLedger = Callable[..., Ledger]


@pytest.fixture(params=["memory", "firestore"])
async def store(request: pytest.FixtureRequest, project: str) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return firestore_store(request.getfixturevalue("firestore_emulator"), project)


def firestore_store(address: str, project: str) -> FirestoreStore:
    client = Channels().client(FirestoreClient, address)
    return FirestoreStore(client, project=project, database="(default)", collection="archiveJobRetries")


def ledger(store: Store, lease_seconds: float = 150) -> Ledger:
    """A ledger as another instance would have it: its own object over the same store."""
    return Ledger(store, lease_seconds=lease_seconds, keep=timedelta(days=45), now=lambda: NOW)


def failed(job_id: str = "job", **fields: Any) -> ArchiveJobFailed:
    return ArchiveJobFailed(**{"job_id": job_id, "user_id": "alice", "credential_id": "alice"} | fields)


async def claim(ledger: Ledger, event: ArchiveJobFailed | None = None) -> Claim:
    claim = await ledger.claim(event or failed())
    assert isinstance(claim, Claim)
    return claim


async def settled(store: Store, event: ArchiveJobFailed) -> Entry:
    found = await ledger(store).claim(event)
    assert isinstance(found, Settled)
    return found.entry


async def test_of_many_who_claim_at_once_one_gets_it(store: Store) -> None:
    claims = await asyncio.gather(*(ledger(store).claim(failed()) for _ in range(20)))
    assert [sum(isinstance(claim, kind) for claim in claims) for kind in (Claim, Held)] == [1, 19]


async def test_a_job_is_its_own_root_with_nothing_used_until_more_is_known(store: Store) -> None:
    entry = (await claim(ledger(store))).entry
    assert (entry.root_job_id, entry.used, entry.fence) == ("job", 0, 1)


async def test_a_released_claim_can_be_claimed_and_costs_nothing(store: Store) -> None:
    first = await claim(ledger(store))
    await ledger(store).record(first, first.entry.released())
    entry = (await claim(ledger(store))).entry
    assert (entry.used, entry.fence) == (0, 2)


async def test_a_lapsed_claim_is_taken_over_and_counts_as_a_call(store: Store) -> None:
    await claim(ledger(store, lease_seconds=0.05))
    await asyncio.sleep(0.1)
    entry = (await claim(ledger(store))).entry
    assert (entry.used, entry.fence) == (1, 2)


async def test_the_lease_is_the_one_that_the_claim_was_made_with(store: Store) -> None:
    await claim(ledger(store, lease_seconds=150))
    await asyncio.sleep(0.1)
    assert isinstance(await ledger(store, lease_seconds=0.05).claim(failed()), Held)


async def test_who_was_taken_over_records_nothing(store: Store) -> None:
    stale = await claim(ledger(store, lease_seconds=0.05))
    await asyncio.sleep(0.1)
    fresh = await claim(ledger(store))
    with pytest.raises(Superseded):
        await ledger(store).record(stale, stale.entry.retried("stale"))
    await ledger(store).record(fresh, fresh.entry.retried("fresh"))
    with pytest.raises(Superseded):
        await ledger(store).record(stale, stale.entry.released())
    settled = await ledger(store).claim(failed())
    assert isinstance(settled, Settled)
    assert settled.entry.new_job_id == "fresh"


async def test_an_answer_is_final_and_reads_back_as_it_was_written(store: Store) -> None:
    claimed = await claim(ledger(store))
    kept = await ledger(store).record(claimed, claimed.entry.retried("new"))
    assert kept.entry == await settled(store, failed(attempt=2, user_id="mallory"))


@pytest.mark.parametrize("reason", list(Reason))
async def test_a_rejection_is_final_where_googles_answer_stands_behind_it(store: Store, reason: Reason) -> None:
    claimed = await claim(ledger(store))
    await ledger(store).record(claimed, claimed.entry.rejected(reason, "words"))
    by_google = reason not in ("EVENT_EXPIRED", "RETRY_BUDGET_EXHAUSTED", "REAUTHORIZATION_REQUIRED")
    assert by_google == isinstance(await ledger(store).claim(failed()), Settled)


async def test_a_deferral_waits_for_its_time_with_its_event(store: Store) -> None:
    until = NOW + timedelta(hours=1)
    claimed = await claim(ledger(store))
    kept = await ledger(store).record(claimed, claimed.entry.deferred(until, b"\x00\xff", '{"":"any key"}'))
    assert kept.entry == await settled(store, failed())
    assert until + timedelta(days=45) == kept.entry.expire_at
    later = Ledger(store, lease_seconds=1, keep=timedelta(1), now=lambda: until)
    assert isinstance(await later.claim(failed()), Claim)


async def test_the_new_job_of_a_retry_is_known_by_its_chain(store: Store) -> None:
    first = await claim(ledger(store), failed(root_job_id="root", attempt=1))
    await ledger(store).record(first, first.entry.retried("new"))
    entry = (await claim(ledger(store), failed("new"))).entry
    assert (entry.root_job_id, entry.used) == ("root", 2)


@pytest.mark.parametrize(("known", "told", "counted"), [(2, 1, 2), (1, 2, 2)])
async def test_the_larger_attempt_counts(store: Store, known: int, told: int, counted: int) -> None:
    first = await claim(ledger(store), failed(attempt=known - 1))
    await ledger(store).record(first, first.entry.retried("new"))
    assert counted == (await claim(ledger(store), failed("new", attempt=told))).entry.used


async def test_a_link_never_overwrites_what_is_known_of_the_new_job(store: Store) -> None:
    claimed = await claim(ledger(store), failed("new"))
    new = await ledger(store).record(claimed, claimed.entry.retried("newest"))
    before = await claim(ledger(store))
    await ledger(store).record(before, before.entry.retried("new"))
    assert new.entry == await settled(store, failed("new"))
    assert isinstance(await ledger(store).claim(failed()), Settled)


@pytest.mark.parametrize("job_id", [".", "..", "__a__", "~", "a" * 256, "A.z_0~-"])
async def test_any_job_id_of_the_contract_can_be_kept(store: Store, job_id: str) -> None:
    await claim(ledger(store), failed(job_id))
    assert isinstance(await ledger(store).claim(failed(job_id)), Held)


async def test_entries_expire_after_they_can_matter(store: Store) -> None:
    assert NOW + timedelta(days=45) == (await claim(ledger(store))).entry.expire_at


async def deferred(store: Store, job_id: str, until: datetime, event: bytes = b"") -> None:
    claimed = await claim(ledger(store), failed(job_id))
    await ledger(store).record(claimed, claimed.entry.deferred(until, event, "{}"))


async def test_due_are_the_deferrals_whose_time_has_come_the_longest_due_first(store: Store) -> None:
    for minutes in (5, 1, -1, 0, -5):
        await deferred(store, f"job{minutes}", NOW + timedelta(minutes=minutes))
    await claim(ledger(store), failed("claimed"))
    due = await ledger(store).due(limit=100)
    assert ["job-5", "job-1", "job0"] == [stored.entry.job_id for stored in due]
    assert ["job-5"] == [stored.entry.job_id for stored in await ledger(store).due(limit=1)]


async def nothing() -> None:
    pass


async def not_again() -> None:
    pytest.fail("published, though a delivery has claimed it")


async def test_what_was_put_back_is_no_longer_due_and_can_be_claimed(store: Store) -> None:
    await deferred(store, "job", NOW)
    [stored] = await ledger(store).due(limit=100)
    await ledger(store).put_back(stored, nothing)
    assert [] == await ledger(store).due(limit=100)
    assert isinstance(await ledger(store).claim(failed()), Claim)


async def test_putting_back_leaves_a_claim_alone_that_was_faster(store: Store) -> None:
    await deferred(store, "job", NOW)
    [stored] = await ledger(store).due(limit=100)
    claimed = await claim(ledger(store))
    await ledger(store).put_back(stored, not_again)
    assert isinstance(await ledger(store).claim(failed()), Held)
    kept = await ledger(store).record(claimed, claimed.entry.retried("new"))
    await ledger(store).announced(kept)
    assert [] == await ledger(store).due(limit=100)


@pytest.mark.parametrize("end", ["dies", "is released", "leaves a call in doubt"])
async def test_what_was_deferred_stays_due_until_its_outcome_is_published(store: Store, end: str) -> None:
    await deferred(store, "job", NOW, event=b"the event")
    claimed = await claim(ledger(store, lease_seconds=0.05))
    if end != "dies":
        entry = claimed.entry
        await ledger(store).record(claimed, entry.released() if end == "is released" else entry.in_doubt("words"))
    published = []

    async def publish() -> None:
        published.append(await ledger(store).claim(failed("another")))

    [stored] = await ledger(store).due(limit=100)
    assert b"the event" == stored.entry.event
    await ledger(store).put_back(stored, publish)
    assert 1 == len(published)
    await asyncio.sleep(0.1)
    claimed = await claim(ledger(store))
    kept = await ledger(store).record(claimed, claimed.entry.rejected(Reason.JOB_NOT_FOUND, "words"))
    # what was open went back with its event: Pub/Sub owes its delivery now
    assert ["rejected"] * (end == "dies") == [stored.entry.state for stored in await ledger(store).due(limit=100)]
    await ledger(store).announced(kept)
    assert [] == await ledger(store).due(limit=100)


async def test_putting_back_does_not_break_the_claim_of_a_living_holder(store: Store) -> None:
    await deferred(store, "job", NOW)
    claimed = await claim(ledger(store))
    [stored] = await ledger(store).due(limit=100)
    await ledger(store).put_back(stored, nothing)
    kept = await ledger(store).record(claimed, claimed.entry.retried("new"))
    await ledger(store).announced(kept)
    assert [] == await ledger(store).due(limit=100)


async def rejected(store: Store, reason: Reason, *, calls_counted: int = 0) -> Stored:
    claimed = await claim(ledger(store), failed(attempt=1))
    doubted = replace(claimed.entry, calls_counted=calls_counted)
    await ledger(store).record(claimed, doubted.rejected(reason, "words"))
    stored = await store.load("job")
    assert stored
    return stored


@pytest.mark.parametrize("reason", ["ACCESS_DENIED", "JOB_NOT_FOUND", "JOB_NOT_RETRYABLE", "OUTCOME_UNKNOWN"])
async def test_a_final_rejection_that_is_reopened_can_be_claimed_with_all_that_was_used(
    store: Store, reason: Reason
) -> None:
    await reopen(store, await rejected(store, reason, calls_counted=1), NOW)
    entry = (await claim(ledger(store))).entry
    assert (entry.root_job_id, entry.used, entry.fence) == ("job", 2, 2)


async def test_a_call_in_doubt_stays_in_doubt_unless_it_was_what_parked_the_job(store: Store) -> None:
    await reopen(store, await rejected(store, Reason.ACCESS_DENIED, calls_counted=1), NOW)
    assert 1 == (await claim(ledger(store))).entry.calls_counted


async def test_a_parked_job_that_is_reopened_is_no_longer_in_doubt(store: Store) -> None:
    await reopen(store, await rejected(store, Reason.OUTCOME_UNKNOWN, calls_counted=1), NOW)
    assert 0 == (await claim(ledger(store))).entry.calls_counted


async def test_calls_in_doubt_that_used_up_a_jobs_retries_are_forgiven_when_it_is_reopened(store: Store) -> None:
    await reopen(store, await rejected(store, Reason.RETRY_BUDGET_EXHAUSTED, calls_counted=2), NOW)
    assert 1 == (await claim(ledger(store))).entry.used


async def test_reopening_leaves_alone_what_somebody_wrote_meanwhile(store: Store) -> None:
    stored = await rejected(store, Reason.JOB_NOT_FOUND)
    await reopen(store, stored, NOW)
    claimed = await claim(ledger(store))
    with pytest.raises(Conflict):
        await reopen(store, stored, NOW)
    await ledger(store).record(claimed, claimed.entry.retried("new"))


# a store that fails, or whose answers are lost


class Shaky(MemoryStore):
    """A store whose first calls fail, before or after their effect."""

    def __init__(self, *failures: str) -> None:
        super().__init__()
        self.failures = list(failures)

    async def load(self, job_id: str) -> Stored | None:
        self._fail("before")
        return await super().load(job_id)

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        self._fail("before")
        version = await super().write(entry, version, link)
        self._fail("after")
        return version

    def _fail(self, when: str) -> None:
        if self.failures[:1] == [when]:
            self.failures.pop(0)
            raise Unavailable("for a moment")


@pytest.mark.parametrize("failures", [["before"], ["after"], ["before", "after"], ["after", "before"]])
async def test_a_store_that_fails_for_a_moment_costs_no_claim_and_no_record(failures: list[str]) -> None:
    shaky = Shaky(*failures)
    claimed = await claim(ledger(shaky))
    shaky.failures = list(failures)
    await ledger(shaky).record(claimed, claimed.entry.retried("new"))
    settled = await ledger(shaky).claim(failed())
    assert isinstance(settled, Settled)
    assert (settled.entry.new_job_id, settled.entry.fence) == ("new", 1)


async def test_a_ledger_that_nobody_may_write_is_ours(project: str, firestore_emulator: str) -> None:
    with pytest.raises(Misconfigured):
        await ledger(firestore_store(firestore_emulator, f"{project}/no/such")).claim(failed())


class LateClaim:
    """The first claim is on its way for so long that nobody waits for it any more."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.load, self.due = store.load, store.due
        self.claim: tuple[Any, ...] | None = None
        self.sent = asyncio.Event()

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        if entry.state == "claimed" and self.claim is None:
            self.claim = (entry, version, link)
            self.sent.set()
            await asyncio.Event().wait()
        return await self._store.write(entry, version, link)


@pytest.mark.parametrize("before", ["unknown", "open", "lapsed", "rejected"])
async def test_a_claim_that_arrives_after_it_was_withdrawn_has_no_effect(store: Store, before: str) -> None:
    if before != "unknown":
        earlier = await claim(ledger(store, lease_seconds=0.05))
        if before == "open":
            await ledger(store).record(earlier, earlier.entry.released())
        elif before == "rejected":
            became = earlier.entry.rejected(Reason.REAUTHORIZATION_REQUIRED, "ask")
            await ledger(store).record(earlier, became)
        await asyncio.sleep(0.1)
    late = LateClaim(store)
    claiming = asyncio.create_task(ledger(late).claim(failed(), "me"))
    await late.sent.wait()
    claiming.cancel()
    await ledger(store).withdraw(failed(), "me")
    assert late.claim
    with pytest.raises(Conflict):
        await store.write(*late.claim)
    assert (await claim(ledger(store))).entry.used == (before == "lapsed")


async def test_a_claim_that_was_written_though_nobody_waited_is_given_back(store: Store) -> None:
    await ledger(store).claim(failed(), "me")
    await ledger(store).withdraw(failed(), "me")
    assert (await claim(ledger(store))).entry.used == 0


async def test_withdrawing_leaves_another_holders_claim_alone(store: Store) -> None:
    other = await claim(ledger(store))
    await ledger(store).withdraw(failed(), "me")
    await ledger(store).record(other, other.entry.retried("new"))


async def test_an_entry_is_not_created_twice(store: Store) -> None:
    entry = Entry(job_id="job", root_job_id="job", attempt=0, updated_at=NOW, expire_at=NOW)
    await store.write(entry, None)
    with pytest.raises(Conflict):
        await store.write(entry, None)


class Failing(MemoryStore):
    """Fails as listed, one call after the other, and works from then on; keeps the names of the calls."""

    def __init__(self, *faults: Exception) -> None:
        super().__init__()
        self.faults = list(faults)
        self.calls: list[str] = []

    async def load(self, job_id: str) -> Stored | None:
        self._fail("load")
        return await super().load(job_id)

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        self._fail("write")
        return await super().write(entry, version, link)

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        if self.faults:
            raise self.faults.pop(0)


async def test_a_claim_that_the_store_has_no_room_for_is_given_up_at_once() -> None:
    store = Failing(Throttled("no room"))
    with pytest.raises(Throttled):
        await ledger(store).claim(failed())
    assert ["write"] == store.calls


async def test_a_claim_that_was_not_yet_written_is_given_up_as_soon_as_there_is_no_room() -> None:
    store = Failing(Unavailable("down"), Throttled("no room"))
    with pytest.raises(Throttled):
        await ledger(store).claim(failed(), expected=True)
    assert ["load", "load"] == store.calls


async def test_a_claim_that_may_have_been_written_is_found_again_even_if_the_store_has_no_room_for_a_while() -> None:
    store = Failing(Unavailable("down"), Throttled("no room"))
    assert isinstance(await ledger(store).claim(failed()), Claim)
    assert ["write", "load", "load", "write"] == store.calls


async def test_what_google_answered_is_recorded_even_if_the_store_has_no_room_for_a_while() -> None:
    store = Failing()
    mine = await claim(ledger(store))
    store.faults = [Throttled("no room")]
    assert "new" == (await ledger(store).record(mine, mine.entry.retried("new"))).entry.new_job_id


async def test_a_claim_is_withdrawn_at_no_cost_even_if_the_store_cannot_be_reached_for_a_while() -> None:
    store = Failing()
    await ledger(store).claim(failed(), "me")
    store.faults = [Unavailable("down"), Throttled("no room")]
    await ledger(store).withdraw(failed(), "me")
    assert 0 == (await claim(ledger(store))).entry.used


async def test_a_claim_of_a_job_that_is_expected_to_be_known_looks_first() -> None:
    store = Failing()
    mine = await claim(ledger(store))
    await ledger(store).record(mine, mine.entry.retried("new"))
    store.calls.clear()
    assert isinstance(await ledger(store).claim(failed(), expected=True), Settled)
    assert ["load"] == store.calls
