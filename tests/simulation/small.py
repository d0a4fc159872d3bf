"""The small world of an enumeration: two deliveries, fixed latencies, and every trouble a choice.

The instances, their containers, the services and the judge are those of the simulation.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from msgspec.structs import replace

from handlers.bootstrap import Container
from tests.simulation import faults, invariants
from tests.simulation.choices import Choices, ExploredTimeline, Fixed, Point, Schedule
from tests.simulation.faults import Faults
from tests.simulation.firestore import Firestore
from tests.simulation.google import Google
from tests.simulation.grants import MARK, Grants
from tests.simulation.instance import EPOCH, FunctionInstance, Services, settings_with
from tests.simulation.pubsub import PubSub
from tests.simulation.record import DELIVERY, Effect, Froze, Record, Trouble
from tests.simulation.scenarios import Scenario
from tests.simulation.timeline import Endless
from tests.simulation.world import AFTERMATH

_LATENCY = 0.05  # seconds: more than a batching window, so that nothing waits for one to end
_BACK_OFF = 160.0  # seconds: more than a lease, so that the first redelivery meets a claim that has lapsed
_DOUBT_PAUSE = 5  # seconds: a second call in doubt is followed by 150, and so by less than the back-off
_FROZEN_A_MINUTE = "freezes for a minute"  # more than any call may take, and less than a delivery
_ENDS = "gets SIGTERM"
_RESUMES_AFTER, _RESUMES_EVERY = 5.0, 300.0  # seconds: after the end of a cooldown, and from one run to the next
_MOST_RESUMES = 6
_RESUMES_AT_THE_END = 14  # for longer than the longest pause, an hour, once all who stood still are awake
_MOST_SECONDS = 86_400.0
_MOST_STEPS = 20_000

# A read that is lost on the way there is as one that is lost on the way back: nothing has changed at the service.
_READ = (faults.REFUSED, faults.VOID, faults.DIES_AFTER, faults.FREEZES, _FROZEN_A_MINUTE, _ENDS)
_SENT = (*_READ, faults.LOST, faults.LATE, faults.DIES_UNSENT)
_TROUBLES: Mapping[tuple[str, bool], tuple[str, ...]] = {
    ("firestore", True): (*_READ, faults.MISTAKEN, faults.EMPTY),
    ("firestore", False): (*_SENT, faults.MISTAKEN),
    ("secrets", True): (*_READ, faults.MISTAKEN, faults.DAMAGED),
    ("oauth", False): (*_READ, faults.LOST, faults.BROKEN, faults.FOREIGN),  # what is not read changes nothing here
    ("portability", False): (
        *_SENT,
        faults.BROKEN,
        faults.BROKEN_AFTER,
        faults.FOREIGN,
        faults.HELD_BACK,
        faults.UNAUTHORIZED,
    ),
    ("pubsub", False): (*_SENT, faults.MISTAKEN),
}


_QUIET = ("secrets", "oauth")  # no delivery changes what they answer one at another instance


@dataclass(frozen=True, slots=True)
class Explored:
    """What became of a schedule."""

    points: list[Point]
    record: Record
    violations: list[str]


class _Troubles(Faults):
    """Each exchange goes well, or as the schedule says; and before it another strand may run on."""

    def __init__(
        self,
        timeline: ExploredTimeline,
        record: Record,
        choices: Choices,
        scenario: Scenario,
        end: Callable[[str], None],
    ) -> None:
        super().__init__(timeline, record, calm_at=0.0, storm=False)
        self._explored = timeline
        self._choices = choices
        self._quiet = _QUIET if scenario.instances > 1 else ()
        self._alike = scenario.alike
        self._end = end
        self.latency = dict.fromkeys(self.latency, _LATENCY)
        self.latest = inf
        self.last_at = 0.0  # when something went wrong

    def trouble(self, service: str, instance: str, *, reads: bool = False) -> str:
        where = f"{DELIVERY.get()} {service}"
        if service not in self._quiet:
            self._offer_switch(where)
        trouble = self._choices.choose(where, _TROUBLES[service, reads])
        if trouble:
            self.last_at = self._explored.now
            self.freezes_for = inf
            if trouble == _FROZEN_A_MINUTE:
                self.freezes_for, trouble = 60.0, faults.FREEZES
            if trouble == _ENDS:
                self._explored.after(0.0, self._end, instance)
                return ""
            self.record(Trouble(self._explored.now, instance, service, trouble))
        return trouble

    def _offer_switch(self, where: str) -> None:
        if self._alike and self._choices.is_default_so_far:
            self._alike = False  # what either of them does first cannot be told apart
            return
        others = self._explored.others()
        if others:
            other = self._choices.choose(where, others, is_switch=True)
            if other:
                self._explored.switch(other)


class _Instance(FunctionInstance):
    def freeze(self, seconds: float) -> None:
        """What the judge reads is how long it was in the end."""
        if not self.loop.dead and seconds == inf:
            effects, place = self._record.effects, len(self._record.effects)
            super().freeze(seconds)
            self.loop.signal(partial(self._wakes, effects, place))
        else:
            super().freeze(seconds)

    def _wakes(self, effects: list[Effect], place: int) -> None:
        froze = effects[place]
        assert isinstance(froze, Froze)
        effects[place] = replace(froze, seconds=self._timeline.now - froze.at)


class SmallWorld:
    """Everything but the function's own code, for one schedule of a scenario."""

    def __init__(self, scenario: Scenario, schedule: Schedule, kind: type[Container] = Container) -> None:
        random.seed(0)  # AsyncRetry's jitter comes of the global one
        self._scenario = scenario
        self._kind = kind
        self._rng = Fixed(scenario.prefers)
        self.record = Record()
        self.timeline = ExploredTimeline(self._rng)
        self.choices = Choices(schedule)
        self.faults = _Troubles(self.timeline, self.record, self.choices, scenario, self._end)
        kept: dict[str, Any] = {"epoch": EPOCH, "mark": MARK.encode()}
        self.settings = settings_with(
            budget=scenario.budget, park=scenario.park, canary=False, doubt_pause=_DOUBT_PAUSE
        )
        self.grants = Grants(self.timeline, self.record, until=0.0, canary=False)
        self.firestore = Firestore(self.timeline, self.record, **kept)
        self.google = Google(
            self.timeline, self.record, self.faults, self.grants, epoch=EPOCH, delivery=DELIVERY.get, defers=False
        )
        self.pubsub = PubSub(self.timeline, self.record, calm_at=inf, first_back_off=_BACK_OFF, **kept)
        self.pubsub.platform = self
        self.pubsub.followed_up = self._report
        self.firestore.deferred = self._schedule_resume
        self._services = Services(self.firestore, self.grants, self.pubsub, self.google)
        self._instances: list[FunctionInstance] = []
        self._resumes, self._most_resumes = 0, _MOST_RESUMES
        for number in range(scenario.instances):
            self._rng.at = scenario.clocks[number]
            self._instances.append(self._started(f"i{number + 1}"))
        self._rng.at = 0.5
        self._produce()

    def run(self, *, judged: bool = True) -> Explored:
        """Let it all happen, and judge it."""
        endless = []
        try:
            self.timeline.run(most_seconds=_MOST_SECONDS, most_steps=_MOST_STEPS)
            if self.firestore.waiting():
                self._most_resumes = self._resumes + _RESUMES_AT_THE_END
                self._resume_again()
                self.timeline.run(most_seconds=_MOST_SECONDS, most_steps=_MOST_STEPS)
        except Endless as error:
            endless.append(str(error))
        self.choices.check()
        settled_at = max(self.faults.last_at, self.timeline.unparked_at) + AFTERMATH
        terms = invariants.Terms(
            budget=self.settings.retry_budget,
            park=self.settings.ambiguous_retry == "park",
            doubt_pause=self.settings.doubt_pause_seconds,
            event_max_age=self.settings.event_max_age.total_seconds(),
            settled_at=settled_at,
            jobs=self.google.jobs,
        )
        violations = endless + (invariants.broken(self.record.effects, terms) if judged else [])
        for instance in self._instances:
            instance.loop.die()
        return Explored(self.choices.points, self.record, violations)

    # --- Cloud Run ---

    def route(self, delivery: str, body: bytes, respond: Callable[[int], None]) -> str:
        """Each redelivery to the next instance, and none to one that is frozen where another is awake."""
        message, _, attempt = delivery.removeprefix("m").partition("#")
        awake = self._awake()
        instance = awake[(int(message) + int(attempt)) % len(awake)]
        self.timeline.begin(delivery, 0.0, instance.deliver, delivery, body, respond)
        return instance.name

    def _awake(self) -> list[FunctionInstance]:
        return [one for one in self._instances if one.loop.frozen_until <= self.timeline.now] or self._instances

    def _started(self, name: str) -> FunctionInstance:
        instance = _Instance(name, self.timeline, self.record, self.faults, self._services, self.settings, self._kind)
        instance.died = self._replace
        return instance

    def _replace(self, gone: FunctionInstance) -> None:
        if gone in self._instances:
            self._instances[self._instances.index(gone)] = self._started(f"{gone.name}'")

    def _end(self, name: str) -> None:
        for instance in self._instances:
            if instance.name == name:
                self._replace(instance)
                instance.end()
                return

    # --- the producer, and Cloud Scheduler ---

    def _produce(self) -> None:
        scenario = self._scenario
        self.grants.add("user-1")
        if scenario.revoked_until:
            self.grants.change("user-1", "revoked")
            self.timeline.after(scenario.revoked_until, self.grants.change, "user-1", "good")
        job = self.google.add_job("user-1")
        job.nature = scenario.nature
        self._fail(job.name)
        if scenario.second == "event":
            self.timeline.after(scenario.after, self._fail, job.name)
        elif scenario.second == "message":
            self.timeline.after(scenario.after + _LATENCY, self.pubsub.deliver_again)

    def _fail(self, job: str) -> None:
        self.pubsub.fail(json.dumps({"archiveJobId": job, "userId": "user-1"}).encode(), {})

    def _report(self, follow_up: bytes) -> None:
        """The new job fails, too: its own event says nothing of the chain."""
        job = self.google.jobs[json.loads(follow_up)["archiveJobId"]]
        if self._scenario.second == "new job" and not self.google.jobs[job.parent].parent:
            self.timeline.begin("", self._scenario.after, self._fail, job.name)

    def _schedule_resume(self, not_before: float) -> None:
        if not self._resumes:
            self._resumes = 1
            due_in = not_before - EPOCH - self.timeline.now
            self.timeline.begin("resume-1", due_in + _RESUMES_AFTER, self._resume)

    def _resume(self) -> None:
        """A run of the schedule, and another one as long as something waits."""
        self._awake()[0].resume(f"resume-{self._resumes}")
        if self.firestore.waiting() and self._resumes < self._most_resumes:
            self._resume_again()

    def _resume_again(self) -> None:
        self._resumes += 1
        self.timeline.begin(f"resume-{self._resumes}", _RESUMES_EVERY, self._resume)
