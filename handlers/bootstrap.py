"""The one place where real parts are built: in the worker, at its first delivery.

The framework imports this program before it forks its workers, and a gRPC client does not survive a fork
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md), so nothing here is built earlier. Tests, simulation and
bench build through here too, with other parts for what talks to the world.
"""

import asyncio
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from handlers.domain.events import Delivery
from handlers.domain.outcomes import Outcome, Resumed, RetryLater, outcome_of
from handlers.google.account import Account
from handlers.google.batching import MAX_LATENCY
from handlers.google.clients import GoogleClients
from handlers.google.data_portability import PortabilityApi
from handlers.google.firestore import FirestoreStore
from handlers.google.http_client import Http, HttpClient
from handlers.google.pubsub import TopicPublisher
from handlers.google.secret_manager import SecretStore
from handlers.google.user_tokens import UserTokens
from handlers.ledger import Ledger
from handlers.memory_store import MemoryStore
from handlers.ports import Publisher, Store, Tokens
from handlers.resume_deferred import ResumeDeferred
from handlers.retry_failed_job import RetryFailedJob
from handlers.settings import Settings
from handlers.telemetry.logging import LogLine
from handlers.web.shutdown import listen

if TYPE_CHECKING:
    from handlers.watch_job import WatchJob

MAX_RESUMED = 10_000  # deferrals in one run of the schedule; what is left is due again at the next one
WATCH_SUFFIX = "Watch"  # of the watch's collection


class Clients(Protocol):
    """Google's generated clients, or something that answers like them."""

    async def firestore(self) -> Any: ...
    async def publisher(self) -> Any: ...
    async def secret_manager(self, location: str = "") -> Any: ...


class Container:
    """The use cases, put together as the settings say. Each part is built when it is first asked for.

    The keyword arguments replace what talks to the world, and the clock.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clients: Clients | None = None,
        http: Http | None = None,
        store: Store | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_owner: Callable[[], str] = lambda: secrets.token_hex(8),
        max_latency: float = MAX_LATENCY,
    ) -> None:
        self.settings = settings
        self.now = now
        self.shutdown = asyncio.Event()
        self._clients = clients
        self._http = http
        self._store = store
        self._new_owner = new_owner
        self._max_latency = max_latency
        self._entered = False
        self._otlp: Any = None
        if settings.traces:  # loaded before the fork
            from handlers.telemetry import otlp  # noqa: PLC0415, not while traces are off

            self._otlp = otlp

    async def retry_failed_job(self, delivery: Delivery, line: LogLine) -> Outcome:
        return await outcome_of(self.retry_use_case(delivery, line))

    async def watch_job(self, delivery: Delivery, line: LogLine) -> Outcome:
        return await outcome_of(self.watch_use_case(delivery, line))

    async def resume_deferred(self, line: LogLine) -> Outcome:
        """Both collections at the same time, so that many due looks delay no deferral. Deferrals have a limit for each
        run, since each becomes a call that Google counts. Looks have none: every job is due once in 50 minutes.
        """
        put_back, not_resumed = 0, []
        for run in await asyncio.gather(
            *(outcome_of(run(line)) for run in self.resume_use_cases), return_exceptions=True
        ):
            if isinstance(run, BaseException):
                raise run  # a bug, when the other run is over too
            if isinstance(run, Resumed):
                put_back += run.put_back
            else:
                not_resumed.append(run)
        return min(not_resumed, key=lambda one: isinstance(one, RetryLater), default=Resumed(put_back))

    @cached_property
    def retry_use_case(self) -> RetryFailedJob:
        settings = self.settings
        return RetryFailedJob(
            policy=settings.retry_policy,
            deadline=settings.handler_deadline_seconds,
            ledger=self.ledger,
            tokens=self.tokens,
            portability=self.portability,
            retried=self.topic(settings.retried_topic),
            rejected=self.topic(settings.rejected_topic),
            now=self.now,
            new_owner=self._new_owner,
            shutting_down=self.shutdown.is_set,
        )

    @cached_property
    def watch_use_case(self) -> "WatchJob":
        from handlers.watch_job import WatchJob  # noqa: PLC0415, in no other function

        settings = self.settings
        return WatchJob(
            interval=timedelta(seconds=settings.watch_interval_seconds),
            deadline=settings.handler_deadline_seconds,
            ledger=self.watch_ledger,
            tokens=self.tokens,
            states=self.portability,
            failed=self.topic(settings.failed_topic),
            ended=self.topic(settings.ended_topic),
            rejected=self.topic(settings.rejected_topic),
            now=self.now,
        )

    @cached_property
    def resume_use_cases(self) -> list[ResumeDeferred]:
        settings = self.settings
        runs = [(self.ledger, settings.failed_topic, MAX_RESUMED)]
        if settings.watch == "on":
            runs.append((self.watch_ledger, settings.started_topic, sys.maxsize))
        deadline = settings.handler_deadline_seconds
        return [
            ResumeDeferred(ledger=ledger, topic=self.topic(topic), limit=limit, deadline=deadline)
            for ledger, topic, limit in runs
        ]

    def enter_worker(self) -> None:
        """What has to wait for the fork, done once: listening for SIGTERM, and the thread that sends spans."""
        if self._entered:
            return
        self._entered = True
        if self._otlp:
            self._otlp.install(self.settings.google_cloud_project)
        listen(self.shutdown, exits=self.settings.traces)

    @cached_property
    def ledger(self) -> Ledger:
        return self._ledger(self.store)

    @cached_property
    def watch_ledger(self) -> Ledger:
        """The watch has a collection of its own, so that no other use case and no earlier release reads it."""
        return self._ledger(self.watch_store)

    def _ledger(self, store: Store) -> Ledger:
        settings = self.settings
        return Ledger(
            store,
            settings.retry_policy,
            lease_seconds=settings.claim_lease_seconds,
            keep=timedelta(days=settings.ledger_days),
            now=self.now,
        )

    @cached_property
    def store(self) -> Store:
        return self._store or self._new_store("")

    @cached_property
    def watch_store(self) -> Store:
        return self._new_store(WATCH_SUFFIX)

    def _new_store(self, suffix: str) -> Store:
        if self.settings.retry_ledger == "memory":
            return MemoryStore(self.now)
        return FirestoreStore(self.clients.firestore, self.settings, suffix, max_latency=self._max_latency)

    @cached_property
    def tokens(self) -> Tokens:
        secrets = SecretStore(self.clients.secret_manager, self.settings.google_cloud_project)
        return UserTokens(secrets, self.http, self.settings)

    @cached_property
    def portability(self) -> PortabilityApi:
        return PortabilityApi(self.http, self.settings.data_portability_api_endpoint)

    def topic(self, name: str) -> Publisher:
        project, client = self.settings.google_cloud_project, self.clients.publisher
        return TopicPublisher(client, project, name, max_latency=self._max_latency)

    @cached_property
    def clients(self) -> Clients:
        return self._clients or GoogleClients(Account(), self.settings)

    @cached_property
    def http(self) -> Http:
        return self._http or HttpClient()
