"""An instance of the release before this one, over the same simulated wire.

Its parts are put together as its own handlers/composition.py does; what is replaced are gRPC services and the one POST.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from google.api_core import exceptions

from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.domain.events import Delivery
from handlers.settings import Settings
from tests import predecessor
from tests.simulation import grants, pubsub
from tests.simulation.clients import HttpClient
from tests.simulation.faults import ACCOUNT
from tests.simulation.instance import FunctionInstance, Program, Services
from tests.simulation.record import DELIVERY, SIGNATURE, SecretAsked, Trouble
from tests.simulation.wire import Wire

_MODULES = (
    "delivery",
    "draining",
    "firestore",
    "ledger",
    "portability",
    "ports",
    "resume_deferred",
    "retry_failed_job",
    "secret_store",
    "telemetry",
    "topics",
    "user_credentials",
)


class PredecessorInstance(FunctionInstance):
    """One process of the release before this one."""

    release = predecessor.RELEASE

    def build(self, wire: Wire, services: Services, settings: Settings, max_latency: float) -> Program:
        return _Program(self, wire, services, settings, max_latency)


@cache
def _release() -> SimpleNamespace:
    modules = SimpleNamespace(**{name: predecessor.module(name) for name in _MODULES})
    modules.telemetry.log.addHandler(logging.NullHandler())
    return modules


class _Program:
    """Its use cases, behind the names of this release's."""

    def __init__(
        self, instance: FunctionInstance, wire: Wire, services: Services, settings: Settings, pause: float
    ) -> None:
        old = self._old = _release()
        http = _Http(HttpClient(wire, services.google))
        publisher = _SignedPublisher(old.topics.PublisherClient(_Service(wire, services), pause=pause))
        firestore = _SignedFirestore(old.firestore.FirestoreClient(_Service(wire, services), pause=pause))
        store = old.firestore.FirestoreStore(
            firestore, project="p", database="(default)", collection=settings.retry_ledger_collection
        )
        ledger = old.ledger.Ledger(
            store,
            lease_seconds=settings.claim_lease_seconds,
            keep=settings.event_max_age + timedelta(days=31),
            now=instance.now,
            new_holder=instance.new_owner,
        )
        secrets = old.secret_store.SecretManagerClient(_Service(wire, services))
        self._draining = old.draining.Draining()
        self.shutdown = SimpleNamespace(set=lambda: instance.loop.call_soon(self._draining.begin))
        self._retry_failed_job = old.retry_failed_job.RetryFailedJob(
            rules=old.retry_failed_job.Rules(
                budget=settings.retry_budget,
                event_max_age=settings.event_max_age,
                park_ambiguous=settings.ambiguous_retry == "park",
                deadline=settings.handler_deadline_seconds,
            ),
            ledger=ledger,
            tokens=old.user_credentials.UserCredentials(
                old.secret_store.SecretStore(secrets, "p"),
                http,
                secret_prefix=grants.SECRET_PREFIX,
                client_secret_id=grants.CLIENT_SECRET_ID,
            ),
            portability=old.portability.PortabilityApi(http, settings.data_portability_api_endpoint, instance.now),
            retried=old.topics.Topic(publisher, "p", pubsub.RETRIED),
            rejected=old.topics.Topic(publisher, "p", pubsub.REJECTED),
            now=instance.now,
            draining=self._draining,
        )
        failed = old.topics.Topic(publisher, "p", pubsub.FAILED)
        deadline = settings.handler_deadline_seconds
        self._resume_deferred = old.resume_deferred.ResumeDeferred(
            ledger=ledger, failed=failed, limit=10_000, deadline=deadline
        )

    async def retry_failed_job(self, delivery: Delivery, log: Any) -> Any:
        same = {name: getattr(delivery, name) for name in Delivery.__struct_fields__}
        same["attempt"] = same.pop("delivery_attempt")
        return await self._retry_failed_job(self._old.delivery.Delivery(**same), self._old.telemetry.Journal())

    async def resume_deferred(self, log: Any) -> Any:
        return await self._resume_deferred(self._old.telemetry.Journal())


class _Service:
    """Its rpc.Service: the methods are effects at the simulated services."""

    def __init__(self, wire: Wire, services: Services) -> None:
        self._wire = wire
        self._effects: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
            "BatchGetDocuments": ("firestore", services.firestore.batch_get),
            "Commit": ("firestore", services.firestore.commit),
            "RunQuery": ("firestore", services.firestore.run_query),
            "AccessSecretVersion": ("secrets", lambda request, trouble: services.grants.access(request.name, trouble)),
            "Publish": ("pubsub", services.pubsub.publish),
        }

    def unary(
        self, method: str, request_type: Any, answer_type: Any, *, routed_by: str, seconds: float, retry: Any = None
    ) -> Any:
        return partial(self._call, method, retry, seconds)

    def streaming(self, method: str, request_type: Any, answer_type: Any, *, routed_by: str, seconds: float) -> Any:
        async def answers(request: Any) -> AsyncIterator[Any]:
            for answer in await self._call(method, None, seconds, request):
                yield answer

        return answers

    async def _call(self, method: str, retry: Any, seconds: float, request: Any) -> Any:
        wire, (service, effect) = self._wire, self._effects[method]
        await self._own_credentials()
        if method == "AccessSecretVersion" and (credential := _credential(request.name)):
            wire.faults.record(SecretAsked(wire.timeline.now, DELIVERY.get(), wire.instance, credential))
        return await wire.rpc(service, partial(effect, request), retry=retry, timeout=seconds)

    async def _own_credentials(self) -> None:
        """As gRPC says it where they cannot be had."""
        wire = self._wire
        if wire.faults.is_wrong(ACCOUNT):
            raise exceptions.Unauthenticated("no such service account")  # type: ignore[no-untyped-call]
        if wire.faults.is_away(ACCOUNT):
            wire.faults.record(Trouble(wire.timeline.now, wire.instance, ACCOUNT, "away"))
            await asyncio.sleep(wire.timeline.rng.choice((0.0, 5.0)))
            raise exceptions.ServiceUnavailable("getting metadata failed")  # type: ignore[no-untyped-call]


def _credential(name: str) -> str:
    """Whose secret it is, "" for the client's."""
    secret = name.split("/")[3]
    return "" if secret == grants.CLIENT_SECRET_ID else secret.removeprefix(grants.SECRET_PREFIX)


class _Http:
    """Its HttpClient: what is a value in this release was an exception then."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._ports = _release().ports

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        answer = await self._http.request("POST", url, headers=headers, body=body, seconds=seconds)
        match answer:
            case NotSent(detail):
                raise self._ports.NotSent(detail)
            case OutcomeUnknown(detail):
                raise self._ports.NoAnswer(detail)
        return answer.status, answer.body


class _SignedFirestore:
    """Its FirestoreClient, signing each write with its delivery."""

    def __init__(self, client: Any) -> None:
        self.get, self.query, self._commit = client.get, client.query, client.commit

    async def commit(self, database: str, writes: list[Any]) -> Any:
        for write in writes:
            write.update.fields[SIGNATURE].string_value = DELIVERY.get()
        return await self._commit(database, writes)


class _SignedPublisher:
    """Its PublisherClient, signing each message likewise."""

    def __init__(self, client: Any) -> None:
        self._publish = client.publish

    async def publish(self, topic: str, message: Any) -> Any:
        message.attributes[SIGNATURE] = DELIVERY.get()
        return await self._publish(topic, message)
