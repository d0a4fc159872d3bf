"""The function as HTTP sees it: methods, status codes, fixed words, one log line, and how much is in hand at once."""

import asyncio
from typing import Any
from unittest.mock import ANY

import pytest

from handlers.domain.outcomes import (
    Deferred,
    Ended,
    Fault,
    Outcome,
    Reason,
    Rejected,
    Resumed,
    Retried,
    RetryLater,
    Watching,
)
from handlers.settings import from_environment
from handlers.web.endpoints import Endpoints
from local.google_apis import MARK
from tests.unit.fakes import START
from tests.unit.instance import ENVIRONMENT, Instance, LogLines, failed, push, request

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Ends:
    """Use cases that end as they are told to."""

    def __init__(self, end: Any) -> None:
        self.end = end

    async def retry_failed_job(self, delivery: Any, log: Any) -> Outcome:
        return await self.resume_deferred(log)  # type: ignore[no-any-return]

    def enter_worker(self) -> None:
        pass

    async def watch_job(self, delivery: Any, log: Any) -> Any:
        return await self.resume_deferred(log)

    async def resume_deferred(self, log: Any) -> Any:
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.mark.parametrize(
    ("end", "status", "body", "severity", "line"),
    [
        (Retried("new"), 204, b"", "INFO", {"outcome": "retried", "newArchiveJobId": "new"}),
        (
            Rejected(Reason.REAUTHORIZATION_REQUIRED, "words", "NO_SECRET"),
            204,
            b"",
            "INFO",
            {"outcome": "rejected", "reason": "REAUTHORIZATION_REQUIRED", "cause": "NO_SECRET", "message": "words"},
        ),
        (Deferred(START), 204, b"", "INFO", {"outcome": "deferred", "notBefore": "2026-11-23T18:00:00Z"}),
        (RetryLater("words"), 503, b"later", "WARNING", {"outcome": "not_now", "message": "words"}),
        (Fault("words"), 500, b"fault", "ERROR", {"outcome": "fault", "message": "words"}),
        (Resumed(3), 204, b"", "INFO", {"outcome": "resumed", "resumed": 3}),
        (ValueError("words"), 500, b"fault", "ERROR", {"outcome": "fault", "stack_trace": ANY}),
        (Watching(START), 204, b"", "INFO", {"outcome": "watching", "notBefore": "2026-11-23T18:00:00Z"}),
        (Ended("COMPLETE"), 204, b"", "INFO", {"outcome": "ended", "state": "COMPLETE"}),
        (Ended("FAILED"), 204, b"", "INFO", {"outcome": "failed", "state": "FAILED"}),
        (Ended("UNKNOWN", "NO_SECRET"), 204, b"", "INFO", {"outcome": "ended", "cause": "NO_SECRET"}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_outcome_is_a_status_and_one_line(
    logged: LogLines, end: Any, status: int, body: bytes, severity: str, line: dict[str, Any]
) -> None:
    endpoints = Endpoints(from_environment(ENVIRONMENT), Ends(end))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": push(failed())}

    entries = endpoints.retry_failed_archive_job, endpoints.watch_archive_job, endpoints.resume_deferred_retries
    for entry in entries:
        answer = await entry(request(receive))
        assert (status, body) == (answer.status_code, answer.body)
    assert [severity] * 3 == [each["severity"] for each in logged.lines]
    for each in logged.lines:
        assert line == {name: value for name, value in each.items() if name in line}
        assert each.keys() >= {"time", "stepsMs", "latencyMs"}
    assert severity != "ERROR" or "reportLocation" in str(logged.lines) or "stack_trace" in logged.lines[0]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
async def test_another_method_is_405(instance: Instance, method: str) -> None:
    answer = await instance.post(b"", method)
    assert (405, "POST") == (answer.status_code, answer.headers["allow"])


async def test_no_envelope_is_400_and_not_repeated(instance: Instance, logged: LogLines) -> None:
    answer = await instance.post(f"{MARK}".encode(), authorization=f"Bearer {MARK}")
    assert (400, b"malformed") == (answer.status_code, answer.body)
    assert MARK not in f"{logged.lines} {answer.headers}"


async def test_line_of_a_delivery(instance: Instance, logged: LogLines) -> None:
    assert 204 == (await instance.post(push(failed()), traceparent=f"00-{TRACE}-{SPAN}-01")).status_code
    [line] = logged.lines
    expected = {
        "severity": "INFO",
        "outcome": "retried",
        "archiveJobId": "job",
        "rootArchiveJobId": "job",
        "newArchiveJobId": "job-again",
        "userId": "alice",
        "credentialId": "alice",
        "messageId": "42",
        "deliveryAttempt": 2,
        "attempt": 1,
        "calls": 1,
        "callsUnknown": 0,
        "republished": False,
        "logging.googleapis.com/trace": f"projects/a-project/traces/{TRACE}",
        "logging.googleapis.com/trace_sampled": True,
    }
    assert expected == {name: line.get(name) for name in expected}
    assert {"look", "token", "claim", "retry", "record", "publish"} == set(line["stepsMs"])


# what is in hand


class Body:
    """A request whose body comes in parts, as the test lets it."""

    def __init__(self, instance: Instance, **headers: str) -> None:
        self._parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answer = asyncio.create_task(
            instance.endpoints.retry_failed_archive_job(request(self._parts.get, **headers))
        )

    async def send(self, megabytes: float, *, last: bool = False) -> None:
        body = b" " * int(megabytes * (1 << 20))
        self._parts.put_nowait({"type": "http.request", "body": body, "more_body": not last})
        for _ in range(5):
            await asyncio.sleep(0)

    async def status(self) -> int:
        return (await self.answer).status_code


@pytest.fixture
def patient() -> Instance:
    instance = Instance()
    instance.endpoints = Endpoints(instance.settings, instance.container)
    return instance


async def test_announced_length_reserves_nothing(patient: Instance) -> None:
    many = [Body(patient, content_length="33554432") for _ in range(5)]
    await asyncio.sleep(0)
    assert 204 == (await patient.post(push(failed()))).status_code
    for body in many:
        await body.send(0, last=True)
        assert 400 == await body.status()


async def test_half_read_bodies_count_what_has_come(patient: Instance, logged: LogLines) -> None:
    first, second = Body(patient), Body(patient)
    await first.send(30)
    await second.send(9)
    assert not second.answer.done()
    await second.send(2)
    assert 503 == await second.status()
    assert ["in-flight requests exceed 40 MiB"] == [line["message"] for line in logged.lines]
    await first.send(1, last=True)
    assert 400 == await first.status()
    third = Body(patient)
    await third.send(40, last=True)
    assert 400 == await third.status()


async def test_small_event_is_read_beside_bodies_that_come_slowly(patient: Instance) -> None:
    first, second = Body(patient), Body(patient)
    await first.send(30)
    await second.send(9.99)
    assert 204 == (await patient.post(push(failed(more="x" * 50_000)))).status_code
    assert 503 == (await patient.post(push(failed("other", more="x" * 200_000)))).status_code
    for body in (first, second):
        await body.send(0, last=True)
        assert 400 == await body.status()


async def test_one_body_alone_is_always_read(patient: Instance) -> None:
    body = Body(patient)
    await body.send(30)
    await body.send(30, last=True)
    assert 400 == await body.status()


async def test_body_that_does_not_come_in_is_503(instance: Instance, logged: LogLines) -> None:
    slow = Body(instance)
    await slow.send(39)
    assert 503 == await slow.status()
    assert ["WARNING"] == [line["severity"] for line in logged.lines]
    next_one = Body(instance)
    await next_one.send(30, last=True)
    assert 400 == await next_one.status()


async def test_request_cut_off_is_503_without_traceback(instance: Instance, logged: LogLines) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert 503 == (await instance.endpoints.retry_failed_archive_job(request(receive))).status_code
    assert [("WARNING", False)] == [(line["severity"], "stack_trace" in line) for line in logged.lines]
