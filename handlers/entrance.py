"""The function as HTTP sees it: a request becomes a use case's call, and its outcome an answer and one log line."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from handlers import tracing
from handlers.composition import Parts
from handlers.delivery import NotADelivery, parse_delivery
from handlers.outcomes import Broken, Deferred, NotNow, Outcome, Rejected, Resumed, Retried
from handlers.settings import Settings
from handlers.telemetry import Journal, configure_logs, log, trace_fields

_WORDS = {500: "fault", 503: "later"}

# Bytes of requests in hand at once. What is made of a large one takes up to six times its size: these and the process
# fit into the 512 MiB of infra/. One request alone is always taken, and Cloud Run lets none through above 32 MiB.
_MOST_BYTES = 40 << 20


class Entrance:
    """The two entry points. The parts behind them are built at the first request, after the fork.

    A request has `request_seconds` to come in.
    """

    def __init__(self, settings: Settings, *, request_seconds: float = 30.0) -> None:
        self._settings = settings
        self._parts = Parts(settings)
        self._request_seconds = request_seconds
        self._bytes = 0  # of requests in hand
        configure_logs(settings.log_level)
        tracing.load(settings)

    async def retry_failed_archive_job(self, request: Request) -> Response:
        """One delivery. The body of the answer is empty or one fixed word."""
        if request.method != "POST":
            return _not_a_post()
        size = int(request.headers.get("content-length", 0))
        if self._bytes and self._bytes + size > _MOST_BYTES:
            log.warning("The deliveries in hand are so large that no more fit into the memory.")
            return _answer(503, "later")
        self._bytes += size
        try:
            body = await self._body(request)
            if body is None:
                return _answer(503, "later")
            self._bytes += len(body) - size
            size = len(body)  # of a request that did not say it before, too
            return await self._delivered(request, body)
        finally:
            self._bytes -= size

    async def _body(self, request: Request) -> bytes | None:
        """None where it does not come in whole."""
        try:
            async with asyncio.timeout(self._request_seconds):
                return await request.body()
        except (ClientDisconnect, TimeoutError):
            log.warning("The connection was cut off before the whole request was here, or the rest did not come.")
            return None

    async def _delivered(self, request: Request, body: bytes) -> Response:
        try:
            delivery = parse_delivery(request.headers, body)
        except NotADelivery as error:
            log.warning(str(error))
            return _answer(400, "malformed")
        known = {"messageId": delivery.message_id, "deliveryAttempt": delivery.attempt}
        journal = self._parts.tracing.journal(delivery, request.headers, **known)
        return await _answered(lambda: self._parts.retry_failed_job(delivery, journal), journal)

    async def resume_deferred_retries(self, request: Request) -> Response:
        """One run of the schedule."""
        if request.method != "POST":
            return _not_a_post()
        journal = Journal(**trace_fields(request.headers, self._settings.google_cloud_project))
        return await _answered(lambda: self._parts.resume_deferred(journal), journal)


async def _answered(work: Callable[[], Awaitable[Outcome | Resumed]], journal: Journal) -> Response:
    try:
        outcome = await work()  # which may build the parts first, and fail at that
    except Exception as error:
        # the framework's own page for this would do, were it not for its silence about the delivery
        outcome = Broken(f"{type(error).__name__}, which nobody expected")
        _write(journal, outcome, exc_info=True)
    else:
        _write(journal, outcome)
    return _answer(outcome.status, _WORDS.get(outcome.status, ""))


def _not_a_post() -> Response:
    return _answer(405, "post", {"Allow": "POST"})


def _answer(status: int, word: str, headers: dict[str, str] | None = None) -> Response:
    return Response(word, status_code=status, headers=headers, media_type="text/plain" if word else None)


def _write(journal: Journal, outcome: Outcome | Resumed, *, exc_info: bool = False) -> None:
    """The one log line: what is expected is INFO, what passes is WARNING, what is ours to mend is ERROR."""
    match outcome:
        case Retried(new_job_id):
            journal.write(logging.INFO, f"retried as {new_job_id}", outcome="retried", newArchiveJobId=new_job_id)
        case Rejected(reason, detail):
            journal.write(logging.INFO, detail, outcome="rejected", reason=reason)
        case Deferred(until):
            journal.write(logging.INFO, f"deferred until {until}", outcome="deferred", notBefore=until)
        case Resumed(number):
            journal.write(logging.INFO, f"{number} deferred retries put back", outcome="resumed", resumed=number)
        case NotNow(detail):
            journal.write(logging.WARNING, detail, outcome="not_now")
        case Broken(detail):
            journal.write(logging.ERROR, detail, outcome="fault", exc_info=exc_info)
