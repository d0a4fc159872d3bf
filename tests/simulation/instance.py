"""The function's instances: each a process with a container of the real parts, over the simulated wire."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol, cast

from handlers.bootstrap import Container
from handlers.domain.events import Delivery
from handlers.domain.outcomes import Outcome
from handlers.google.batching import MAX_LATENCY
from handlers.settings import Settings, from_environment
from handlers.telemetry.logging import LogLine
from handlers.web.push_request import parse_delivery
from tests.simulation import grants
from tests.simulation.clients import Clients, HttpClient, signed
from tests.simulation.faults import Faults
from tests.simulation.firestore import Firestore
from tests.simulation.google import Google
from tests.simulation.grants import Grants
from tests.simulation.pubsub import PubSub
from tests.simulation.record import (
    DELIVERY,
    Answered,
    ClaimAsked,
    Froze,
    Instance,
    Leak,
    Record,
    Resumed,
    ResumeStarted,
)
from tests.simulation.timeline import ProcessLoop, Timeline
from tests.simulation.watch_record import WatchAnswered, is_watchs
from tests.simulation.wire import Wire

EPOCH = int(datetime(2026, 11, 23, 18, tzinfo=UTC).timestamp())
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL, https://cloud.google.com/run/docs/container-contract#lifecycle

_OF_THE_LINE = ("calls", "callsUnknown", "failedStep", "attempt", "rootArchiveJobId", "credentialId")


@dataclass(frozen=True, slots=True)
class Services:
    """What is at the other end of the wire."""

    firestore: Firestore
    grants: Grants
    pubsub: PubSub
    google: Google


@cache
def settings_with(*, budget: int, park: bool, canary: bool, doubt_pause: int) -> Settings:
    return from_environment(
        {
            "GOOGLE_CLOUD_PROJECT": "p",
            "REFRESH_TOKEN_SECRET_PREFIX": grants.SECRET_PREFIX,
            "OAUTH_CLIENT_SECRET": grants.CLIENT_SECRET_ID,
            "CANARY_CREDENTIAL": grants.CANARY if canary else "",
            "RETRY_BUDGET": str(budget),
            "AMBIGUOUS_RETRY": "park" if park else "resend",
            "DOUBT_PAUSE_SECONDS": str(doubt_pause),
        }
    )


class Program(Protocol):
    """The use cases that are simulated, of any release."""

    shutdown: Any

    async def retry_failed_job(self, delivery: Delivery, log: LogLine) -> Outcome: ...
    async def resume_deferred(self, log: LogLine) -> Outcome: ...


class FunctionInstance:
    """One process of the function, from its start to its death. `release` is "" for that of this source."""

    release = ""

    def __init__(
        self,
        name: str,
        timeline: Timeline,
        record: Record,
        faults: Faults,
        services: Services,
        settings: Settings,
        kind: type[Container],
    ) -> None:
        self.name = name
        self.loop = ProcessLoop(timeline)  # type: ignore[abstract]
        self._timeline = timeline
        self._record = record
        self._ending = False
        self._owners = 0
        self._open: dict[str, Callable[[int], None]] = {}  # deliveries in hand, and how to respond to them
        self.died: Callable[[FunctionInstance], None] = lambda instance: None
        self._behind = timeline.rng.choice((0.0, 0.2, 5.0, 120.0)) * timeline.rng.uniform(-1.0, 1.0)
        wire = Wire(self, timeline, faults)
        self.kind = kind
        max_latency = timeline.rng.choice((MAX_LATENCY, 2.0))  # the latter so that batches are common here, too
        self._program = self.build(wire, services, settings, max_latency)
        record.add(Instance(timeline.now, name, f"starts, its clock {-self._behind:+.1f} s off", self.release))

    def build(self, wire: Wire, services: Services, settings: Settings, max_latency: float) -> Program:
        """Its parts, over this end of the wire."""
        container: Container = signed(self.kind)(  # type: ignore[arg-type]
            settings,
            clients=Clients(wire, firestore=services.firestore, grants=services.grants, pubsub=services.pubsub),
            http=HttpClient(wire, services.google),
            now=self.now,
            new_owner=self.new_owner,
            max_latency=max_latency,
        )
        return container

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
        self._record.add(ResumeStarted(self._timeline.now, run, self.name))
        self.loop.reach(self._begin, self._resume, run)

    def end(self) -> None:
        """SIGTERM: ten seconds later it is killed, whatever it has in hand."""
        self._ending = True
        self.loop.signal(self._begin_to_end)
        self._timeline.after(_GRACE, self.die)

    def _begin_to_end(self) -> None:
        self._record.add(Instance(self._timeline.now, self.name, "gets SIGTERM"))
        self._program.shutdown.set()

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
        use_case: Callable[..., Any]
        answered: type[Answered]
        if is_watchs(delivery):
            use_case, answered = cast("Container", self._program).watch_job, WatchAnswered  # 1.0 has none
        else:
            use_case, answered = self._program.retry_failed_job, Answered
        log = LogLine()
        status, said, bug = await _outcome(lambda: use_case(parse_delivery({}, body), log))
        line = {name: log.fields[name] for name in _OF_THE_LINE if name in log.fields}
        self._record.add(answered(self._timeline.now, delivery, status, said, bug, line))
        if grants.MARK in f"{said} {bug} {log.fields}":  # of which line and span are made
            self._record.add(Leak(self._timeline.now, f"the log line of {delivery}"))
        self._open.pop(delivery)(status)

    async def _resume(self, run: str) -> None:
        DELIVERY.set(run)
        ended = await _outcome(lambda: self._program.resume_deferred(LogLine()))
        self._record.add(Resumed(self._timeline.now, run, *ended))

    def now(self) -> datetime:
        return datetime.fromtimestamp(EPOCH + self._timeline.now - self._behind, UTC)

    def new_owner(self) -> str:
        self._owners += 1
        owner = f"{self.name}-{self._owners}"
        self._record.add(ClaimAsked(self._timeline.now, DELIVERY.get(), owner))
        return owner


async def _outcome(work: Callable[[], Any]) -> tuple[int, str, str]:
    """Its status, what it says, and the exception that came in its place."""
    try:
        outcome = await work()
    except Exception as error:
        return 500, "", repr(error)
    return outcome.status, repr(outcome), ""
