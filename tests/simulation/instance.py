"""The function's instances: the real parts, put together as handlers/composition.py does, over the simulated wire."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from handlers.delivery import parse_delivery
from handlers.draining import Draining
from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.portability import PortabilityApi
from handlers.secret_store import SecretManagerClient, SecretStore
from handlers.topics import PublisherClient, Topic
from handlers.user_credentials import Secrets, UserCredentials

from handlers import grouping
from handlers.ledger import Ledger, Store
from handlers.ports import Http, Portability, Publisher, Tokens
from handlers.resume_deferred import ResumeDeferred
from handlers.retry_failed_job import RetryFailedJob, Rules
from handlers.telemetry import Journal
from tests.simulation import grants, pubsub
from tests.simulation.clients import Effect, HttpClient, Service, SignedFirestore, SignedPublisher
from tests.simulation.firestore import Firestore
from tests.simulation.google import Google
from tests.simulation.grants import Grants
from tests.simulation.pubsub import PubSub
from tests.simulation.record import Answered, ClaimAsked, Ended, Froze, Instance, Record
from tests.simulation.timeline import ProcessLoop, Timeline
from tests.simulation.wire import Wire

EPOCH = int(datetime(2026, 11, 23, 18, tzinfo=UTC).timestamp())
DELIVERY: ContextVar[str] = ContextVar("DELIVERY", default="")  # which delivery the running code works for
LEASE, DEADLINE = 150.0, 90.0  # seconds: the settings' defaults
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL, https://cloud.google.com/run/docs/container-contract#lifecycle


@dataclass(frozen=True, slots=True)
class Services:
    """What is at the other end of the wire."""

    firestore: Firestore
    grants: Grants
    pubsub: PubSub
    google: Google


class Composition:
    """How the parts are put together. The planted faults are the subclasses of it."""

    def __init__(self, *, budget: int, park: bool) -> None:
        self.rules = Rules(budget=budget, event_max_age=timedelta(days=14), park_ambiguous=park, deadline=DEADLINE)

    def firestore(self, service: Any, pause: float) -> FirestoreClient:
        return FirestoreClient(service, pause=pause)

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        return store

    def ledger(self, store: Store, **options: Any) -> Ledger:
        return Ledger(store, **options)

    def secrets(self, secrets: Secrets) -> Secrets:
        return secrets

    def http(self, http: Http) -> Http:
        return http

    def tokens(self, secrets: Secrets, http: Http, **options: Any) -> Tokens:
        return UserCredentials(secrets, http, **options)

    def portability(self, portability: Portability) -> Portability:
        return portability

    def topic(self, topic: Publisher) -> Publisher:
        return topic

    def draining(self) -> Draining:
        return Draining()

    def status(self, status: int) -> int:
        return status


class FunctionInstance:
    """One process of the function, from its start to its death."""

    def __init__(
        self, name: str, timeline: Timeline, record: Record, weather: Any, services: Services, composition: Composition
    ) -> None:
        self.name = name
        self.loop = ProcessLoop(timeline)  # type: ignore[abstract]
        self._timeline = timeline
        self._record = record
        self._composition = composition
        self._ending = False
        self._holders = 0
        self._open: dict[str, Callable[[int], None]] = {}  # deliveries in hand, and how to respond to them
        self.died: Callable[[FunctionInstance], None] = lambda instance: None
        self._behind = timeline.rng.choice((0.0, 0.2, 5.0, 120.0)) * timeline.rng.uniform(-1.0, 1.0)
        self._build(Wire(self, timeline, weather), services, composition)
        record.add(Instance(timeline.now, name, f"starts, its clock {-self._behind:+.1f} s off"))

    def _build(self, wire: Wire, services: Services, composition: Composition) -> None:
        http = composition.http(HttpClient(wire, services.google, grants.TOKEN_URI))
        documents, topics = services.firestore, services.pubsub
        effects: dict[str, Effect] = {
            "BatchGetDocuments": documents.batch_get,
            "Commit": documents.commit,
            "RunQuery": documents.run_query,
        }
        firestore: Any = Service(wire, "firestore", effects)
        secrets: Any = Service(wire, "secrets", {"AccessSecretVersion": services.grants.access})
        publishing: Any = Service(wire, "pubsub", {"Publish": topics.publish})
        pause = self._timeline.rng.choice((grouping.PAUSE, 2.0))  # the latter so that groups are common here, too
        publisher: Any = SignedPublisher(PublisherClient(publishing, pause=pause), DELIVERY.get)
        client: Any = SignedFirestore(composition.firestore(firestore, pause), DELIVERY.get)
        store = FirestoreStore(client, project="p", database="(default)", collection="retries")
        ledger = composition.ledger(
            composition.store(store, self._now),
            lease_seconds=LEASE,
            keep=timedelta(days=45),
            now=self._now,
            new_holder=self._new_holder,
        )
        self._draining = composition.draining()
        self._retry_failed_job = RetryFailedJob(
            rules=composition.rules,
            ledger=ledger,
            tokens=composition.tokens(
                composition.secrets(SecretStore(SecretManagerClient(secrets), "p")),
                http,
                secret_prefix=grants.SECRET_PREFIX,
                client_secret_id=grants.CLIENT_SECRET_ID,
            ),
            portability=composition.portability(
                PortabilityApi(http, "https://portability.simulated.example", self._now)
            ),
            retried=composition.topic(Topic(publisher, "p", pubsub.RETRIED)),
            rejected=composition.topic(Topic(publisher, "p", pubsub.REJECTED)),
            now=self._now,
            draining=self._draining,
        )
        failed = composition.topic(Topic(publisher, "p", pubsub.FAILED))
        self._resume_deferred = ResumeDeferred(ledger=ledger, failed=failed, limit=100, deadline=DEADLINE)

    # --- the world's side ---

    def deliver(self, delivery: str, body: bytes, respond: Callable[[int], None]) -> None:
        """A push arrives."""
        if self._ending or self.loop.dead:
            respond(503)
            return
        self._open[delivery] = respond
        self.loop.reach(self._begin, self._serve, delivery, body)

    def resume(self, run: str) -> None:
        """Cloud Scheduler calls."""
        self.loop.reach(self._begin, self._resume, run)

    def end(self) -> None:
        """SIGTERM: what is in hand has ten seconds."""
        self._ending = True
        self._record.add(Instance(self._timeline.now, self.name, "gets SIGTERM"))
        self.loop.reach(self.loop.call_soon, self._draining.begin)
        self._timeline.after(_GRACE, self._end, self._timeline.now)

    def _end(self, since: float) -> None:
        if not self.loop.dead and self.loop.frozen_until < since:
            self._record.add(Ended(self._timeline.now, self.name, " ".join(self._open)))
        self.die()

    def freeze(self, seconds: float) -> None:
        self._record.add(Froze(self._timeline.now, self.name, seconds))
        self.loop.freeze(seconds)

    def doom(self) -> None:
        self._timeline.after(0.0, self.die)

    def die(self) -> None:
        if not self.loop.dead:
            self._record.add(Instance(self._timeline.now, self.name, "dies"))
            self.loop.die()
            self.died(self)
            for respond in self._open.values():
                respond(503)

    # --- within the process ---

    def _begin(self, work: Callable[..., Any], *args: Any) -> None:
        self.loop.create_task(work(*args))

    async def _serve(self, delivery: str, body: bytes) -> None:
        DELIVERY.set(delivery)
        bug = ""
        try:
            outcome = await self._retry_failed_job(parse_delivery({}, body), Journal())
            status, said = self._composition.status(outcome.status), repr(outcome)
        except Exception as error:
            status, said, bug = 500, "", repr(error)
        self._record.add(Answered(self._timeline.now, delivery, status, said, bug))
        self._open.pop(delivery)(status)

    async def _resume(self, run: str) -> None:
        DELIVERY.set(run)
        try:
            said = repr(await self._resume_deferred(Journal()))
        except Exception as error:
            said = repr(error)
        self._record.add(Instance(self._timeline.now, self.name, f"{run}: {said}"))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(EPOCH + self._timeline.now - self._behind, UTC)

    def _new_holder(self) -> str:
        self._holders += 1
        holder = f"{self.name}-{self._holders}"
        self._record.add(ClaimAsked(self._timeline.now, DELIVERY.get(), holder))
        return holder
