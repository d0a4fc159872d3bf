"""Calls in doubt: counted, never sent at once again, and bounded; adopted or parked where the contract says so."""

import asyncio
from typing import Any

import pytest

from handlers.domain.answers import OutcomeUnknown
from handlers.domain.outcomes import Fault, Rejected, Retried, RetryLater
from tests.unit.fakes import Answer, Step, error_info, google_error
from tests.unit.instance import Instance, failed

NEW: Answer = (200, {"archiveJobId": "new"})
BAD_GATEWAY: Answer = (502, b"<html>Bad Gateway")


def adoption(job: str) -> Answer:
    return google_error(409, "ALREADY_EXISTS", error_info("ALREADY_EXISTS_TIME_BASED", job_id=job))


@pytest.mark.parametrize(
    ("doubtful", "outcome"),
    [
        (BAD_GATEWAY, RetryLater),
        (OutcomeUnknown("ServerDisconnectedError"), RetryLater),
        (RuntimeError("unexpected"), Fault),
        ((200, b"<html>Welcome"), Fault),
        ((200, {}), Fault),
    ],
)
async def test_call_in_doubt_is_counted_and_sent_again(instance: Instance, doubtful: Step, outcome: type) -> None:
    instance.script("job", doubtful, NEW)
    assert outcome is type(await instance.deliver())
    assert ("open", 1) == await instance.state()
    assert (1, "retry") == (instance.line["callsUnknown"], instance.line["failedStep"])
    instance.clock.wait(120)
    assert Retried("new") == await instance.deliver()
    assert 2 == instance.retried[0]["attempt"]


@pytest.mark.parametrize("pause", [120, 7])
async def test_doubt_pause_grows_thirtyfold(pause: int) -> None:
    instance = Instance(DOUBT_PAUSE_SECONDS=str(pause))
    instance.script("job", BAD_GATEWAY)
    await instance.deliver()
    for waits, calls in ((pause, 2), (pause * 30, 3)):
        instance.clock.wait(waits - 1)
        assert isinstance(await instance.deliver(attempt=1), RetryLater)
        assert isinstance(await instance.deliver(attempt=2), RetryLater)
        assert calls - 1 == len(instance.http.retries)
        instance.clock.wait(1)
        assert isinstance(await instance.deliver(), RetryLater)
        assert calls == len(instance.http.retries)


@pytest.mark.parametrize("event", [{}, {"attempt": 2}])
async def test_outage_shorter_than_an_hour_rejects_nothing(instance: Instance, event: dict[str, Any]) -> None:
    instance.script("job", BAD_GATEWAY)
    for _ in range(59):
        assert isinstance(await instance.deliver(failed(**event)), RetryLater)
        instance.clock.wait(60)


async def test_calls_in_doubt_never_exceed_the_budget(instance: Instance) -> None:
    instance.script("job", BAD_GATEWAY)
    outcomes = []
    for _ in range(6):
        outcomes.append(await instance.deliver())
        instance.clock.wait(4000)
    assert 3 == len(instance.http.retries)
    assert ["RETRY_BUDGET_EXHAUSTED"] * 3 == [one.reason for one in outcomes if isinstance(one, Rejected)]
    last = instance.rejected[-1]
    assert (3, 3) == (last["attempt"], last["callsInDoubt"])
    assert "tart a new export" not in last["detail"]


async def test_doubt_of_the_chain_is_handed_on(instance: Instance) -> None:
    instance.script("job", BAD_GATEWAY, NEW)
    instance.script("new", google_error(404, "NOT_FOUND"))
    await instance.deliver()
    instance.clock.wait(120)
    await instance.deliver()
    assert "JOB_NOT_FOUND" == await instance.reason(failed("new"))
    assert (2, 1) == (instance.rejected[0]["attempt"], instance.rejected[0]["callsInDoubt"])
    assert "tart a new export" not in instance.rejected[0]["detail"]


async def test_attempt_with_doubt_stays_within_avro_int(instance: Instance) -> None:
    instance.script("job", BAD_GATEWAY)
    await instance.deliver()
    instance.clock.wait(120)
    assert "RETRY_BUDGET_EXHAUSTED" == await instance.reason(failed(attempt=2147483647))
    assert 2147483647 == instance.rejected[0]["attempt"]


@pytest.mark.parametrize("doubtful", [BAD_GATEWAY, (204, b""), OutcomeUnknown("TimeoutError"), RuntimeError("bug")])
async def test_parked_doubt_is_never_sent_again(doubtful: Step) -> None:
    instance = Instance(AMBIGUOUS_RETRY="park")
    instance.script("job", doubtful)
    assert "OUTCOME_UNKNOWN" == await instance.reason()
    instance.clock.wait(86_400)
    assert "OUTCOME_UNKNOWN" == await instance.reason(attempt=2)
    assert "OUTCOME_UNKNOWN" == await instance.reason(failed(credentialId="other"), published_at=instance.clock())
    assert (["job"], 1) == (instance.http.retries, instance.rejected[0]["callsInDoubt"])


@pytest.mark.parametrize(("event", "attempt"), [(failed(), 1), (failed(attempt=3), 1), (failed(attempt=3), 2)])
async def test_parked_doubt_comes_before_budget_and_needs_no_token(event: dict[str, Any], attempt: int) -> None:
    instance = Instance()
    instance.script("job", BAD_GATEWAY)
    await instance.deliver()
    parking = Instance(store=instance.container.store, clock=instance.clock, AMBIGUOUS_RETRY="park")
    parking.http.token_script = [(503, b"")]
    assert "OUTCOME_UNKNOWN" == await parking.reason(event, attempt=attempt)
    assert [] == parking.http.requests


@pytest.mark.parametrize("park", [False, True])
async def test_lapsed_claim_counts_as_a_call_in_doubt(park: bool) -> None:
    instance, sent = Instance(AMBIGUOUS_RETRY="park" if park else "resend"), asyncio.Event()

    async def die() -> Any:
        sent.set()
        await asyncio.Future()

    instance.script("job", die, NEW)
    delivery = asyncio.create_task(instance.deliver(attempt=1))
    await sent.wait()
    delivery.cancel()
    await asyncio.wait([delivery])
    instance.clock.wait(150)
    assert isinstance(await instance.deliver(attempt=2), RetryLater)
    instance.clock.wait(1)
    outcome = await instance.deliver(attempt=2)
    assert 1 == instance.line["callsUnknown"]
    if park:
        assert isinstance(outcome, Rejected)
        assert ("OUTCOME_UNKNOWN", ["job"]) == (outcome.reason, instance.http.retries)
    else:
        assert (Retried("new"), 2) == (outcome, instance.retried[0]["attempt"])


async def test_answer_after_the_lease_is_not_recorded(instance: Instance) -> None:
    sent, may = asyncio.Event(), asyncio.Event()

    async def answer_late() -> Answer:
        sent.set()
        await may.wait()
        return 200, {"archiveJobId": "late"}

    instance.script("job", answer_late, (200, {"archiveJobId": "second"}))
    first = asyncio.create_task(instance.deliver())
    await sent.wait()
    instance.clock.wait(151)
    assert Retried("second") == await instance.deliver(attempt=2)
    may.set()
    assert isinstance(await first, RetryLater)
    assert Retried("second") == await instance.deliver(attempt=2)
    assert {"second"} == {message["archiveJobId"] for message in instance.retried}


# adoption


async def test_adoption_counts_once_with_all_doubts(instance: Instance) -> None:
    instance.script("job", BAD_GATEWAY, BAD_GATEWAY, adoption("running"))
    instance.script("running", google_error(404, "NOT_FOUND"))
    for _ in range(3):
        outcome = await instance.deliver()
        instance.clock.wait(3600)
    assert Retried("running") == outcome
    assert 1 == instance.retried[0]["attempt"]
    await instance.deliver(instance.retried[0])
    assert (1, 0) == (instance.rejected[0]["attempt"], instance.rejected[0]["callsInDoubt"])
