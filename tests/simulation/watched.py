"""Jobs that are watched: who says that they were started, and Cloud Scheduler's calls for the next looks.

The circle is closed here: a follow-up is pushed to the watch, and what the watch says of a job that failed goes to the
function that retries it.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulation.firestore import Firestore
from tests.simulation.google import Job
from tests.simulation.grants import Grants
from tests.simulation.pubsub import PubSub
from tests.simulation.states import States
from tests.simulation.timeline import Timeline

ONE_IN = 10  # seeds
_DAY = 86_400.0
_GIVEN_UP = 15 * _DAY
_NO_CONSENT = ("revoked", "account", "missing", "policy")
_MALFORMED = (
    b"",
    b"\xff\xfe",
    b"[]",
    b'{"archiveJobId": "job-1"}',
    b'{"archiveJobId": "job-1", "userId": "user-1", "startedAt": "yesterday"}',
)


def is_watched(seed: int) -> bool:
    """Whether this seed's world has the watch in it: every tenth has, since watched jobs run for hours."""
    return seed % ONE_IN == ONE_IN - 1


def watched_seeds(begin: int, number: int) -> range:
    """So many seeds whose worlds have the watch in them, from this one on."""
    first = begin + (ONE_IN - 1 - begin) % ONE_IN
    return range(first, first + number * ONE_IN, ONE_IN)


class Watched:
    """The product that exports, and the schedule."""

    def __init__(
        self,
        timeline: Timeline,
        *,
        epoch: int,
        calm_at: float,
        run_schedule: Callable[[], None],
        pubsub: PubSub,
        firestore: Firestore,
        google: States,
        grants: Grants,
    ) -> None:
        self._timeline = timeline
        self._epoch = epoch
        self._calm_at = calm_at
        self._run_schedule = run_schedule
        self._pubsub = pubsub
        self._firestore = firestore
        self._google = google
        self._grants = grants
        self._events: dict[str, dict[str, bytes]] = defaultdict(dict)  # by credential and job
        self._every = timeline.rng.choice((300.0, 600.0))  # seconds from one run to the next
        self._is_scheduled = False

    # --- the product ---

    def produce(self, credentials: Sequence[str], collection: str) -> None:
        """Exports are started, and some that have failed and that somebody else has retried are watched, too."""
        self._credentials = credentials
        rng, after = self._timeline.rng, self._timeline.after
        failed = [job for job in self._google.jobs.values() if not job.parent]
        for job in failed:
            self._google.has_failed(job)
            if rng.random() < 0.3:
                self._start_some_time(job, self._event(job))
        exporting = rng.choice(credentials)
        for _ in range(rng.choice((1, 1, 2))):
            after(rng.choice((0.001, self._calm_at)) * rng.random(), self._export, exporting)
        if rng.random() < 0.25:  # consent is withdrawn, and given anew
            withdrawn_at, given_at = sorted(self._calm_at * rng.random() for _ in "ab")
            after(withdrawn_at, self._grants.change, exporting, rng.choice(_NO_CONSENT))
            after(given_at, self._grants.change, exporting, "good")
        if rng.random() < 0.3:
            after(self._calm_at * rng.random(), self._pubsub.start, rng.choice(_MALFORMED), {"from": "nowhere"})
        if rng.random() < 0.1 and failed:
            job, begins = rng.choice(failed), self._calm_at * rng.random()
            after(begins, self._firestore.write_unreadable, collection, job.name, self._calm_at * rng.random())
            self._start_some_time(job, self._event(job))

    def _export(self, credential: str) -> None:
        rng = self._timeline.rng
        job = self._google.add_job(credential)
        job.fails = rng.random() < 0.4
        if rng.random() < 0.1:  # it runs for ever, and has for nearly as long as the watch looks
            self._google.runs(job, ends=False)
            data = self._event(job, ago=_GIVEN_UP - 10_000.0 * rng.random())
        else:
            self._google.runs(job)
            data = self._event(job)
        self._events[credential][job.name] = data
        own = random.Random(f"{self._timeline.now} {data!r}")  # so that no other draw depends on it
        for other in self._credentials:
            if other != credential and own.random() < 0.3:  # a mistake of the product's, or one that it mends
                named = json.dumps(json.loads(data) | {"credentialId": other}).encode()
                for _ in range(own.choice((1, 2))):
                    seconds = own.choice((1.0, 1000.0, 6000.0)) * own.random()
                    self._timeline.after(seconds, self._pubsub.start, named, {})
        for _ in range(rng.choice((1, 1, 2))):
            self._start_some_time(job, data)
        if rng.random() < 0.1 and job.fails:  # the product hears of it elsewhere, too
            self._timeline.after(self._calm_at * rng.random(), self._pubsub.fail, data, {})

    def _start_some_time(self, job: Job, data: bytes) -> None:
        rng = self._timeline.rng
        self._timeline.after(rng.choice((0.001, 1.0, self._calm_at)) * rng.random(), self._pubsub.start, data, {})

    def _event(self, job: Job, *, ago: float = 0.0) -> bytes:
        rng = self._timeline.rng
        event: dict[str, Any] = {"archiveJobId": job.name, "userId": "user-1", "credentialId": job.credential, "x": [1]}
        if rng.random() < 0.3:
            event["rootArchiveJobId"] = job.name
        if job.used_before or rng.random() < 0.3:
            event["attempt"] = job.used_before
        if ago or rng.random() < 0.5:
            ago = ago or rng.choice((0.0, 600.0, 10_000.0, 10_000.0, 2 * _DAY, -1000 * _DAY))
            moment = datetime.fromtimestamp(self._epoch + self._timeline.now, UTC) - timedelta(seconds=ago)
            event["startedAt"] = moment.isoformat()
        return json.dumps(event).encode()

    def consented(self, credential: str) -> None:
        """The user has just consented anew, and the product asks about this user's exports once more."""
        rng = self._timeline.rng
        for data in self._events[credential].values():
            if rng.random() < 0.9:
                self._timeline.after(rng.choice((0.0, 1.0)) * rng.random(), self._pubsub.start, data, {})

    def ended(self, job: str, state: str) -> None:
        """Where nobody could say how a job has ended, the product asks once more."""
        rng = self._timeline.rng
        data = next((events.pop(job) for events in self._events.values() if job in events), None)
        if state == "UNKNOWN" and data and rng.random() < 0.7:
            self._timeline.after(rng.choice((1.0, 3000.0)) * rng.random(), self._pubsub.start, data, {})

    def follow_up(self, data: bytes) -> None:
        """A follow-up is a started event as it stands."""
        self._pubsub.start(data, {})

    # --- Cloud Scheduler ---

    def kept(self, not_before: float) -> None:
        """Something waits, so there are runs of the schedule. A duplicate may come before its time or after it."""
        rng = self._timeline.rng
        if rng.random() < 0.3:
            due_in = max(0.0, not_before - self._epoch - self._timeline.now)
            self._timeline.after(due_in + self._every * rng.random(), self._pubsub.deliver_again)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._timeline.after(self._every * rng.random(), self._tick)

    def _tick(self) -> None:
        """Runs that find nothing due are left out."""
        waiting = self._firestore.waiting()
        self._is_scheduled = bool(waiting)
        if waiting:
            if min(waiting) <= self._epoch + self._timeline.now:
                self._run_schedule()
            self._timeline.after(self._every, self._tick)
