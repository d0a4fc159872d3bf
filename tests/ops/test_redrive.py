"""Rules of the redrive: nothing lost, nothing acknowledged too early, and everybody else left in peace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from handlers.events import ArchiveJobFailed
from handlers.outcomes import Misconfigured, Reason, Unavailable
from msgspec.structs import replace

from handlers.ledger import Claim, Ledger, Store, Stored
from handlers.memory_store import MemoryStore
from local.topics import DEAD, REJECTED
from ops.leases import Leases
from ops.letters import Letter, Wanted, dead_letter_reader, read_rejection
from ops.redrive import Found, Redrive
from tests.ops.desk import Desk, failed, rejection

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
FAST = 1000.0  # a second

only_embedded = pytest.mark.parametrize("desk", ["embedded"], indirect=True)  # where the rule is not about Pub/Sub


class FakeTopic:
    """Keeps what was published, and when; `meanwhile` happens in the middle of it."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        self.published: list[bytes] = []
        self.at: list[float] = []
        self.begun = asyncio.Event()
        self.meanwhile = meanwhile

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self.begun.set()
        if self.meanwhile:
            await self.meanwhile()
        self.published.append(data)


@asynccontextmanager
async def redrive(
    desk: Desk, name: str, topic: FakeTopic, store: Store | None = None, grace: float = 10
) -> AsyncIterator[Redrive]:
    read = dead_letter_reader(NOW, timedelta(days=14)) if name == DEAD else read_rejection
    async with Leases(desk.subscriber, desk.project, name) as leases:
        yield Redrive(leases, read, topic, store, lambda: datetime.now(UTC), grace=grace)


async def look(desk: Desk, run: Redrive, expected: int, wanted: Wanted | None = None, limit: int = 10_000) -> Found:
    found = await run.look(wanted or Wanted(), limit=limit, patience=desk.patience, seen=lambda _: None)
    assert expected == found.looked_at
    return found


async def put_back(run: Redrive, letters: list[Letter], rate: float = FAST) -> None:
    await run.run(letters, rate=rate, done=lambda _: None)


def ids(messages: list[Any]) -> list[str]:
    return sorted(message.message_id for message in messages)


# looking


async def test_who_only_looks_changes_nothing_and_keeps_nobody_waiting(desk: Desk) -> None:
    published = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(20)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        found = await look(desk, run, 20)
    assert sorted(published) == sorted(letter.message_id for letter in found.letters)
    assert sorted(published) == ids(await desk.waiting(DEAD, 20))


async def test_each_message_is_counted_once_however_many_pulls_it_takes(desk: Desk) -> None:
    for start in range(0, 2400, 800):
        await desk.publish(DEAD, *(failed(f"job-{start + number}") for number in range(800)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        found = await look(desk, run, 2400)
        assert 2400 == len({letter.message_id for letter in found.letters})


async def test_what_is_not_meant_is_available_at_once_while_the_rest_is_in_hand(desk: Desk) -> None:
    bobs = await desk.publish(DEAD, *(failed(f"job-{number}", "bob") for number in range(5)))
    await desk.publish(DEAD, *(failed(f"job-{number}", "alice") for number in range(5)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        await look(desk, run, 10, Wanted(users=frozenset({"alice"})))
        assert sorted(bobs) == ids(await desk.waiting(DEAD, 5))


@only_embedded
async def test_no_more_are_in_hand_than_the_limit_says(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(10)))
    async with redrive(desk, DEAD, FakeTopic()) as run:
        found = await look(desk, run, 10, limit=3)
        assert (3, 10) == (len(found.letters), sum(tally.wanted for tally in found.tallies.values()))
        assert 7 == len(await desk.waiting(DEAD, 7))


@only_embedded
async def test_what_was_found_is_counted_by_reason(desk: Desk) -> None:
    events = [rejection(failed(), NOW, reason, user=user) for reason, user in [("A", "x"), ("A", "y"), ("B", "x")]]
    await desk.publish(REJECTED, *events, b"rubbish")
    async with redrive(desk, REJECTED, FakeTopic()) as run:
        tallies = (await look(desk, run, 4)).tallies
    assert {"A": (2, 2), "B": (1, 1), "UNREADABLE": (1, 0)} == {
        reason: (tally.found, len(tally.users)) for (reason, _), tally in tallies.items()
    }


async def test_one_who_is_stopped_while_looking_keeps_nobody_waiting(desk: Desk) -> None:
    seen = asyncio.Event()

    async def look_on() -> None:
        async with redrive(desk, DEAD, FakeTopic()) as run:
            await run.look(Wanted(), limit=1000, patience=2 * desk.patience, seen=lambda _: seen.set())

    looking = asyncio.create_task(look_on())
    published = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(5)))
    await seen.wait()
    published += await desk.publish(DEAD, *(failed(f"late-{number}") for number in range(5)))
    looking.cancel()  # in the middle of a pull that gets these
    await asyncio.gather(looking, return_exceptions=True)
    assert sorted(published) == ids(await desk.waiting(DEAD, 10))


# putting back


async def test_what_was_put_back_is_acknowledged_and_nothing_else(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}", "alice") for number in range(5)))
    bobs = await desk.publish(DEAD, failed("bobs", "bob"))
    topic = FakeTopic()
    async with redrive(desk, DEAD, topic) as run:
        await put_back(run, (await look(desk, run, 6, Wanted(users=frozenset({"alice"})))).letters)
    assert sorted(failed(f"job-{number}", "alice") for number in range(5)) == sorted(topic.published)
    assert bobs == ids(await desk.waiting(DEAD, 1))


async def test_nothing_is_acknowledged_before_its_event_is_accepted(desk: Desk) -> None:
    """The publish never comes back. Were the message acknowledged already, nobody would see it again."""
    published = await desk.publish(DEAD, failed())
    topic = FakeTopic(lambda: asyncio.sleep(3600))

    async def run_on() -> None:
        async with redrive(desk, DEAD, topic, grace=0.1) as run:
            await put_back(run, (await look(desk, run, 1)).letters)

    running = asyncio.create_task(run_on())
    await topic.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert published == ids(await desk.waiting(DEAD, 1))


@only_embedded
@pytest.mark.parametrize("fault", [Unavailable("for long"), Misconfigured("no such topic")])
async def test_a_topic_that_takes_nothing_ends_the_run_and_loses_nothing(desk: Desk, fault: Exception) -> None:
    published = await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(20)))

    async def refuse() -> None:
        raise fault

    topic = FakeTopic(refuse)
    with pytest.raises(type(fault)):
        async with redrive(desk, DEAD, topic) as run:
            await put_back(run, (await look(desk, run, 20)).letters, rate=100)
    assert len(topic.at) < 20
    assert sorted(published) == ids(await desk.waiting(DEAD, 20))


async def test_who_is_stopped_finishes_what_is_on_its_way_and_gives_the_rest_back(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(10)))
    gate = asyncio.Event()
    topic = FakeTopic(gate.wait)

    async def run_on() -> None:
        async with redrive(desk, DEAD, topic) as run:
            await put_back(run, (await look(desk, run, 10)).letters, rate=2)

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
            found = await run.look(Wanted(), limit=1000, patience=desk.patience, seen=lambda _: None)
            await put_back(run, found.letters)

    await asyncio.gather(*map(one, topics))
    assert set(everything) == set(topics[0].published + topics[1].published)
    assert [] == await desk.waiting(DEAD, 0, seconds=2)


@only_embedded
async def test_no_more_than_the_rate_go_back_in_a_second(desk: Desk) -> None:
    await desk.publish(DEAD, *(failed(f"job-{number}") for number in range(6)))
    topic = FakeTopic()
    async with redrive(desk, DEAD, topic) as run:
        await put_back(run, (await look(desk, run, 6)).letters, rate=10)
    assert all(later - earlier >= 0.09 for earlier, later in zip(topic.at[:-1], topic.at[1:], strict=True))


@only_embedded
async def test_an_empty_event_is_left_and_available_since_pubsub_would_not_take_it(desk: Desk) -> None:
    [empty] = await desk.publish(REJECTED, rejection(b"", NOW, Reason.MALFORMED_EVENT))
    async with redrive(desk, REJECTED, FakeTopic()) as run:
        await put_back(run, (await look(desk, run, 1, Wanted(reasons=frozenset({"MALFORMED_EVENT"})))).letters)
        assert ["it is empty, and Pub/Sub takes no empty message"] == [left.why for left in run.left]
    assert [empty] == ids(await desk.waiting(REJECTED, 1))


# with the ledger


async def rejected_by(store: Store, reason: Reason = Reason.ACCESS_DENIED, **changes: Any) -> Stored:
    """A job that this ledger holds as rejected."""
    ledger = Ledger(store, lease_seconds=150, keep=timedelta(days=45), now=lambda: NOW)
    claim = await ledger.claim(ArchiveJobFailed(job_id="job", user_id="alice", credential_id="alice"))
    assert isinstance(claim, Claim)
    await ledger.record(claim, replace(claim.entry, **changes).rejected(reason, "words"))
    return await stored(store)


async def stored(store: Store) -> Stored:
    found = await store.load("job")
    assert found
    return found


async def redriven(desk: Desk, store: Store | None, topic: FakeTopic, *events: bytes) -> Redrive:
    await desk.publish(REJECTED, *(events or [rejection(failed(), NOW)]))
    async with redrive(desk, REJECTED, topic, store) as run:
        await put_back(run, (await look(desk, run, len(events) or 1)).letters)
    return run


@only_embedded
async def test_a_final_rejection_is_open_before_its_event_is_published(desk: Desk) -> None:
    store = MemoryStore()
    await rejected_by(store)
    states = []

    async def meanwhile() -> None:
        states.append((await stored(store)).entry.state)

    await redriven(desk, store, FakeTopic(meanwhile))
    assert ["open"] == states


@only_embedded
@pytest.mark.parametrize("reason", [Reason.REAUTHORIZATION_REQUIRED, Reason.EVENT_EXPIRED])
async def test_a_rejection_that_can_be_claimed_anyway_leaves_the_ledger_alone(desk: Desk, reason: Reason) -> None:
    store, topic = MemoryStore(), FakeTopic()
    before = await rejected_by(store, reason)
    await redriven(desk, store, topic, rejection(failed(), NOW, reason))
    assert before.version == (await stored(store)).version
    assert [failed()] == topic.published


@only_embedded
async def test_a_job_that_was_answered_anew_since_is_not_reopened(desk: Desk) -> None:
    """A second copy of a rejection whose first was put back already: Google must not be asked twice for it."""
    store, topic = MemoryStore(), FakeTopic()
    before = await rejected_by(store)
    old = rejection(failed(), NOW - timedelta(minutes=1))
    await redriven(desk, store, topic, old)
    assert before.version == (await stored(store)).version
    assert [failed()] == topic.published


@only_embedded
async def test_of_a_job_that_used_up_its_retries_any_rejection_gives_its_calls_in_doubt_back(
    desk: Desk,
) -> None:
    store, topic = MemoryStore(), FakeTopic()
    await rejected_by(store, Reason.RETRY_BUDGET_EXHAUSTED, calls_counted=3)
    await desk.publish(REJECTED, rejection(failed(), NOW - timedelta(minutes=1), Reason.RETRY_BUDGET_EXHAUSTED))
    async with redrive(desk, REJECTED, topic, store) as run:
        named = Wanted(reasons=frozenset({Reason.RETRY_BUDGET_EXHAUSTED}))
        await put_back(run, (await look(desk, run, 1, named)).letters)
    entry = (await stored(store)).entry
    assert ("open", 0, [failed()]) == (entry.state, entry.used, topic.published)


@only_embedded
async def test_of_two_copies_of_a_rejection_one_reopens(desk: Desk) -> None:
    store, topic = MemoryStore(), FakeTopic()
    before = await rejected_by(store)
    await redriven(desk, store, topic, *[rejection(failed(), NOW)] * 2)
    assert before.version + 1 == (await stored(store)).version
    assert 2 == len(topic.published)


@only_embedded
async def test_a_final_rejection_of_a_job_that_the_ledger_does_not_know_is_left(desk: Desk) -> None:
    topic = FakeTopic()
    run = await redriven(desk, MemoryStore(), topic)
    assert ["the ledger knows no such job: is this the function's database?"] == [left.why for left in run.left]
    assert ([], 1) == (topic.published, len(await desk.waiting(REJECTED, 1)))


@only_embedded
async def test_a_ledger_in_the_functions_memory_leaves_final_rejections_and_no_others(desk: Desk) -> None:
    topic = FakeTopic()
    dark = rejection(failed("dark"), NOW, Reason.REAUTHORIZATION_REQUIRED)
    run = await redriven(desk, None, topic, rejection(failed("final"), NOW), dark)
    assert [failed("dark")] == topic.published
    assert 1 == len(run.left)


class Shaky(MemoryStore):
    """Fails for a moment, at the first reading and around the first writing."""

    def __init__(self) -> None:
        super().__init__()
        self.shaken = ["load", "write", "written"]

    async def load(self, job_id: str) -> Stored | None:
        self._shake("load")
        return await super().load(job_id)

    async def write(self, entry: Any, version: Any, link: Any = None) -> Any:
        self._shake("write")
        version = await super().write(entry, version, link)
        self._shake("written")
        return version

    def _shake(self, where: str) -> None:
        if self.shaken[:1] == [where]:
            self.shaken.pop(0)
            raise Unavailable("for a moment")


@only_embedded
async def test_a_ledger_that_fails_for_a_moment_is_tried_again(desk: Desk) -> None:
    store, topic = Shaky(), FakeTopic()
    shaken, store.shaken = store.shaken, []
    await rejected_by(store)
    store.shaken = shaken
    await redriven(desk, store, topic)
    assert ([], "open", [failed()]) == (store.shaken, (await stored(store)).entry.state, topic.published)
