"""Rules of the ledger, held against both of its stores: memory, and Firestore on Google's emulator."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.domain.decisions import RetryPolicy
from handlers.domain.events import JobEvent
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Reason, Rejection, Throttled, Transient
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.google.firestore import FirestoreStore
from handlers.ledger import Claim, Claimable, LeaseLost, Ledger, NoCallNeeded, NotYet, reopen
from handlers.memory_store import MemoryStore
from handlers.ports import Conflict, Store, Unreadable, UnreadableEntry, VersionedEntry
from handlers.settings import from_environment
from tests.unit.fakes import START, Clock

POLICY = RetryPolicy(budget=3, event_max_age=timedelta(days=14), park_ambiguous=False, doubt_pause=0.0)
DENIED = Rejection(Reason.ACCESS_DENIED, "words")


@pytest.fixture(params=["memory", "firestore"])
async def store(request: pytest.FixtureRequest, project: str) -> Store:
    return (
        MemoryStore() if request.param == "memory" else emulated(request.getfixturevalue("firestore_emulator"), project)
    )


def emulated(address: str, project: str) -> Store:
    settings = from_environment({"GOOGLE_CLOUD_PROJECT": project, "FIRESTORE_EMULATOR_HOST": address})
    return FirestoreStore(GoogleClients(Account(), settings).firestore, settings)


def ledger(store: Store, lease_seconds: float = 150) -> Ledger:
    """A ledger as another instance would have it: its own object over the same store."""
    return Ledger(store, POLICY, lease_seconds=lease_seconds, keep=timedelta(days=45), now=lambda: START)


def failed(job_id: str = "job", **fields: Any) -> JobEvent:
    return JobEvent(**{"job_id": job_id, "user_id": "alice", "credential_id": "alice"} | fields)


async def claimed(ledger: Ledger, job: JobEvent | None = None, owner: str = "me") -> Claim:
    claim = await ledger.claim(job or failed(), owner)
    if isinstance(claim, NotYet | NoCallNeeded):
        claim = await ledger.claim(job or failed(), owner)
    assert isinstance(claim, Claim)
    return claim


async def test_of_many_claims_at_once_one_wins(store: Store) -> None:
    claims = await asyncio.gather(*(ledger(store).claim(failed(), f"{number}") for number in range(20)))
    assert [1, 19] == [sum(isinstance(claim, kind) for claim in claims) for kind in (Claim, NotYet)]


async def test_released_claim_costs_nothing(store: Store) -> None:
    first = await claimed(ledger(store))
    await ledger(store).record(first, first.entry.released())
    entry = (await claimed(ledger(store))).entry
    assert (0, 2, "job") == (entry.retries_used, entry.claim_count, entry.root_job_id)


async def test_lapsed_claim_is_taken_over_and_counts(store: Store) -> None:
    await claimed(ledger(store, lease_seconds=0.05))
    await asyncio.sleep(0.1)
    claim = await claimed(ledger(store), owner="other")
    assert (True, 1) == (claim.lapsed, claim.entry.retries_used)


async def test_lease_is_the_one_of_the_claim(store: Store) -> None:
    await claimed(ledger(store, lease_seconds=150))
    await asyncio.sleep(0.1)
    assert isinstance(await ledger(store, lease_seconds=0.05).claim(failed(), "other"), NotYet)


async def test_lost_lease_records_nothing(store: Store) -> None:
    stale = await claimed(ledger(store, lease_seconds=0.05))
    await asyncio.sleep(0.1)
    fresh = await claimed(ledger(store), owner="other")
    with pytest.raises(LeaseLost):
        await ledger(store).record(stale, stale.entry.retried("stale"))
    await ledger(store).record(fresh, fresh.entry.retried("fresh"))
    with pytest.raises(LeaseLost):
        await ledger(store).record(stale, stale.entry.released())
    found = await store.load("job")
    assert found
    assert "fresh" == found.entry.new_job_id


@pytest.mark.parametrize(
    "record",
    [
        lambda entry: entry.retried("new"),
        lambda entry: entry.rejected(DENIED),
        lambda entry: entry.deferred(START, b"\x00\xff", '{"":"any key"}'),
        lambda entry: entry.in_doubt("words"),
    ],
)
async def test_entry_reads_back_as_it_was_written(store: Store, record: Callable[[LedgerEntry], LedgerEntry]) -> None:
    claim = await claimed(ledger(store), failed(root_job_id="root", retries_before=1))
    kept = await ledger(store).record(claim, record(claim.entry))
    found = await store.load("job")
    assert found
    assert (kept.entry, kept.version) == (found.entry, found.version)


async def test_new_job_is_known_by_its_chain(store: Store) -> None:
    first = await claimed(ledger(store), failed(root_job_id="root", retries_before=1))
    await ledger(store).record(first, first.entry.retried("new"))
    entry = (await claimed(ledger(store), failed("new"))).entry
    assert ("root", 2) == (entry.root_job_id, entry.retries_used)


async def test_link_never_overwrites_a_known_job(store: Store) -> None:
    claim = await claimed(ledger(store), failed("new"))
    new = await ledger(store).record(claim, claim.entry.retried("newest"))
    before = await claimed(ledger(store))
    await ledger(store).record(before, before.entry.retried("new"))
    found, job = await store.load("new"), await store.load("job")
    assert found
    assert job
    assert (new.entry, "retried") == (found.entry, job.entry.state)


@pytest.mark.parametrize("job_id", [".", "..", "__a__", "~", "a" * 256, "A.z_0~-"])
async def test_any_job_id_can_be_kept(store: Store, job_id: str) -> None:
    await claimed(ledger(store), failed(job_id))
    assert isinstance(await ledger(store).look(failed(job_id)), NotYet)


async def test_entry_is_not_created_twice(store: Store) -> None:
    claim = await claimed(ledger(store))
    with pytest.raises(Conflict):
        await store.write(claim.entry, None)


async def deferred(store: Store, job_id: str, minutes: float, event: bytes = b"an event") -> None:
    claim = await claimed(ledger(store), failed(job_id))
    until = (await store.write(claim.entry, claim.stored.version)).written_at + timedelta(minutes=minutes)
    claim = replace(claim, stored=await store.load(job_id))
    await ledger(store).record(claim, claim.entry.deferred(until, event, "{}"))


def real_time(store: Store) -> Ledger:
    return Ledger(store, POLICY, lease_seconds=150, keep=timedelta(days=45), now=lambda: datetime.now(UTC))


async def due(store: Store, limit: int = 100) -> list[VersionedEntry]:
    found = (await real_time(store).due(limit)).entries
    assert not any(isinstance(one, Unreadable) for one in found)
    return [one for one in found if isinstance(one, VersionedEntry)]


async def test_due_is_the_longest_due_first(store: Store) -> None:
    for minutes in (50, 1, -1, -5):
        await deferred(store, f"job{minutes}", minutes)
    await claimed(ledger(store), failed("claimed"))
    assert ["job-5", "job-1"] == [found.entry.job_id for found in await due(store)]
    assert ["job-5"] == [found.entry.job_id for found in await due(store, limit=1)]
    assert isinstance(await real_time(store).look(failed("job50")), NoCallNeeded)
    assert isinstance(await real_time(store).look(failed("job-1")), Claimable)


async def test_pages_of_what_is_due_have_each_entry_once(store: Store) -> None:
    """Many are due at one time: Google names the same time to all jobs of a user."""
    at = datetime.now(UTC) - timedelta(minutes=1)
    times: Any = {"not_before": at, "updated_at": at, "expire_at": at}
    jobs = [f"job-{number}" for number in range(7)]
    for job_id in jobs:
        await store.write(
            LedgerEntry(
                job_id=job_id, root_job_id=job_id, retries_before=0, state="deferred", event=b"an event", **times
            ),
            None,
        )
    found, start = [], None
    for size in (3, 3, 1):
        page = await real_time(store).due(3, start)
        assert (size, size == 3) == (len(page.entries), page.following is not None)
        found += [one.entry.job_id for one in page.entries if isinstance(one, VersionedEntry)]
        start = page.following
    assert jobs == sorted(found)


async def nothing() -> None:
    pass


async def never() -> None:
    pytest.fail("published, though a delivery has claimed it, or would have to wait")


async def test_put_back_deferral_is_no_longer_due(store: Store) -> None:
    await deferred(store, "job", -1)
    [found] = await due(store)
    await ledger(store).put_back(found, nothing)
    assert [] == await due(store)
    await claimed(ledger(store))


async def test_put_back_leaves_a_faster_claim_alone(store: Store) -> None:
    await deferred(store, "job", -1)
    [found] = await due(store)
    claim = await claimed(ledger(store))
    assert not await ledger(store).put_back(found, never)
    kept = await ledger(store).record(claim, claim.entry.retried("new"))
    await ledger(store).no_longer_due(kept)
    assert [] == await due(store)


@pytest.mark.parametrize("end", ["dies", "is released", "leaves a call in doubt"])
async def test_deferral_stays_due_until_its_event_is_put_back(store: Store, end: str) -> None:
    await deferred(store, "job", -1, event=b"the event")
    claim = await claimed(ledger(store, lease_seconds=0.05))
    if end != "dies":
        await ledger(store).record(claim, claim.entry.released() if "rel" in end else claim.entry.in_doubt("words"))
    await asyncio.sleep(0.1)
    [found] = await due(store)
    assert b"the event" == found.entry.event
    published: list[int] = []

    async def publish() -> None:
        published.append(1)

    await ledger(store).put_back(found, publish)
    assert [1] == published
    assert [] == await due(store)  # Pub/Sub owes its delivery now
    claim = await claimed(ledger(store), owner="another")
    assert (end != "is released") == claim.entry.calls_in_doubt


@pytest.mark.parametrize("end", ["retried", "rejected", "in doubt", "deferred"])
async def test_answer_recorded_after_the_put_back_keeps_only_its_own_event(store: Store, end: str) -> None:
    """Its delivery stood still for longer than its lease, and the schedule has put the kept event back meanwhile."""
    await deferred(store, "job", -1, event=b"the event")
    claim = await claimed(ledger(store, lease_seconds=0.05))
    await asyncio.sleep(0.1)
    [found] = await due(store)
    assert await ledger(store).put_back(found, nothing)
    ends = {
        "retried": claim.entry.retried("new"),
        "rejected": claim.entry.rejected(DENIED),
        "in doubt": claim.entry.in_doubt("words"),
        "deferred": claim.entry.deferred(START, b"another event", "{}"),
    }
    recorded = (await ledger(store).record(claim, ends[end])).entry
    kept = (START, b"another event", "{}") if end == "deferred" else (None, b"", "")
    assert kept == (recorded.not_before, recorded.event, recorded.attributes)
    assert (end == "deferred") == bool(await due(store))


async def test_reopened_rejection_can_be_claimed(store: Store) -> None:
    claim = await claimed(ledger(store), failed(retries_before=1))
    kept = await ledger(store).record(claim, claim.entry.in_doubt("x").rejected(DENIED))
    await reopen(store, kept, START)
    with pytest.raises(Conflict):
        await reopen(store, kept, START)
    assert 2 == (await claimed(ledger(store))).entry.retries_used


class Failing(MemoryStore):
    """Raises as listed, one call after the other, before or after its effect; keeps the names of the calls."""

    def __init__(self, *faults: Exception | str) -> None:
        super().__init__()
        self.faults = list(faults)
        self.calls: list[str] = []

    async def load(self, job_id: str) -> VersionedEntry | None:
        self._fail("load")
        return await super().load(job_id)

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        self._fail("write")
        written = await super().write(entry, version, link)
        if self.faults[:1] == ["after"]:
            self.faults.pop(0)
            raise Transient("its answer was lost")
        return written

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        if self.faults and isinstance(self.faults[0], Exception):
            raise self.faults.pop(0)  # type: ignore[misc]


DOWN, QUOTA = Transient("down"), Throttled("quota")


@pytest.mark.parametrize("faults", [[DOWN], ["after"], [DOWN, "after"], ["after", DOWN]])
async def test_lost_write_costs_no_claim_and_no_record(faults: list[Any]) -> None:
    store = Failing(*faults)
    claim = await claimed(ledger(store))
    store.faults = list(faults)
    kept = await ledger(store).record(claim, claim.entry.retried("new"))
    assert ("new", 1) == (kept.entry.new_job_id, kept.entry.claim_count)
    assert await store.load("new")


@pytest.mark.parametrize(
    ("faults", "calls"), [([QUOTA], ["write"]), ([DOWN, DOWN, QUOTA], ["write", "load", "load", "load", "write"])]
)
async def test_throttled_claim_is_given_up_unless_it_may_be_written(faults: list[Any], calls: list[str]) -> None:
    store = Failing(*faults)
    if len(faults) == 1:
        with pytest.raises(Throttled):
            await ledger(store).claim(failed(), "me")
    else:
        assert isinstance(await ledger(store).claim(failed(), "me"), Claim)
    assert calls == store.calls


async def test_throttled_record_is_tried_again() -> None:
    store = Failing()
    claim = await claimed(ledger(store))
    store.faults = [QUOTA, QUOTA]
    assert "new" == (await ledger(store).record(claim, claim.entry.retried("new"))).entry.new_job_id


async def test_conflicts_without_end_are_paced() -> None:
    """A store that answers each write with a conflict while nothing is to be read."""
    store = Failing(*[Conflict()] * 10_000)
    store.load = nothing_there  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ledger(store).claim(failed(), "me")
    assert 10 > len(store.calls)


async def nothing_there(job_id: str) -> None:
    return None


async def test_conflict_without_a_known_new_job_keeps_its_link() -> None:
    """A write that is refused for a cause of its own: only an entry that was seen counts as in the way."""
    store = Failing()
    claim = await claimed(ledger(store), failed(root_job_id="root", retries_before=1))
    store.faults = [Conflict()]
    await ledger(store).record(claim, claim.entry.retried("new"))
    new = await store.load("new")
    assert new
    assert ("root", 2) == (new.entry.root_job_id, new.entry.retries_used)


class UnreadableNewJob(MemoryStore):
    """Has an entry of the new job that a later release wrote."""

    async def load(self, job_id: str) -> VersionedEntry | None:
        if job_id == "new":
            raise UnreadableEntry("of a later release")
        return await super().load(job_id)

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        if link:
            raise Conflict
        return await super().write(entry, version)


async def test_unreadable_entry_of_the_new_job_costs_no_answer() -> None:
    store = UnreadableNewJob()
    claim = await claimed(ledger(store))
    assert "new" == (await ledger(store).record(claim, claim.entry.retried("new"))).entry.new_job_id


# a claim in doubt is withdrawn


@pytest.mark.parametrize("before", ["unknown", "open", "lapsed", "rejected"])
async def test_late_claim_after_its_withdrawal_has_no_effect(store: Store, before: str) -> None:
    if before != "unknown":
        earlier = await claimed(ledger(store, lease_seconds=0.05), owner="earlier")
        if before != "lapsed":
            entry = earlier.entry.released() if before == "open" else earlier.entry.rejected(DENIED)
            await ledger(store).record(earlier, entry)
        await asyncio.sleep(0.1)
    job = failed(credential_id="another" if before == "rejected" else "alice")
    looked = await ledger(store).look(job)
    assert isinstance(looked, Claimable)
    await ledger(store).withdraw(job, "me")
    with pytest.raises(Conflict):
        await store.write(replace(looked.entry, lease_owner="me"), looked.found.version if looked.found else None)
    assert (before == "lapsed") == (await claimed(ledger(store), job, owner="next")).entry.retries_used


async def test_written_claim_is_withdrawn_at_no_cost() -> None:
    store = Failing()
    await ledger(store).claim(failed(), "me")
    store.faults = [DOWN, QUOTA]
    await ledger(store).withdraw(failed(), "me")
    assert 0 == (await claimed(ledger(store))).entry.retries_used


async def test_withdrawal_leaves_another_owners_claim_alone(store: Store) -> None:
    other = await claimed(ledger(store), owner="other")
    await ledger(store).withdraw(failed(), "me")
    await ledger(store).record(other, other.entry.retried("new"))


# pauses, on the store's own clock


@pytest.mark.parametrize(("waited", "kind"), [(119, NotYet), (120, Claim)])
async def test_doubt_pause_is_on_the_stores_clock(waited: float, kind: type) -> None:
    clock = Clock()
    policy = replace(POLICY, doubt_pause=120.0)
    paused = Ledger(MemoryStore(clock), policy, lease_seconds=150, keep=timedelta(1), now=lambda: START)
    claim = await claimed(paused)
    await paused.record(claim, claim.entry.in_doubt("x"))
    clock.wait(waited)
    assert kind is type(await paused.claim(failed(), "other"))


@pytest.mark.parametrize(("end", "seconds"), [("dies", 150), ("leaves a call in doubt", 120)])
async def test_put_back_waits_while_a_delivery_would_and_makes_none_wait_again(end: str, seconds: float) -> None:
    clock = Clock()
    store = MemoryStore(clock)
    paused = Ledger(store, replace(POLICY, doubt_pause=120.0), lease_seconds=150, keep=timedelta(1), now=clock)
    claim = await claimed(paused)
    await paused.record(claim, claim.entry.deferred(START, b"the event", "{}"))
    claim = await claimed(paused)
    if end != "dies":
        await paused.record(claim, claim.entry.in_doubt("words"))
    clock.wait(seconds - 1)
    [found] = (await paused.due(1)).entries
    assert isinstance(found, VersionedEntry)
    assert not await paused.put_back(found, never)
    clock.wait(2)
    [found] = (await paused.due(1)).entries
    assert isinstance(found, VersionedEntry)
    assert await paused.put_back(found, nothing)
    assert [] == (await paused.due(1)).entries
    clock.wait(1)
    claim = await claimed(paused, owner="other")
    assert (end == "dies", 1) == (claim.lapsed, claim.entry.calls_in_doubt)


async def test_decided_deferral_is_put_back_whatever_calls_are_in_doubt(store: Store) -> None:
    """Its delivery would have nothing to wait for."""
    entry = LedgerEntry(
        job_id="job", root_job_id="job", retries_before=0, calls_made=3, updated_at=START, expire_at=START
    )
    await store.write(replace(entry.retried("new"), not_before=START, event=b"an event"), None)
    paused = Ledger(
        store, replace(POLICY, doubt_pause=120.0), lease_seconds=150, keep=timedelta(1), now=lambda: datetime.now(UTC)
    )
    [found] = await due(store)
    assert await paused.put_back(found, nothing)


async def test_entry_outlives_any_message_about_its_job(store: Store) -> None:
    claim = await claimed(ledger(store))
    assert START + timedelta(days=45) == claim.entry.expire_at
    kept = await ledger(store).record(claim, claim.entry.deferred(START + timedelta(days=1), b"", ""))
    assert START + timedelta(days=46) == kept.entry.expire_at
