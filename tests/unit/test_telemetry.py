"""What the line of a delivery tells, beyond its outcome: whatever metrics and people go by."""

import logging
import time
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.entries import Entry
from handlers.ledger import Ledger
from handlers.memory_store import MemoryStore
from handlers.outcomes import Deferred, NotNow, Rejected, Retried, Unavailable
from handlers.ports import NoAnswer, NotSent
from handlers.telemetry import FIELDS, Journal
from tests.unit.world import NOW, World, error_info, failed, google_error

COOLDOWN = google_error(
    429, "RESOURCE_EXHAUSTED", error_info("RESOURCE_EXHAUSTED_TIME_BASED", timestamp_after_24hrs="2026-11-24T18:00:00Z")
)


async def told(world: World, event: dict[str, Any] | bytes | None = None, **delivery: Any) -> dict[str, Any]:
    await world.deliver(event or failed(), **delivery)
    assert set() == set(world.journal.fields) - set(FIELDS)
    return world.journal.fields


async def test_the_delay_is_from_the_publishing_to_the_follow_up_or_from_the_failure_where_it_is_told() -> None:
    world = World()
    fields = await told(world, published_at=NOW - timedelta(seconds=4))
    assert 4.0 == fields["delaySeconds"]
    fields = await told(world, failed("other", failedAt="2026-11-23T17:59:00.500Z"))
    assert 59.5 == fields["delaySeconds"]


async def test_a_producers_clock_that_is_ahead_makes_no_negative_delay() -> None:
    assert 0.0 == (await told(World(), failed(failedAt="2026-11-23T18:00:09Z")))["delaySeconds"]


async def test_a_delivery_that_repeats_an_outcome_says_so_and_tells_no_delay() -> None:
    world = World()
    assert (await told(world))["republished"] is False
    again = await told(world)
    assert again["republished"] is True
    assert "delaySeconds" not in again


async def test_a_redelivery_that_publishes_what_was_recorded_before_tells_the_whole_delay() -> None:
    world = World()
    world.retried.failure = Unavailable("down")
    assert "delaySeconds" not in await told(world, published_at=NOW, attempt=1)
    world.retried.failure = None
    world.time += timedelta(minutes=20)
    fields = await told(world, published_at=NOW, attempt=2)
    assert (False, 1200.0) == (fields["republished"], fields["delaySeconds"])


async def test_what_google_or_a_person_was_waited_for_is_no_delay_of_ours() -> None:
    world = World()
    world.script("job", COOLDOWN, (200, {"archiveJobId": "job-again"}))
    assert isinstance(await world.deliver(failed()), Deferred)
    world.time += timedelta(days=2)
    assert isinstance(await world.deliver(failed()), Retried)
    assert "delaySeconds" not in world.journal.fields
    revoked = World()
    token = revoked.secrets.content.pop("token-alice")
    assert isinstance(await revoked.deliver(failed()), Rejected)
    revoked.secrets.content["token-alice"] = token
    assert isinstance(await revoked.deliver(failed()), Retried)
    assert "delaySeconds" not in revoked.journal.fields


@pytest.mark.parametrize(
    ("step", "unknown"), [((503, b""), 1), (NoAnswer("cut"), 1), (NotSent("no route"), 0), ((429, b""), 0)]
)
async def test_a_call_without_a_known_outcome_is_counted_at_the_delivery_that_made_it(step: Any, unknown: int) -> None:
    world = World()
    world.script("job", step)
    assert isinstance(await world.deliver(failed()), NotNow)
    assert (unknown, "retry") == (world.journal.fields["callsUnknown"], world.journal.fields["failedStep"])


async def test_a_claim_that_lapsed_is_a_call_without_a_known_outcome_at_the_delivery_that_takes_it_over() -> None:
    world = World()
    world.store = DiesInTheCall()
    world.case = replace(world.case, ledger=Ledger(world.store, lease_seconds=-1, keep=timedelta(1), now=lambda: NOW))
    with pytest.raises(BrokenPipeError):
        await world.deliver(failed())
    assert 0 == world.journal.fields["callsUnknown"]
    assert isinstance(await world.deliver(failed()), Retried)
    assert 1 == world.journal.fields["callsUnknown"]


@pytest.mark.parametrize(("answer", "outcome"), [((503, b""), NotNow), ((400, {"error": "invalid_grant"}), Rejected)])
async def test_a_claim_that_was_given_up_is_no_call_without_a_known_outcome(answer: Any, outcome: type) -> None:
    world = World()
    world.http.token_script = [answer]
    assert outcome is type(await world.deliver(failed()))
    world.http.token_script = []
    assert 0 == (await told(world))["callsUnknown"]
    assert 1 == len(world.retried.messages)


class DiesInTheCall(MemoryStore):
    """Its second write, which would record Google's answer, never comes."""

    writes = 0

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        self.writes += 1
        if self.writes == 2:
            raise BrokenPipeError
        return await super().write(entry, version, link)


async def test_a_token_at_hand_is_told_from_one_that_is_fetched() -> None:
    world = World()
    assert [False, True] == [(await told(world, failed(job)))["tokenCached"] for job in ("one", "two")]
    assert "tokenCached" not in await told(world, b"not an event")


async def test_the_step_that_brought_no_result_is_named() -> None:
    world = World()
    world.http.token_script = [(503, b"")]
    assert "token" == (await told(world))["failedStep"]
    assert "failedStep" not in await told(World())


def test_a_step_and_the_whole_are_told_in_milliseconds() -> None:
    journal = Journal()
    with journal.step("claim"):
        time.sleep(0.05)
    journal.write(logging.DEBUG, "words")
    for told in (journal.fields["stepsMs"]["claim"], journal.fields["latencyMs"]):
        assert 50 <= told < 5000


@pytest.mark.parametrize(
    ("event", "job", "user"),
    [
        ({"archiveJobId": "archiveJobs/job", "userId": "alice", "attempt": "one"}, "job", "alice"),
        ({"userId": "alice"}, "", "alice"),
        (b"not an event", "", ""),
    ],
)
async def test_of_a_malformed_event_job_and_user_are_told_where_they_are_known(event: Any, job: str, user: str) -> None:
    fields = await told(World(), event)
    assert (job, user) == (fields["archiveJobId"], fields["userId"])
