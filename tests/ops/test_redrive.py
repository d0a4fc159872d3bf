"""Rules of redrive and discard: nothing lost, nothing acknowledged too early, and everybody else left in peace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Misconfigured, Reason, Transient
from handlers.memory_store import MemoryStore
from handlers.ports import Store, UnreadableEntry, VersionedEntry
from local.topics import DEAD, REJECTED
from ops.leases import Leases
from ops.messages import Filter, PendingMessage, dead_letter_reader, read_rejection
from ops.redrive import Discard, Redrive, ScanResult, scan
from tests.ops.desk import POLICY, Desk, failed, rejection

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
FAST = 1000.0  # a second
USED_UP = Reason.RETRY_BUDGET_EXHAUSTED

only_embedded = pytest.mark.parametrize("desk", ["embedded"], indirect=True)  # where the rule is not about Pub/Sub


class FakeTopic:
    """Keeps what was published, and when; `meanwhile` happens in the middle of it."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]] | None = None, refused: bytes = b"") -> None:
        self.published: list[bytes] = []
        self.at: list[float] = []
        self.begun = asyncio.Event()
        self.meanwhile = meanwhile
        self.refused = refused

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self.begun.set()
        if self.meanwhile:
            await self.meanwhile()
        if data == self.refused:
            raise Misconfigured("publishing: INVALID_ARGUMENT")
        self.published.append(data)


@asynccontextmanager
async def redrive(
    desk: Desk,
    name: str,
    topic: FakeTopic,
    store: Store | None = None,
    *,
    rate: float = FAST,
    budget: int = 3,
    grace: float = 10,
) -> AsyncIterator[Redrive]:
    async with Leases(desk.connected, desk.project, name) as leases:
        yield Redrive(leases, topic, store, lambda: datetime.now(UTC), rate, budget, grace=grace)


async def look(
    desk: Desk, leases: Leases, expected: int | None, wanted: Filter | None = None, limit: int = 10_000, **others: Any
) -> ScanResult:
    dead = leases.subscription.endswith(DEAD)
    read = dead_letter_reader(NOW, POLICY) if dead else read_rejection
    how: Any = {"limit": limit, "patience": desk.patience, "seen": lambda _: None, **others}
    result = await scan(leases, read, wanted or Filter(), lambda: datetime.now(UTC), **how)
    assert expected in (None, result.scanned)
    return result


async def put_back(run: Redrive, messages: list[PendingMessage]) -> None:
    await run.run(messages, lambda _: None)


def ids(messages: list[Any]) -> list[str]:
    return sorted(message.message_id for message in messages)


def of_users(*users: str) -> Filter:
    return Filter(users=frozenset(users))


def named(*reasons: str) -> Filter:
    return Filter(reasons=frozenset(reasons))


# looking


async def test_scan_alone_changes_nothing_and_releases_everything(desk: Desk) -> None:
    published = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(20)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        result = await look(desk, run.leases, 20)
    assert sorted(published) == ids(result.messages)
    assert sorted(published) == ids(await desk.waiting(DEAD, 20))


async def test_message_is_counted_once_however_many_pulls_it_takes(desk: Desk) -> None:
    for start in range(0, 2400, 800):
        await desk.publish(DEAD, *(failed(f"job-{start + number}") for number in range(800)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        result = await look(desk, run.leases, 2400)
        assert 2400 == len({message.message_id for message in result.messages})


async def test_message_that_does_not_match_is_released_at_once(desk: Desk) -> None:
    bobs = await desk.publish(DEAD, *(failed(f"job-{number}", "bob") for number in range(5)))
    await desk.publish(DEAD, *(failed(f"job-{number}", "alice") for number in range(5)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        await look(desk, run.leases, 10, of_users("alice"))
        assert sorted(bobs) == ids(await desk.waiting(DEAD, 5))


@only_embedded
async def test_scan_ends_though_messages_keep_coming(desk: Desk) -> None:
    there = await desk.publish(DEAD, failed("there"))

    async def drip() -> None:
        while True:
            await desk.publish(DEAD, failed("new"))
            await asyncio.sleep(desk.patience / 3)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(4), redrive(desk, DEAD, FakeTopic()) as run:
            result = await look(desk, run.leases, None)
    finally:
        dripping.cancel()
    assert {*there} <= {*ids(result.messages)}
    assert not result.complete


@only_embedded
async def test_scan_holds_no_more_than_its_limit(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(10)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        result = await look(desk, run.leases, 10, limit=3)
        assert (3, 10) == (len(result.messages), sum(count.matching for count in result.counts.values()))
        assert 7 == len(await desk.waiting(DEAD, 7))


@only_embedded
async def test_scan_counts_by_reason_what_matches_and_what_would_by_name(desk: Desk) -> None:
    events = [rejection(failed(), NOW, reason, user=user) for reason, user in [("A", "x"), ("A", "y"), (USED_UP, "x")]]
    await desk.publish(REJECTED, *events, b"rubbish")
    async with redrive(desk, REJECTED, FakeTopic()) as run:
        counts = (await look(desk, run.leases, 4)).counts
    assert {"A": (2, 2, 0, 2), USED_UP: (1, 0, 1, 1), "UNREADABLE": (1, 0, 1, 0)} == {
        reason: (count.found, count.matching, count.by_name, len(count.users)) for (reason, _), count in counts.items()
    }


async def test_scan_that_is_cancelled_releases_what_its_last_pull_brings(desk: Desk) -> None:
    seen = asyncio.Event()

    async def look_on() -> None:
        async with redrive(desk, DEAD, FakeTopic()) as run:
            await look(desk, run.leases, None, patience=2 * desk.patience, seen=lambda _: seen.set())

    looking = asyncio.create_task(look_on())
    published = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(5)))
    await seen.wait()
    published += await desk.publish(DEAD, *(failed(f"late-{number}") for number in range(5)))
    looking.cancel()  # in the middle of a pull that gets these
    await asyncio.gather(looking, return_exceptions=True)
    assert sorted(published) == ids(await desk.waiting(DEAD, 10))


# discarding


@only_embedded
async def test_discard_acknowledges_what_matches_and_nothing_else(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}", "alice") for number in range(5)))
    bobs = await desk.publish(DEAD, failed("bobs", "bob"))
    async with Leases(desk.connected, desk.project, DEAD) as leases:
        work = Discard(leases)
        await work.run((await look(desk, leases, 6, of_users("alice"))).messages, lambda _: None)
    assert 5 == len(work.handled)
    assert bobs == ids(await desk.waiting(DEAD, 1))


# putting back


async def test_message_that_was_put_back_is_acknowledged_and_no_other(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}", "alice") for number in range(5)))
    bobs = await desk.publish(DEAD, failed("bobs", "bob"))
    topic = FakeTopic()
    async with redrive(desk, DEAD, topic) as run:
        await put_back(run, (await look(desk, run.leases, 6, of_users("alice"))).messages)
    assert sorted(failed(f"job-{number}", "alice") for number in range(5)) == sorted(topic.published)
    assert bobs == ids(await desk.waiting(DEAD, 1))


async def test_message_is_not_acknowledged_before_its_event_is_accepted(desk: Desk) -> None:
    """The publish never comes back. Were the message acknowledged already, nobody would see it again."""
    published = await desk.publish(DEAD, failed())
    topic = FakeTopic(lambda: asyncio.sleep(3600))

    async def run_on() -> None:
        async with redrive(desk, DEAD, topic, grace=0.1) as run:
            await put_back(run, (await look(desk, run.leases, 1)).messages)

    running = asyncio.create_task(run_on())
    await topic.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert published == ids(await desk.waiting(DEAD, 1))


@only_embedded
@pytest.mark.parametrize("fault", [Transient("for long"), Misconfigured("no such topic")])
async def test_topic_that_takes_nothing_ends_the_run_and_loses_nothing(desk: Desk, fault: Exception) -> None:
    published = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(20)))

    async def refuse() -> None:
        raise fault

    topic = FakeTopic(refuse)
    with pytest.raises(type(fault)):
        async with redrive(desk, DEAD, topic, rate=100) as run:
            await put_back(run, (await look(desk, run.leases, 20)).messages)
    assert len(topic.at) < 20
    assert sorted(published) == ids(await desk.waiting(DEAD, 20))


@only_embedded
async def test_event_that_cannot_be_published_is_skipped_and_stops_no_other(desk: Desk) -> None:
    odd, *_ = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(5)))
    topic = FakeTopic(refused=failed("job-0"))
    async with redrive(desk, DEAD, topic) as run:
        await put_back(run, (await look(desk, run.leases, 5)).messages)
    assert (4, ["publishing: INVALID_ARGUMENT"]) == (len(topic.published), [one.why for one in run.skipped])
    assert [odd] == ids(await desk.waiting(DEAD, 1))


async def test_run_that_is_stopped_finishes_what_is_on_its_way_and_releases_the_rest(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(10)))
    gate = asyncio.Event()
    topic = FakeTopic(gate.wait)

    async def run_on() -> None:
        async with redrive(desk, DEAD, topic, rate=2) as run:
            await put_back(run, (await look(desk, run.leases, 10)).messages)

    running = asyncio.create_task(run_on())
    await topic.begun.wait()
    running.cancel()
    await asyncio.sleep(0.1)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    waiting = await desk.waiting(DEAD, 10 - len(topic.published))
    assert 1 <= len(topic.published) < 10
    everything = sorted(failed(f"job-{number}") for number in range(10))
    assert everything == sorted(topic.published + [message.data for message in waiting])


async def test_two_runs_at_once_put_everything_back_between_them(desk: Desk) -> None:
    everything = sorted(failed(f"job-{number}") for number in range(100))
    await desk.publish(DEAD, *everything)
    topics = [FakeTopic(), FakeTopic()]

    async def one(topic: FakeTopic) -> None:
        async with redrive(desk, DEAD, topic) as run:
            await put_back(run, (await look(desk, run.leases, None)).messages)

    await asyncio.gather(*map(one, topics))
    assert set(everything) == set(topics[0].published + topics[1].published)
    assert [] == await desk.waiting(DEAD, 0, seconds=2)


@only_embedded
async def test_run_keeps_to_its_rate(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(6)))
    topic = FakeTopic()
    async with redrive(desk, DEAD, topic, rate=10) as run:
        await put_back(run, (await look(desk, run.leases, 6)).messages)
    assert all(later - earlier >= 0.09 for earlier, later in zip(topic.at[:-1], topic.at[1:], strict=True))


@only_embedded
async def test_empty_event_is_skipped_since_pubsub_takes_none(desk: Desk) -> None:
    [empty] = await desk.publish(REJECTED, rejection(b"", NOW, Reason.MALFORMED_EVENT))
    async with redrive(desk, REJECTED, FakeTopic()) as run:
        await put_back(run, (await look(desk, run.leases, 1, named("MALFORMED_EVENT"))).messages)
        assert ["it is empty, and Pub/Sub takes no empty message"] == [one.why for one in run.skipped]
    assert [empty] == ids(await desk.waiting(REJECTED, 1))


@only_embedded
async def test_odd_rejections_stop_no_redrive(desk: Desk) -> None:
    odd = [rejection(failed(), NOW, job=job) for job in ("", "a/b", "another")]
    await desk.publish(REJECTED, *odd, b"rubbish", *(rejection(failed(), NOW) for _ in range(5)))
    topic = FakeTopic()
    async with redrive(desk, REJECTED, topic) as run:
        await put_back(run, (await look(desk, run.leases, 9)).messages)
    assert ([failed()] * 5, []) == (topic.published, run.skipped)


# with the ledger


def entry(reason: Reason, **changes: Any) -> LedgerEntry:
    """A job that was rejected at NOW."""
    known: Any = {"root_job_id": "job", "retries_before": 0, "claim_count": 1, "updated_at": NOW, "expire_at": NOW}
    return replace(LedgerEntry(job_id="job", state="rejected", reason=reason, **known), **changes)


async def redriven(
    desk: Desk, store: Store | None, topic: FakeTopic, reason: Reason, *events: bytes, budget: int = 3
) -> Redrive:
    await desk.publish(REJECTED, *(events or [rejection(failed(), NOW, reason)]))
    async with redrive(desk, REJECTED, topic, store, budget=budget) as run:
        await put_back(run, (await look(desk, run.leases, len(events) or 1, named(reason))).messages)
    return run


async def stored(store: MemoryStore) -> VersionedEntry:
    found = await store.load("job")
    assert found
    return found


@only_embedded
@pytest.mark.parametrize("reason", [Reason.OUTCOME_UNKNOWN, USED_UP])
async def test_parked_or_used_up_job_is_open_before_its_event_is_published(desk: Desk, reason: Reason) -> None:
    store = MemoryStore()
    await store.write(entry(reason, calls_made=3), None)
    states = []

    async def meanwhile() -> None:
        states.append((await stored(store)).entry.state)

    await redriven(desk, store, FakeTopic(meanwhile), reason)
    assert ["open"] == states
    assert (3 if reason == Reason.OUTCOME_UNKNOWN else 0) == (await stored(store)).entry.retries_used


@only_embedded
@pytest.mark.parametrize("reason", [Reason.REAUTHORIZATION_REQUIRED, Reason.ACCESS_DENIED, Reason.JOB_NOT_FOUND])
async def test_rejection_that_a_later_event_supersedes_leaves_the_ledger_alone(desk: Desk, reason: Reason) -> None:
    store, topic = MemoryStore(), FakeTopic()
    before = await store.write(entry(reason), None)
    await redriven(desk, store, topic, reason)
    assert (before.version, [failed()]) == ((await stored(store)).version, topic.published)


@only_embedded
@pytest.mark.parametrize(
    ("reason", "reopened"), [(Reason.OUTCOME_UNKNOWN, False), (USED_UP, True)], ids=["parked anew", "used up still"]
)
async def test_older_rejection_reopens_a_used_up_job_only(desk: Desk, reason: Reason, reopened: bool) -> None:
    """Whoever named an older parking has not looked at the newer call in doubt."""
    store, topic = MemoryStore(), FakeTopic()
    await store.write(entry(reason, calls_made=3), None)
    await redriven(desk, store, topic, reason, rejection(failed(), NOW - timedelta(minutes=1), reason))
    assert reopened == ((await stored(store)).entry.state == "open")
    assert [failed()] == topic.published


@only_embedded
async def test_of_two_copies_of_a_rejection_one_reopens(desk: Desk) -> None:
    store, topic = MemoryStore(), FakeTopic()
    before = await store.write(entry(USED_UP), None)
    await redriven(desk, store, topic, USED_UP, *[rejection(failed(), NOW, USED_UP)] * 2)
    assert (before.version + 1, 2) == ((await stored(store)).version, len(topic.published))


@only_embedded
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "a retry's new job"])
@pytest.mark.parametrize(("attempt", "budget", "skipped"), [(3, 3, True), (3, 4, False), (1, 3, False)])
async def test_event_whose_own_attempt_uses_up_the_budget_is_skipped(
    desk: Desk, known: bool, attempt: int, budget: int, skipped: bool
) -> None:
    """It was rejected for that, which leaves no trace in the ledger, and would be again."""
    store, topic = MemoryStore(), FakeTopic()
    if known:
        await store.write(entry(USED_UP, state="open", claim_count=0, retries_before=1), None)
    event = rejection(failed(attempt=attempt), NOW, USED_UP)
    run = await redriven(desk, store, topic, USED_UP, event, budget=budget)
    assert ["own `attempt` uses up the budget" in one.why for one in run.skipped] == [True] * skipped
    assert (not skipped, skipped) == (len(topic.published), len(await desk.waiting(REJECTED, skipped)))


@only_embedded
async def test_parked_job_that_the_ledger_does_not_know_is_skipped(desk: Desk) -> None:
    topic = FakeTopic()
    run = await redriven(desk, MemoryStore(), topic, Reason.OUTCOME_UNKNOWN)
    assert ["the ledger knows no such job"] == [one.why.partition(":")[0] for one in run.skipped]
    assert ([], 1) == (topic.published, len(await desk.waiting(REJECTED, 1)))


@only_embedded
async def test_ledger_in_the_functions_memory_skips_what_would_be_reopened(desk: Desk) -> None:
    topic = FakeTopic()
    run = await redriven(desk, None, topic, USED_UP)
    assert ([], 1) == (topic.published, len(run.skipped))


class Shaky(MemoryStore):
    """Fails for a moment, at the first reading and around the first writing; has an entry that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    async def load(self, job_id: str) -> VersionedEntry | None:
        self._fail("load")
        if job_id == "broken":
            raise UnreadableEntry("ledger entry 'broken' cannot be read")
        return await super().load(job_id)

    async def write(self, entry: Any, version: Any, link: Any = None) -> Any:
        self._fail("write")
        written = await super().write(entry, version, link)
        self._fail("written")
        return written

    def _fail(self, where: str) -> None:
        if self.faults[:1] == [where]:
            self.faults.pop(0)
            raise Transient("for a moment")


@only_embedded
async def test_ledger_that_fails_for_a_moment_is_tried_again(desk: Desk) -> None:
    store, topic = Shaky(), FakeTopic()
    await store.write(entry(USED_UP), None)
    store.faults = ["load", "write", "written"]
    await redriven(desk, store, topic, USED_UP)
    assert ([], "open", [failed()]) == (store.faults, (await stored(store)).entry.state, topic.published)


@only_embedded
async def test_broken_entry_is_skipped_by_name_and_stops_no_other(desk: Desk) -> None:
    store, topic = Shaky(), FakeTopic()
    await store.write(entry(USED_UP), None)
    events = [rejection(failed(job), NOW, USED_UP, job=job) for job in ("broken", "job")]
    run = await redriven(desk, store, topic, USED_UP, *events)
    assert (["ledger entry 'broken' cannot be read"], [failed()]) == ([one.why for one in run.skipped], topic.published)
