"""One run: a seed becomes a world with its users, jobs, instances and troubles, and runs until it is at rest."""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from handlers.bootstrap import WATCH_SUFFIX, Container
from handlers.telemetry.logging import log
from tests.simulation import invariants
from tests.simulation.deviations import Rehearsal
from tests.simulation.faults import Faults
from tests.simulation.firestore import Firestore
from tests.simulation.google import Google, Job
from tests.simulation.grants import MARK, Grants
from tests.simulation.instance import EPOCH, FunctionInstance, Services, settings_with
from tests.simulation.pubsub import PubSub
from tests.simulation.record import DELIVERY, Record
from tests.simulation.states import States
from tests.simulation.timeline import Endless, Timeline
from tests.simulation.watched import Watched, is_watched

_MOST_SECONDS = 10 * 86_400.0
_MOST_STEPS = 300_000
# seconds after the calm until the last freeze is over, what was late has arrived, and the last lease has lapsed
AFTERMATH = 600.0 + 200.0 + 150.0 + 90.0
_MOST_REPORTS = 5  # of one failure: each may bring several follow-ups, and each of those another report, without an end
_RUBBISH = (b"", b"{", b"\xff\xfe", b"null", b'{"archiveJobId": "job-1"}', b'{"archiveJobId": 7, "userId": "user-1"}')
_ATTRIBUTES = {"from": "the product"}
_COLLECTION = "projects/p/databases/(default)/documents/archiveJobRetries"

log.addHandler(logging.NullHandler())
log.propagate = False


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a seed."""

    seed: int
    record: Record
    violations: list[str]
    answered: frozenset[tuple[str, int, str]]  # what Google answered: (service, status, code or reason)
    happened: frozenset[tuple[str, str]]  # what went wrong: (service, trouble)


class World:
    """Everything but the function's own code."""

    has_watch = True  # in some seeds
    judges = invariants.Judge
    faults_kind = Faults

    def __init__(self, seed: int, kind: type[Container] = Container, rehearsal: Rehearsal | None = None) -> None:
        rng = rehearsal or random.Random(seed)
        random.seed(seed)  # AsyncRetry's jitter comes of the global one
        self.seed = seed
        self.record = Record()
        self.timeline = Timeline(rng)
        defers = rng.random() < 0.2  # a run that is about deferrals: long enough for them, and stormy
        watched = self.has_watch and is_watched(seed)
        self.calm_at = 1200.0 if defers else rng.choice((1200.0, 3000.0) if watched else (10.0, 300.0, 1200.0))
        budget, park, canary = rng.choice((3, 3, 3, 2, 1, 0)), rng.random() < 0.2, rng.random() < 0.5
        pause = rng.choice((10, 30, 120))  # seconds
        self.settings = settings_with(budget=budget, park=park, canary=canary, doubt_pause=pause)
        kept: dict[str, Any] = {"epoch": EPOCH, "mark": MARK.encode()}
        self.faults = self.faults_kind(self.timeline, self.record, calm_at=self.calm_at, storm=defers)
        self.grants = Grants(self.timeline, self.record, until=self.calm_at, canary=canary)
        self.firestore = Firestore(self.timeline, self.record, **kept)
        said: dict[str, Any] = {"defers": defers, "epoch": EPOCH, "delivery": DELIVERY.get}
        google = States if watched else Google
        self.google = google(self.timeline, self.record, self.faults, self.grants, **said)
        self.pubsub = PubSub(self.timeline, self.record, calm_at=self.calm_at, **kept)
        self.pubsub.platform = self
        self.pubsub.followed_up = self._watch
        self.grants.consented = self._export_again
        self.firestore.deferred = self._schedule_resume
        self._services = Services(self.firestore, self.grants, self.pubsub, self.google)
        self._kind = kind
        self._credentials: list[str] = []
        self._instances: list[FunctionInstance] = []
        self._started = 0
        self._watched: Counter[str] = Counter()  # how often a new job's failure was reported
        self._resumes = 0
        self._told = 0  # events
        self._scheduled = False
        self._pace = rng.choice((1.0, 300.0, 300.0))  # seconds between Cloud Scheduler's calls
        for _ in range(rng.choice((1, 2, 2, 3))):
            self._start()
        self._produce()
        self._strike()
        if isinstance(self.google, States):
            self._watches(self.google)

    def run(self) -> Run:
        """Let it all happen, and judge it."""
        endless = []
        try:
            self.timeline.run(most_seconds=_MOST_SECONDS, most_steps=_MOST_STEPS)
        except Endless as error:
            endless.append(str(error))
        terms = invariants.Terms(
            budget=self.settings.retry_budget,
            park=self.settings.ambiguous_retry == "park",
            doubt_pause=self.settings.doubt_pause_seconds,
            event_max_age=self.settings.event_max_age.total_seconds(),
            settled_at=self.calm_at + AFTERMATH,
            jobs=self.google.jobs,
            watch_interval=self.settings.watch_interval_seconds,
        )
        violations = endless + invariants.broken(self.record.effects, terms, self.judges)
        for instance in self._instances:
            instance.loop.die()
        answered, happened = frozenset(self.google.seen), frozenset(self.faults.happened)
        return Run(self.seed, self.record, violations, answered, happened)

    # --- Cloud Run ---

    def route(self, delivery: str, body: bytes, respond: Callable[[int], None]) -> str:
        if not self._instances:
            self.timeline.after(0.5, respond, 503)
            return "none"
        instance = self.timeline.rng.choice(self._instances)
        self.timeline.after(0.01 * self.timeline.rng.random(), instance.deliver, delivery, body, respond)
        return instance.name

    def _start(self) -> None:
        self._started += 1
        name = f"i{self._started}"
        build = self.instance_kind()
        instance = build(name, self.timeline, self.record, self.faults, self._services, self.settings, self._kind)
        instance.died = self._replace
        self._instances.append(instance)

    def instance_kind(self) -> type[FunctionInstance]:
        """What the next instance is."""
        return FunctionInstance

    def _replace(self, gone: FunctionInstance) -> None:
        """No more deliveries go to this instance; another one starts."""
        if gone not in self._instances:
            return
        self._instances.remove(gone)
        self.timeline.after(self.timeline.rng.choice((0.5, 5.0, 20.0)), self._start)

    def _strike(self) -> None:
        """Instances die and freeze at any moment, whatever they are about."""
        rng, after = self.timeline.rng, self.timeline.after
        roll = rng.random()
        if roll < 0.4:
            for _ in range(rng.randrange(1, 4)):
                blow = rng.choice((self._kill, self._end, self._freeze))
                after(rng.choice((1.0, self.calm_at)) * rng.random(), self._strike_one, blow)

    def _strike_one(self, blow: Callable[[FunctionInstance], None]) -> None:
        if self._instances and self.timeline.happens():
            blow(self.timeline.rng.choice(self._instances))

    def _kill(self, instance: FunctionInstance) -> None:
        instance.die()

    def _end(self, instance: FunctionInstance) -> None:
        self._replace(instance)
        instance.end()

    def _freeze(self, instance: FunctionInstance) -> None:
        instance.freeze(self.faults.freezes_for * (0.5 + self.timeline.rng.random()))

    # --- those who publish failed jobs ---

    def _produce(self) -> None:
        rng = self.timeline.rng
        self._credentials = [f"user-{number}" for number in range(1, rng.choice((2, 2, 3)))]
        for credential in self._credentials:
            self.grants.add(credential)
        for number in range(rng.choice((1, 1, 2, 3))):
            job = self.google.add_job(rng.choice(self._credentials))
            job.used_before = rng.choice((0, 0, 0, 0, 0, 0, 0, 1, 2))
            data = self._event(job)
            for copy in range(rng.choice((1, 1, 1, 2))):
                self._fail_some_time(data, deviates=number + copy > 0)
            if rng.random() < 0.1:  # another event, by any of the user's grants
                self._fail_some_time(self._event(job, rng.choice(self._credentials)))
        if (
            rng.random() < 0.05 and self.timeline.happens()
        ):  # a user consents anew while a delivery looks at the old grant
            job, at = self.google.add_job(self._credentials[0]), rng.random()
            self.grants.change(job.credential, "revoked")
            self.timeline.after(at, self.pubsub.fail, self._event(job), {})
            consents_at = at + rng.choice((0.1, 1.0, 5.0)) * rng.random()
            self.timeline.after(consents_at, self.grants.change, job.credential, "good")
        if rng.random() < 0.05 and self.timeline.happens():
            self.timeline.after(rng.random(), self.pubsub.fail, rng.choice(_RUBBISH), {"from": "nowhere"})
        if rng.random() < 0.05 and self.timeline.happens():
            job = self.google.add_job("user-1")
            begins, seconds = (self.calm_at * rng.random() for _ in "ab")
            self.timeline.after(begins, self.firestore.write_unreadable, _COLLECTION, job.name, seconds)
            self.timeline.after(begins + seconds * rng.random(), self.pubsub.fail, self._event(job), {})

    def _fail_some_time(self, data: bytes, *, deviates: bool = True) -> None:
        rng = self.timeline.rng
        seconds = rng.choice((0.001, 1.0, self.calm_at)) * rng.random()
        if not deviates or self.timeline.happens():
            self.timeline.after(seconds, self.pubsub.fail, data, _ATTRIBUTES)

    def _event(self, job: Job, credential: str = "") -> bytes:
        rng = self.timeline.rng
        name = rng.choice(("", "archiveJobs/")) + job.name
        credential = credential or job.credential
        event: dict[str, Any] = {"archiveJobId": name, "userId": "user-1", "credentialId": credential, "x": [1]}
        if credential == "user-1" and rng.random() < 0.5:
            del event["credentialId"]
        if rng.random() < 0.5:
            age = timedelta(days=rng.choice((0.0, 1.0, 5.0, 5.0, 5.0, 20.0)))
            event["failedAt"] = (datetime.fromtimestamp(EPOCH, UTC) - age).isoformat()
        self._told += 1
        own = random.Random(f"{self.seed} {self._told}")  # so that no other draw depends on it
        if (attempt := job.used_before + (own.random() < 0.05)) and own.random() < 0.8:
            event["attempt"] = attempt
        return json.dumps(event).encode()

    def _watch(self, follow_up: bytes) -> None:
        """A watcher: where a new job fails too, its follow-up is a failed event as it stands."""
        rng = self.timeline.rng
        job = self.google.jobs.get(json.loads(follow_up)["archiveJobId"])
        if job is None or not job.fails or (self._watched[job.name] and rng.random() < 0.8):
            return
        if self._watched[job.name] == _MOST_REPORTS:
            return
        self._watched[job.name] += 1
        data = follow_up if rng.random() < 0.6 else self._event(job)
        # its failure is fresh, however old the first one's is
        if b"failedAt" in data:
            data = json.dumps({key: value for key, value in json.loads(data).items() if key != "failedAt"}).encode()
        seconds = rng.choice((1.0, 100.0, 3000.0)) * rng.random()
        if self.timeline.happens():
            self.timeline.after(seconds, self.pubsub.fail, data, {})

    def _export_again(self, credential: str) -> None:
        """The user has just consented anew, and the product looks at what had failed."""
        rng = self.timeline.rng
        failed = [job for job in self.google.jobs.values() if job.credential == credential and not job.parent]
        if failed and rng.random() < 0.9 and self.timeline.happens():
            data = self._event(rng.choice(failed))
            self.timeline.after(rng.choice((0.0, 1.0)) * rng.random(), self.pubsub.fail, data, {})

    # --- Cloud Scheduler ---

    def _schedule_resume(self, not_before: float) -> None:
        """A deferral is written: it is resumed some time after it is due, and a duplicate may come before that."""
        rng, due_in = self.timeline.rng, max(0.0, not_before - EPOCH - self.timeline.now)
        if rng.random() < 0.9:
            self.timeline.after(due_in + self._pace * rng.random(), self.pubsub.deliver_again)
        if not self._scheduled:
            self._scheduled = True
            self.timeline.after(due_in + self._pace * rng.random(), self._resume)

    def _resume(self) -> None:
        """One call of Cloud Scheduler's, and the next one when there is something to do for it."""
        waiting = self.firestore.waiting()
        self._scheduled = bool(waiting)
        if not waiting:
            return
        self._run_schedule()
        self.timeline.after(max(20.0, self._pace, min(waiting) - EPOCH - self.timeline.now), self._resume)

    def _run_schedule(self) -> None:
        if self._instances:
            self._resumes += 1
            self.timeline.rng.choice(self._instances).resume(f"resume-{self._resumes}")

    # --- the watch ---

    def _watches(self, google: States) -> None:
        """A world with the watch in it, which takes the place of `_watch` and of the schedule above."""
        parts: dict[str, Any] = {
            "pubsub": self.pubsub,
            "firestore": self.firestore,
            "google": google,
            "grants": self.grants,
        }
        watched = Watched(self.timeline, epoch=EPOCH, calm_at=self.calm_at, run_schedule=self._run_schedule, **parts)
        self.pubsub.followed_up = watched.follow_up
        self.pubsub.ended = watched.ended
        self.pubsub.most_copies = _MOST_REPORTS
        self.firestore.deferred = watched.kept
        self.grants.consented = watched.consented
        watched.produce(self._credentials, _COLLECTION + WATCH_SUFFIX)
