"""The one place where real parts are built: in the worker, at its first delivery.

The framework imports this program before it forks its workers, and a gRPC client does not survive a fork
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md), so nothing here is built earlier.
"""

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from handlers import tracing
from handlers.draining import Draining
from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.http import HttpClient
from handlers.ledger import Ledger, Store
from handlers.memory_store import MemoryStore
from handlers.portability import PortabilityApi
from handlers.resume_deferred import ResumeDeferred
from handlers.retry_failed_job import RetryFailedJob, Rules
from handlers.rpc import Channels
from handlers.secret_store import SecretManagerClient, SecretStore
from handlers.settings import Settings
from handlers.topics import PublisherClient, Topic
from handlers.user_credentials import UserCredentials

# A message can be redelivered, or redriven from the dead letters, for as long as Pub/Sub keeps any: 31 days.
_LONGEST_RETENTION = timedelta(days=31)
_RESUMED_AT_MOST = 10_000  # deferrals in one run of the schedule; what is left is due again at the next one


def rules_of(settings: Settings) -> Rules:
    return Rules(
        budget=settings.retry_budget,
        event_max_age=settings.event_max_age,
        park_ambiguous=settings.ambiguous_retry == "park",
        deadline=settings.handler_deadline_seconds,
    )


def firestore_of(settings: Settings, channels: Channels) -> FirestoreStore:
    """The ledger's entries, where these settings have them."""
    return FirestoreStore(
        channels.client(FirestoreClient, settings.firestore_emulator_host),
        project=settings.google_cloud_project,
        database=settings.firestore_database,
        collection=settings.retry_ledger_collection,
    )


class Parts:
    """The use cases, put together as the settings say. Each part is built when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def resume_deferred(self) -> ResumeDeferred:
        settings = self._settings
        failed = Topic(self._publisher, settings.google_cloud_project, settings.failed_topic)
        deadline = settings.handler_deadline_seconds
        return ResumeDeferred(ledger=self._ledger, failed=failed, limit=_RESUMED_AT_MOST, deadline=deadline)

    @cached_property
    def retry_failed_job(self) -> RetryFailedJob:
        settings, traced = self._settings, self.tracing
        publisher, ledger = self._publisher, self._ledger
        secrets = self._channels.client(SecretManagerClient, settings.secret_manager_emulator_host)
        http, draining = HttpClient(), Draining()  # after what may fail, or each delivery would leave some behind
        draining.begin_at_sigterm()
        return RetryFailedJob(
            rules=rules_of(settings),
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
    def tracing(self) -> tracing.Tracing:
        return tracing.build(self._settings)

    @cached_property
    def _channels(self) -> Channels:
        return Channels()

    @cached_property
    def _publisher(self) -> Any:
        return self._channels.client(PublisherClient, self._settings.pubsub_emulator_host)

    @cached_property
    def _ledger(self) -> Ledger:
        settings = self._settings
        keep = settings.event_max_age + _LONGEST_RETENTION
        return Ledger(self._store(), lease_seconds=settings.claim_lease_seconds, keep=keep, now=_now)

    def _store(self) -> Store:
        if self._settings.retry_ledger == "memory":
            return MemoryStore()
        return firestore_of(self._settings, self._channels)


def _now() -> datetime:
    return datetime.now(UTC)
