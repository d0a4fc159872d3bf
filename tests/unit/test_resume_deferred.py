"""The schedule: what it puts back, and what a run that fails or dies leaves behind."""

import asyncio
import json
import time
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.bootstrap import MAX_RESUMED
from handlers.domain.answers import OutcomeUnknown
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Fault, Resumed, Retried, RetryLater
from handlers.ports import Store
from handlers.resume_deferred import MAX_CONCURRENCY
from tests.unit.fakes import Answer, PublishesAs, cooldown, die, grpc_error, hang
from tests.unit.instance import Instance, LogLines, failed, later

FAILED, STARTED = "archive-job-failed", "archive-job-started"
HOUR = 3600


async def deferred(instance: Instance, *jobs: str, **delivery: Any) -> None:
    """These jobs are due now."""
    new: list[Answer] = [(200, {"archiveJobId": f"{job}-new"}) for job in jobs]
    for job, answer in zip(jobs, new, strict=True):
        instance.script(job, cooldown(later(HOUR)), answer)
        await instance.deliver(failed(job, theirs=1), **delivery)
    instance.clock.wait(HOUR)


async def test_due_deferral_is_put_back_as_it_came(instance: Instance) -> None:
    await deferred(instance, "job", attributes={"own": "attribute"})
    assert Resumed(1) == await instance.resume()
    assert [failed(theirs=1, failedAt="2026-11-23T18:00:00.000Z")] == instance.published(FAILED)
    assert [{"own": "attribute"}] == instance.attributes(FAILED)
    assert Resumed(0) == await instance.resume()
    assert Retried("job-new") == await instance.deliver(instance.published(FAILED)[0])


async def test_due_entry_without_an_event_is_named_and_passed_by(instance: Instance, logged: LogLines) -> None:
    await deferred(instance, "edited", "job")
    found = await instance.container.store.load("edited")
    assert found
    await instance.container.store.write(replace(found.entry, event=b""), found.version)
    assert Resumed(1) == await instance.resume()
    assert ["job"] == [event["archiveJobId"] for event in instance.published(FAILED)]
    assert ["ledger entry edited cannot be read (it is due, and has no event): edited by hand?"] == [
        line["message"] for line in logged.lines if line["severity"] == "WARNING"
    ]


async def test_deferral_is_not_put_back_before_its_time(instance: Instance) -> None:
    await deferred(instance, "job")
    instance.clock.wait(-1)
    assert Resumed(0) == await instance.resume()


async def test_run_puts_back_many_in_parts(instance: Instance) -> None:
    await deferred(instance, *(f"job-{number}" for number in range(120)))
    assert Resumed(120) == await instance.resume()
    assert 120 == len({message["archiveJobId"] for message in instance.published(FAILED)})


@pytest.mark.parametrize(
    ("code", "outcome"), [("UNAVAILABLE", RetryLater), ("NOT_FOUND", Fault), ("INVALID_ARGUMENT", Fault)]
)
async def test_unpublished_deferral_is_due_again(instance: Instance, code: str, outcome: type) -> None:
    await deferred(instance, "job")
    instance.topics.failures[FAILED] = grpc_error(code)
    assert outcome is type(await instance.resume())
    assert "publish" == instance.line["failedStep"]
    instance.topics.failures.clear()
    assert Resumed(1) == await instance.resume()


async def test_run_that_hangs_ends_at_its_deadline() -> None:
    instance = Instance(HANDLER_DEADLINE_SECONDS="0.2")
    await deferred(instance, "job")
    topics, instance.clients.topics = instance.topics, PublishesAs(hang)
    async with asyncio.timeout(5):
        assert RetryLater("not over in time: publish") == await instance.resume()
    instance.clients.topics = topics
    assert Resumed(1) == await instance.resume()


@pytest.mark.parametrize("out", [False, True])
async def test_run_that_dies_leaves_its_deferral_due(instance: Instance, out: bool) -> None:
    await deferred(instance, "job")
    topics, instance.clients.topics = instance.topics, PublishesAs(die, out=out)
    with pytest.raises(asyncio.CancelledError):
        await instance.resume()
    instance.clients.topics = topics
    assert (Resumed(1), 1) == (await instance.resume(), len(instance.published(FAILED)))


async def test_two_runs_at_once_cost_one_call(instance: Instance) -> None:
    await deferred(instance, "job")
    await asyncio.gather(instance.resume(), instance.resume())
    for message in instance.published(FAILED):
        await instance.deliver(message)
    assert ["job", "job"] == instance.http.retries  # the one that was deferred, and the one that was due


async def test_bad_events_hold_up_no_other(instance: Instance) -> None:
    await deferred(instance, *(f"{'bad' if number < 60 else 'good'}-{number}" for number in range(130)))

    async def reject(request: Any) -> None:
        if any(b'"bad-' in message.data for message in request.messages):
            raise grpc_error("INVALID_ARGUMENT")

    instance.clients.topics = PublishesAs(reject)
    assert isinstance(await instance.resume(), Fault)
    assert 70 == len(instance.clients.topics.messages)


async def test_fault_of_ours_is_told_before_one_that_passes(instance: Instance) -> None:
    await deferred(instance, "a-good-one", "bad")

    async def refuse(request: Any) -> None:
        raise grpc_error("INVALID_ARGUMENT" if any(b'"bad"' in one.data for one in request.messages) else "UNAVAILABLE")

    instance.clients.topics = PublishesAs(refuse)
    assert isinstance(await instance.resume(), Fault)


async def test_event_whose_attributes_the_topic_refuses_is_put_back_without_them(instance: Instance) -> None:
    """Whoever calls over HTTP can send what no topic takes. So many would hold up all others."""
    await deferred(instance, *(f"job-{number}" for number in range(120)), attributes={"theirs": "full"})

    async def reject(request: Any) -> None:
        if any(message.attributes for message in request.messages):
            raise grpc_error("INVALID_ARGUMENT")

    instance.clients.topics = PublishesAs(reject)
    assert Resumed(120) == await instance.resume()


async def test_claimed_entries_hold_up_no_other(instance: Instance) -> None:
    """What a delivery has claimed meanwhile stays due until its event is put back."""
    await deferred(instance, *(f"job-{number}" for number in range(70)))
    instance.topics.failures["archive-job-retried"] = grpc_error("UNAVAILABLE")
    for number in range(60):
        assert isinstance(await instance.deliver(failed(f"job-{number}")), RetryLater)
    assert Resumed(70) == await instance.resume()


async def test_entries_with_a_call_in_doubt_hold_up_no_other(instance: Instance) -> None:
    await deferred(instance, *(f"job-{number}" for number in range(70)))
    for number in range(60):
        instance.script(f"job-{number}", OutcomeUnknown("words"))
        assert isinstance(await instance.deliver(failed(f"job-{number}")), RetryLater)
    assert Resumed(10) == await instance.resume()


async def test_run_with_more_than_its_time_allows_has_succeeded() -> None:
    instance = Instance(HANDLER_DEADLINE_SECONDS="1")
    await deferred(instance, *(f"job-{number}" for number in range(500)))

    async def slow(request: Any) -> None:
        await asyncio.sleep(0.4)

    instance.clients.topics = PublishesAs(slow)
    outcome = await instance.resume()
    assert Resumed(len(instance.clients.topics.messages)) == outcome
    assert 0 < len(instance.clients.topics.messages) < 500


async def test_late_duplicate_loses_no_deferral(instance: Instance) -> None:
    await deferred(instance, "job")
    instance.topics.failures["archive-job-retried"] = grpc_error("UNAVAILABLE")
    await instance.deliver()
    instance.topics.failures.clear()
    assert Resumed(1) == await instance.resume()
    assert Retried("job-new") == await instance.deliver(instance.published(FAILED)[0])
    assert Resumed(0) == await instance.resume()
    assert 2 == len(instance.http.retries)


async def test_deferral_with_a_call_in_doubt_is_put_back_after_the_pause(instance: Instance) -> None:
    await deferred(instance, "job")
    instance.script("job", OutcomeUnknown("words"), (200, {"archiveJobId": "job-new"}))
    assert isinstance(await instance.deliver(), RetryLater)
    assert Resumed(0) == await instance.resume()
    instance.clock.wait(121)
    assert Resumed(1) == await instance.resume()
    assert Retried("job-new") == await instance.deliver(instance.published(FAILED)[0])


# with the watch


async def watched(instance: Instance, number: int) -> None:
    """So many running jobs whose next look is due."""
    await waiting(instance.container.watch_store, number, instance.clock())


async def waiting(store: Store, number: int, now: datetime) -> None:
    """So many entries that are due."""
    for index in range(number):
        event = json.dumps(failed(f"running-{index}")).encode()
        entry = LedgerEntry(
            job_id=f"running-{index}", root_job_id="", retries_before=0, updated_at=now, expire_at=later(30 * 24 * HOUR)
        )
        await store.write(entry.deferred(now, event, "{}"), None)


async def test_fifty_thousand_due_looks_delay_no_cooldown() -> None:
    instance = Instance(HANDLER_DEADLINE_SECONDS="2")
    await deferred(instance, "job")
    await watched(instance, 50_000)
    before = len(instance.topics.messages)
    assert isinstance(await instance.resume(), Resumed)
    topics = [topic for topic, _ in instance.topics.messages[before:]]
    assert topics.index(FAILED) <= MAX_CONCURRENCY  # it was in the first round
    assert 1 == topics.count(FAILED)


async def test_deferrals_of_one_run_are_limited_and_looks_are_not(instance: Instance, figure: Any) -> None:
    for store in (instance.container.store, instance.container.watch_store):
        await waiting(store, MAX_RESUMED + 1, instance.clock())
    begun = time.monotonic()
    assert Resumed(2 * MAX_RESUMED + 1) == await instance.resume()
    figure(
        f"ms for a run of the schedule to put {2 * MAX_RESUMED:,} events back", round((time.monotonic() - begun) * 1000)
    )
    topics = Counter(topic for topic, _ in instance.topics.messages)
    assert {FAILED: MAX_RESUMED, STARTED: MAX_RESUMED + 1} == topics


@pytest.mark.parametrize(("broken", "other"), [(FAILED, STARTED), (STARTED, FAILED)])
async def test_run_of_one_collection_that_fails_holds_up_no_other(instance: Instance, broken: str, other: str) -> None:
    await deferred(instance, "job")
    await watched(instance, 1)
    instance.topics.failures = {broken: grpc_error("NOT_FOUND"), other: grpc_error("UNAVAILABLE")}
    assert isinstance(await instance.resume(), Fault)  # of both
    instance.topics.failures[broken] = grpc_error("UNAVAILABLE")
    del instance.topics.failures[other]
    assert isinstance(await instance.resume(), RetryLater)
    assert (0, 1) == (len(instance.published(broken)), len(instance.published(other)))
    instance.topics.failures.clear()
    assert Resumed(1) == await instance.resume()


async def test_bug_in_the_run_of_one_collection_cuts_off_no_other() -> None:
    instance = Instance(RETRY_LEDGER="firestore")
    await instance.watch(failed("running"))
    instance.clock.wait(HOUR)
    instance.documents.faults = [ZeroDivisionError()]  # the query for deferrals
    with pytest.raises(ZeroDivisionError):
        await instance.resume()
    assert 1 == len(instance.published(STARTED))
