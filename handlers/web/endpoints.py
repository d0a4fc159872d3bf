"""The function as HTTP sees it: a request becomes a use case's call, and its outcome a response and one log line."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from handlers.domain.events import Delivery
from handlers.domain.outcomes import Deferred, Ended, Fault, Outcome, Rejected, Resumed, Retried, RetryLater, Watching
from handlers.settings import Settings
from handlers.telemetry import tracing
from handlers.telemetry.logging import LogLine, log
from handlers.web.push_request import NotADelivery, parse_delivery

_WORDS = {500: "fault", 503: "later"}

# Bytes of request bodies in flight, above which no large one is read. What is made of one takes up to ten times its
# event's size: these and the process fit into the 512 MiB of infra/. One alone is always read; Cloud Run lets none
# through above 32 MiB.
_MAX_BYTES = 40 << 20
_REQUEST_SECONDS = 30.0  # for a body to come in
_LARGE_BODY = 128 << 10  # bytes: what takes more than a few milliseconds to parse
_TURN_SECONDS = 0.001

_UseCase = Callable[[Delivery, LogLine], Awaitable[Outcome]]


class UseCases(Protocol):
    """What is behind the entry points, built at the first request: after the fork."""

    def enter_worker(self) -> None: ...
    async def retry_failed_job(self, delivery: Delivery, line: LogLine) -> Outcome: ...
    async def watch_job(self, delivery: Delivery, line: LogLine) -> Outcome: ...
    async def resume_deferred(self, line: LogLine) -> Outcome: ...


class Endpoints:
    """The entry points."""

    def __init__(self, settings: Settings, use_cases: UseCases, *, request_seconds: float = _REQUEST_SECONDS) -> None:
        self._settings = settings
        self._use_cases = use_cases
        self._request_seconds = request_seconds
        self._bytes = 0  # of the bodies in hand
        self._turn = asyncio.Lock()  # of a large body: one is parsed at a time, and others are served in between

    async def retry_failed_archive_job(self, request: Request) -> Response:
        """One delivery of a failed job."""
        return await self._deliver(request, self._settings.failed_topic, self._use_cases.retry_failed_job)

    async def watch_archive_job(self, request: Request) -> Response:
        """One delivery of a started job, or of a follow-up."""
        return await self._deliver(request, self._settings.started_topic, self._use_cases.watch_job)

    async def resume_deferred_retries(self, request: Request) -> Response:
        """One run of the schedule."""
        if request.method != "POST":
            return _response(405, "post", {"Allow": "POST"})
        self._use_cases.enter_worker()
        try:
            return await self._run(request, "schedule", {}, self._use_cases.resume_deferred)
        finally:
            gc.collect()  # as after a large request

    async def _deliver(self, request: Request, topic: str, use_case: _UseCase) -> Response:
        """The body of the response is empty or one fixed word."""
        if request.method != "POST":
            return _response(405, "post", {"Allow": "POST"})
        self._use_cases.enter_worker()
        body, size = bytearray(), 0
        try:
            if not await self._read(request, body):
                return _not_now(f"in-flight requests exceed {_MAX_BYTES >> 20} MiB")
            if len(body) <= _LARGE_BODY:
                return await self._answer(request, parse_delivery(request.headers, body), topic, use_case)
            size = len(body)
            async with self._turn:
                delivery = parse_delivery(request.headers, body)
                body.clear()
                answering = asyncio.create_task(self._answer(request, delivery, topic, use_case))
                await asyncio.sleep(_TURN_SECONDS)  # the event is parsed until it waits for the first time
            return await answering
        except (ClientDisconnect, TimeoutError):
            return _not_now("the request did not come in whole")
        except NotADelivery as error:
            log.warning(str(error))
            return _response(400, "malformed")
        finally:
            self._bytes -= size or len(body)
            if size:
                # a library's error may hold a frame, and so the event; by itself the collector comes seldom (main.py)
                gc.collect()

    async def _read(self, request: Request, body: bytearray) -> bool:
        """Read the body, which counts as it comes in: what a request announces reserves nothing. False: too much."""
        async with asyncio.timeout(self._request_seconds):
            async for chunk in request.stream():
                size = len(body) + len(chunk)
                if size > _LARGE_BODY and self._bytes > len(body) and self._bytes + len(chunk) > _MAX_BYTES:
                    return False
                body += chunk
                self._bytes += len(chunk)
        return True

    async def _answer(self, request: Request, delivery: Delivery, topic: str, use_case: _UseCase) -> Response:
        known = {"messageId": delivery.message_id, "deliveryAttempt": delivery.delivery_attempt}
        return await self._run(request, topic, delivery.attributes, partial(use_case, delivery), **known)

    async def _run(
        self,
        request: Request,
        topic: str,
        attributes: Mapping[str, str],
        work: Callable[[LogLine], Awaitable[Outcome]],
        **known: Any,
    ) -> Response:
        with tracing.delivery_span(topic, attributes, request.headers) as span:
            line = LogLine(**tracing.log_fields(span, self._settings.google_cloud_project), **known)
            outcome: Outcome
            try:
                outcome = await work(line)  # which may build the parts first, and fail at that
            except Exception as error:  # the framework's own page for this would say nothing of the delivery
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
    level, fields = logging.INFO, dict[str, Any]()
    match outcome:
        case Retried(new_job_id):
            message, fields = f"retried as {new_job_id}", {"newArchiveJobId": new_job_id}
        case Rejected(reason, detail, cause):
            message, fields = detail, {"reason": reason, "cause": cause}
        case Deferred(until):
            message, fields = f"deferred until {until}", {"notBefore": until}
        case Resumed(number):
            message, fields = f"{number} deferred events put back", {"resumed": number}
        case Watching(until):
            message, fields = f"looked at again at {until}", {"notBefore": until}
        case Ended(state, cause):
            message, fields = f"the job has ended: {state}", {"state": state, "cause": cause}
        case RetryLater(message):
            level = logging.WARNING
        case Fault(message):
            level = logging.ERROR
    line.write(level, message, outcome=outcome.name, exc_info=exc_info, **fields)
