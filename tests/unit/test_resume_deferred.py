"""Rules of what a schedule puts back."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.ledger import Ledger, Stored
from handlers.memory_store import MemoryStore
from handlers.outcomes import Broken, Misconfigured, NotNow, Resumed, Retried, Unavailable
from handlers.resume_deferred import ResumeDeferred
from handlers.telemetry import Journal
from tests.unit.world import NOW, FakeTopic, World, error_info, failed, google_error


def resume(world: World, topic: FakeTopic, limit: int = 100, deadline: float = 5) -> ResumeDeferred:
    return ResumeDeferred(ledger=world.ledger, failed=topic, limit=limit, deadline=deadline)


async def defer(world: World, job: str = "job", **delivery: Any) -> None:
    info = error_info("RESOURCE_EXHAUSTED_TIME_BASED", timestamp_after_24hrs=(NOW + timedelta(hours=1)).isoformat())
    world.script(job, google_error(429, "RESOURCE_EXHAUSTED", info), (200, {"archiveJobId": f"{job}-new"}))
    await world.deliver(failed(job, theirs=1), **delivery)


async def test_a_deferral_goes_back_exactly_as_it_came_when_it_is_due_and_is_then_retried() -> None:
    world, topic = World(), FakeTopic()
    await defer(world, attributes={"own": "attribute"})
    assert Resumed(0) == await resume(world, topic)(Journal())
    world.time += timedelta(hours=1)
    assert Resumed(1) == await resume(world, topic)(Journal())
    assert ([failed(theirs=1)], [{"own": "attribute"}]) == (topic.messages, topic.attributes)
    assert Resumed(0) == await resume(world, topic)(Journal())
    assert Retried("job-new") == await world.deliver(topic.messages[0])


async def test_one_run_puts_back_no_more_than_its_limit() -> None:
    world, topic = World(), FakeTopic()
    for number in range(120):
        await defer(world, f"job-{number}")
    world.time += timedelta(hours=1)
    assert [Resumed(100), Resumed(20), Resumed(0)] == [await resume(world, topic)(Journal()) for _ in range(3)]
    assert 120 == len({message["archiveJobId"] for message in topic.messages})


async def test_a_run_has_few_events_in_hand_at_a_time() -> None:
    world, topic, asked = World(), FakeTopic(), []

    class Asked(MemoryStore):
        async def due(self, now: datetime, limit: int) -> list[Stored]:
            asked.append(limit)
            return await super().due(now, limit)

    world.ledger = Ledger(Asked(), lease_seconds=150, keep=timedelta(days=45), now=lambda: world.time)
    world.case = replace(world.case, ledger=world.ledger)
    for number in range(120):
        await defer(world, f"job-{number}")
    world.time += timedelta(hours=1)
    assert Resumed(120) == await resume(world, topic, limit=1000)(Journal())
    assert 50 == max(asked)


async def test_a_run_that_cannot_publish_says_at_which_step() -> None:
    world, topic, journal = World(), FakeTopic(), Journal()
    await defer(world)
    world.time += timedelta(hours=1)
    topic.failure = Misconfigured("NOT_FOUND")
    assert Broken("NOT_FOUND") == await resume(world, topic)(journal)
    assert "publish" == journal.fields["failedStep"]


async def test_two_runs_at_once_cost_google_one_call() -> None:
    world, topic = World(), FakeTopic()
    await defer(world)
    world.time += timedelta(hours=1)
    await asyncio.gather(*(resume(world, topic)(Journal()) for _ in range(2)))
    for message in topic.messages:
        await world.deliver(message)
    assert ["job", "job"] == world.http.retries  # the one that was deferred, and the one that was due


async def test_what_could_not_be_published_is_due_again() -> None:
    world, topic = World(), FakeTopic()
    await defer(world)
    world.time += timedelta(hours=1)
    topic.failure = Unavailable("down")
    assert NotNow("down") == await resume(world, topic)(Journal())
    topic.failure = None
    assert Resumed(1) == await resume(world, topic)(Journal())


async def test_a_run_whose_publishing_hangs_is_over_in_its_time_and_leaves_the_deferral_due() -> None:
    world, topic = World(), FakeTopic()
    await defer(world)
    world.time += timedelta(hours=1)

    class Hangs(FakeTopic):
        async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
            await asyncio.Future()

    async with asyncio.timeout(20):
        assert NotNow("not over in time") == await resume(world, Hangs(), deadline=0.1)(Journal())
    assert Resumed(1) == await resume(world, topic)(Journal())


class DiesPublishing(FakeTopic):
    """Its process dies when the message is out, or just before."""

    def __init__(self, *, out: bool) -> None:
        super().__init__()
        self.out = out

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        if self.out:
            await super().publish(data, attributes)
        raise asyncio.CancelledError


@pytest.mark.parametrize("out", [False, True])
async def test_a_run_that_dies_leaves_the_deferral_due(out: bool) -> None:
    world, topic = World(), FakeTopic()
    await defer(world)
    world.time += timedelta(hours=1)
    with pytest.raises(asyncio.CancelledError):
        await resume(world, DiesPublishing(out=out))(Journal())
    assert (Resumed(1), 1) == (await resume(world, topic)(Journal()), len(topic.messages))


async def test_a_delivery_whose_clock_is_behind_loses_no_deferral() -> None:
    world = World()
    await defer(world)
    due = world.time + timedelta(hours=1)

    class DeliveredAtOnce(FakeTopic):
        async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
            world.time = due - timedelta(seconds=1)
            self.outcome = await world.deliver(data)

    world.time, topic = due, DeliveredAtOnce()
    await resume(world, topic)(Journal())
    assert Retried("job-new") == topic.outcome


async def test_a_redelivery_that_is_faster_than_the_schedule_is_not_disturbed() -> None:
    world = World()
    await defer(world)
    world.time += timedelta(hours=1)
    [stored] = await world.ledger.due(1)
    assert Retried("job-new") == await world.deliver(failed())
    await resume(world, FakeTopic()).ledger.put_back(stored, never)
    assert Retried("job-new") == await world.deliver(failed())
    assert 2 == len(world.http.retries)


async def never() -> None:
    pytest.fail("published, though a delivery has claimed it")


async def test_a_late_duplicate_that_fails_to_publish_loses_no_deferral() -> None:
    world, topic = World(), FakeTopic()
    await defer(world)
    world.time += timedelta(hours=1)
    world.retried.failure = Unavailable("down")
    await world.deliver(failed())
    world.retried.failure = None
    assert Resumed(1) == await resume(world, topic)(Journal())
    assert Retried("job-new") == await world.deliver(topic.messages[0])
    assert Resumed(0) == await resume(world, topic)(Journal())
    assert 2 == len(world.http.retries)


async def test_deferrals_that_cannot_be_published_hold_up_no_other() -> None:
    world = World()
    for number in range(130):
        await defer(world, f"{'bad' if number < 60 else 'good'}-{number}")  # more than are in hand at once
    world.time += timedelta(hours=1)

    class TooLarge(FakeTopic):
        async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
            if b'"bad-' in data:
                raise Misconfigured("INVALID_ARGUMENT")
            await super().publish(data, attributes)

    topic = TooLarge()
    assert isinstance(await resume(world, topic, limit=1000)(Journal()), Broken)
    assert 70 == len(topic.messages)


async def test_a_run_that_has_more_to_put_back_than_its_time_allows_has_succeeded() -> None:
    world = World()
    for number in range(500):
        await defer(world, f"job-{number}")
    world.time += timedelta(hours=1)

    class Slow(FakeTopic):
        async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
            await asyncio.sleep(0.4)
            await super().publish(data, attributes)

    topic = Slow()
    outcome = await resume(world, topic, limit=1000, deadline=3.5)(Journal())
    assert Resumed(len(topic.messages)) == outcome
    assert 0 < len(topic.messages) < 500
