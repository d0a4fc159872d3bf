"""The function as HTTP sees it: a request becomes a use case's call, and its outcome a response and one log line."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from handlers.domain.delivery import Delivery
from handlers.domain.outcomes import (
    Deferred,
    Ended,
    Fault,
    Outcome,
    Rejected,
    Resumed,
    Retried,
    RetryLater,
    Watching,
)
from handlers.ports import DeliveryLog
from handlers.telemetry import tracing
from handlers.telemetry.logging import LogLine, log
from handlers.web.push_request import NotADelivery, parse_delivery
from handlers.web.settings import Settings

_WORDS = {500: "fault", 503: "later"}

# Bytes of request bodies in hand at once. What is made of a large one takes up to three times its size: these and the
# process fit into the 512 MiB of infra/. One request alone is always read; Cloud Run lets none through above 32 MiB.
_MAX_BYTES = 40 << 20
_REQUEST_SECONDS = 30.0  # for a body to come in
_LARGE_BODY = 128 << 10  # bytes: what takes more than a few milliseconds to parse
_TURN_SECONDS = 0.001


class UseCases(Protocol):
    """What is behind the entry points, built at the first request: after the fork."""

    def enter_worker(self) -> None: ...
    async def retry_failed_job(self, delivery: Delivery, log: DeliveryLog) -> Outcome: ...
    async def watch_job(self, delivery: Delivery, log: DeliveryLog) -> Outcome: ...
    async def resume_deferred(self, log: DeliveryLog) -> Outcome: ...


class TooManyBytes(Exception):
    """The requests in hand are so large that no more fit into the memory."""


class Endpoints:
    """The entry points."""

    def __init__(self, settings: Settings, use_cases: UseCases, *, request_seconds: float = _REQUEST_SECONDS) -> None:
        self._project = settings.google_cloud_project
        self._failed_topic = settings.failed_topic
        self._started_topic = settings.started_topic
        self._use_cases = use_cases
        self._request_seconds = request_seconds
        self._bytes = 0  # of the bodies in hand
        self._turn = asyncio.Lock()  # of a large body: one is parsed at a time, and others are served in between

    async def retry_failed_archive_job(self, request: Request) -> Response:
        """One delivery of a failed job."""
        return await self._deliver(request, self._failed_topic, self._use_cases.retry_failed_job)

    async def watch_archive_job(self, request: Request) -> Response:
        """One delivery of a started job, or of a follow-up."""
        return await self._deliver(request, self._started_topic, self._use_cases.watch_job)

    async def _deliver(
        self, request: Request, topic: str, use_case: Callable[[Delivery, DeliveryLog], Awaitable[Outcome]]
    ) -> Response:
        """The body of the response is empty or one fixed word."""
        if request.method != "POST":
            return _response(405, "post", {"Allow": "POST"})
        self._use_cases.enter_worker()
        body = bytearray()
        try:
            await self._read(request, body)
            if len(body) <= _LARGE_BODY:
                return await self._answer(request, body, topic, use_case)
            async with self._turn:
                answering = asyncio.create_task(self._answer(request, body, topic, use_case))
                await asyncio.sleep(_TURN_SECONDS)  # it parses until it waits for the first time
            return await answering
        except TooManyBytes:
            return _not_now(f"in-flight requests exceed {_MAX_BYTES >> 20} MiB")
        except (ClientDisconnect, TimeoutError):
            return _not_now("the request did not come in whole")
        except NotADelivery as error:
            log.warning(str(error))
            return _response(400, "malformed")
        finally:
            self._bytes -= len(body)

    async def _answer(
        self,
        request: Request,
        body: bytearray,
        topic: str,
        use_case: Callable[[Delivery, DeliveryLog], Awaitable[Outcome]],
    ) -> Response:
        delivery = parse_delivery(request.headers, body)
        with tracing.delivery_span(topic, delivery.attributes, request.headers) as span:
            known = {"messageId": delivery.message_id, "deliveryAttempt": delivery.delivery_attempt}
            line = LogLine(**tracing.log_fields(span, self._project), **known)
            return await _respond(lambda: use_case(delivery, line), line)

    async def resume_deferred_retries(self, request: Request) -> Response:
        """One run of the schedule."""
        if request.method != "POST":
            return _response(405, "post", {"Allow": "POST"})
        self._use_cases.enter_worker()
        with tracing.delivery_span("schedule", {}, request.headers) as span:
            line = LogLine(**tracing.log_fields(span, self._project))
            return await _respond(lambda: self._use_cases.resume_deferred(line), line)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read the body, which counts as it comes in: what a request announces reserves nothing."""
        async with asyncio.timeout(self._request_seconds):
            async for chunk in request.stream():
                if self._bytes > len(body) and self._bytes + len(chunk) > _MAX_BYTES:
                    raise TooManyBytes
                body += chunk
                self._bytes += len(chunk)


async def _respond(work: Callable[[], Awaitable[Outcome]], line: LogLine) -> Response:
    outcome: Outcome
    try:
        outcome = await work()  # which may build the parts first, and fail at that
    except Exception as error:
        # the framework's own page for this would say nothing of the delivery
        outcome = Fault(f"unexpected {type(error).__name__}: a bug, and this line has its stack trace")
        _write(line, outcome, exc_info=True)
    else:
        _write(line, outcome)
    return _response(outcome.status, _WORDS.get(outcome.status, ""))


def _not_now(message: str) -> Response:
    log.warning(message)
    return _response(503, "later")


def _response(status: int, word: str, headers: dict[str, str] | None = None) -> Response:
    return Response(word, status_code=status, headers=headers, media_type="text/plain" if word else None)


def _write(line: LogLine, outcome: Outcome, *, exc_info: bool = False) -> None:
    """The one log line: what is expected is INFO, what is transient WARNING, what an operator has to fix ERROR."""
    fields: dict[str, Any] = {}
    match outcome:
        case Retried(new_job_id):
            level, message, fields = logging.INFO, f"retried as {new_job_id}", {"newArchiveJobId": new_job_id}
        case Rejected(reason, detail, cause):
            level, message, fields = logging.INFO, detail, {"reason": reason, "cause": cause}
        case Deferred(until):
            level, message, fields = logging.INFO, f"deferred until {until}", {"notBefore": until}
        case Resumed(number):
            level, message, fields = logging.INFO, f"{number} deferred events put back", {"resumed": number}
        case Watching(until):
            level, message, fields = logging.INFO, f"looked at again at {until}", {"notBefore": until}
        case Ended(state, cause):
            level, message, fields = logging.INFO, f"the job has ended: {state}", {"state": state, "cause": cause}
        case RetryLater(detail):
            level, message = logging.WARNING, detail
        case Fault(detail):
            level, message = logging.ERROR, detail
    line.write(level, message, outcome=outcome.name, exc_info=exc_info, **fields)
