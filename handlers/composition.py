"""The one place where real parts are built: in the worker, at its first delivery.

The framework imports this program before it forks its workers, and a gRPC client does not survive a fork
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md), so nothing here is built earlier.
"""

import logging
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from handlers import telemetry, tracing
from handlers.delivery import NotADelivery, parse_delivery
from handlers.draining import Draining
from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.http import HttpClient
from handlers.ledger import Ledger, Store
from handlers.memory_store import MemoryStore
from handlers.outcomes import Broken, Deferred, Misconfigured, NotNow, Outcome, Rejected, Retried, Unavailable
from handlers.portability import PortabilityApi
from handlers.resume_deferred import ResumeDeferred
from handlers.retry_failed_job import RetryFailedJob, Rules
from handlers.rpc import Channels, Service
from handlers.secret_store import SecretManagerClient, SecretStore
from handlers.settings import Settings
from handlers.topics import PublisherClient, Topic
from handlers.user_credentials import UserCredentials

# A message can be redelivered, or redriven from the dead letters, for as long as Pub/Sub keeps any: 31 days.
_LONGEST_RETENTION = timedelta(days=31)
_RESUMED_AT_MOST = 1000  # deferrals in one run of the schedule; what is left is due again at the next one


class Program:
    """The function's entry points as HTTP sees them, and the parts behind them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        telemetry.configure_logs(settings.log_level)
        tracing.load(settings)

    async def retry_failed_archive_job(self, request: Request) -> Response:
        """One delivery. The body of the answer is empty or one fixed word."""
        if request.method != "POST":
            return _answer(405, "post", {"Allow": "POST"})
        try:
            delivery = parse_delivery(request.headers, await request.body())
        except NotADelivery as error:
            telemetry.log.warning(str(error))
            return _answer(400, "malformed")
        except ClientDisconnect:
            telemetry.log.warning("The connection was cut off before the whole request was here.")
            return _answer(503, "later")
        journal = self._tracing.journal(
            delivery,
            request.headers,
            messageId=delivery.message_id,
            deliveryAttempt=delivery.attempt,
        )
        try:
            outcome: Outcome = await self._retry_failed_job(delivery, journal)
        except Exception as error:
            # the framework's own page for this would do, were it not for its silence about the delivery
            outcome = Broken(f"{type(error).__name__}, which nobody expected")
            _write(journal, outcome, exc_info=True)
        else:
            _write(journal, outcome)
        return _answer(outcome.status, _WORDS.get(outcome.status, ""))

    async def resume_deferred_retries(self, request: Request) -> Response:
        """One run of the schedule."""
        if request.method != "POST":
            return _answer(405, "post", {"Allow": "POST"})
        journal = telemetry.Journal(**telemetry.trace_fields(request.headers, self._settings.google_cloud_project))
        status = 204
        try:
            resumed = await self._resume_deferred()
            journal.write(logging.INFO, f"{resumed} deferred retries put back", outcome="resumed", resumed=resumed)
        except (Unavailable, TimeoutError) as fault:
            status = 503
            journal.write(logging.WARNING, str(fault) or "not over in time", outcome="not_now")
        except Misconfigured as fault:
            status = 500
            journal.write(logging.ERROR, str(fault), outcome="fault")
        except Exception as error:
            status = 500
            said = f"{type(error).__name__}, which nobody expected"
            journal.write(logging.ERROR, said, outcome="fault", exc_info=True)
        return _answer(status, _WORDS.get(status, ""))

    @cached_property
    def _resume_deferred(self) -> ResumeDeferred:
        settings = self._settings
        failed = Topic(self._publisher, settings.google_cloud_project, settings.failed_topic)
        deadline = settings.handler_deadline_seconds
        return ResumeDeferred(ledger=self._ledger, failed=failed, limit=_RESUMED_AT_MOST, deadline=deadline)

    @cached_property
    def _retry_failed_job(self) -> RetryFailedJob:
        settings, traced = self._settings, self._tracing
        publisher, ledger = self._publisher, self._ledger
        secrets = self._client(SecretManagerClient, settings.secret_manager_emulator_host)
        http, draining = HttpClient(), Draining()  # after what may fail, or each delivery would leave some behind
        draining.begin_at_sigterm()
        return RetryFailedJob(
            rules=Rules(
                budget=settings.retry_budget,
                event_max_age=settings.event_max_age,
                park_ambiguous=settings.ambiguous_retry == "park",
                deadline=settings.handler_deadline_seconds,
            ),
            ledger=ledger,
            tokens=traced.tokens(
                UserCredentials(
                    traced.secrets(SecretStore(secrets, settings.google_cloud_project)),
                    traced.token_endpoint(http),
                    secret_prefix=settings.refresh_token_secret_prefix,
                    client_secret_id=settings.oauth_client_secret,
                )
            ),
            portability=traced.portability(PortabilityApi(http, settings.data_portability_api_endpoint, _now)),
            retried=traced.publisher(Topic(publisher, settings.google_cloud_project, settings.retried_topic)),
            rejected=traced.publisher(Topic(publisher, settings.google_cloud_project, settings.rejected_topic)),
            now=_now,
            draining=draining,
        )

    @cached_property
    def _tracing(self) -> tracing.Tracing:
        return tracing.build(self._settings)

    @cached_property
    def _channels(self) -> Channels:
        return Channels()

    @cached_property
    def _publisher(self) -> Any:
        return self._client(PublisherClient, self._settings.pubsub_emulator_host)

    @cached_property
    def _ledger(self) -> Ledger:
        settings = self._settings
        keep = settings.event_max_age + _LONGEST_RETENTION
        return Ledger(self._store(), lease_seconds=settings.claim_lease_seconds, keep=keep, now=_now)

    def _store(self) -> Store:
        settings = self._settings
        if settings.retry_ledger == "memory":
            return MemoryStore()
        return FirestoreStore(
            self._client(FirestoreClient, settings.firestore_emulator_host),
            project=settings.google_cloud_project,
            database=settings.firestore_database,
            collection=settings.retry_ledger_collection,
        )

    def _client(self, kind: Any, emulator: str) -> Any:
        return kind(Service(self._channels.to(kind.HOST, emulator), kind.SERVICE))


_WORDS = {500: "fault", 503: "later"}


def _answer(status: int, word: str, headers: dict[str, str] | None = None) -> Response:
    return Response(word, status_code=status, headers=headers, media_type="text/plain" if word else None)


def _write(journal: telemetry.Journal, outcome: Outcome, *, exc_info: bool = False) -> None:
    """The delivery's log line: what is expected is INFO, what passes is WARNING, what is ours to mend is ERROR."""
    journal.bind(calls=journal.calls, callsUnknown=journal.calls_unknown)
    match outcome:
        case Retried(new_job_id):
            journal.write(logging.INFO, f"retried as {new_job_id}", outcome="retried", newArchiveJobId=new_job_id)
        case Rejected(reason, detail):
            journal.write(logging.INFO, detail, outcome="rejected", reason=reason)
        case Deferred(until):
            journal.write(logging.INFO, f"deferred until {until}", outcome="deferred", notBefore=until)
        case NotNow(detail):
            journal.write(logging.WARNING, detail, outcome="not_now")
        case Broken(detail):
            journal.write(logging.ERROR, detail, outcome="fault", exc_info=exc_info)


def _now() -> datetime:
    return datetime.now(UTC)
