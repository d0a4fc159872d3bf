"""A minute of the real functions on one machine: jobs of every kind, an outage of Google's, a fault of ours."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

from local import google_errors, topics
from local.every_kind import KINDS, Content
from local.stage import Stage
from tests.bench.process_tree import cpu_seconds, memory_mb
from tests.monitoring.logs import Entry, LogMetric
from tests.monitoring.run import RETRY, entries, scheduled
from tests.monitoring.series import Point, points_of

SECONDS = 60
_EVENTS_A_SECOND, _USERS = 8, 40
_OUTAGE, _FAULT = range(18, 26), range(38, 42)  # seconds of the minute
_MEMORY_LIMIT_MB = 512
_SETTLED = ("retried", "rejected", "deferred")
_SUBSCRIPTION = "pubsub.googleapis.com/subscription/"
_CONTAINER = "run.googleapis.com/container/"


@dataclass(frozen=True, slots=True)
class Minute:
    """What came of it. `begin` is in seconds, as are all times; `googles` are the points of Google's metrics."""

    begin: float
    entries: list[Entry]
    googles: list[Point]

    def points(self, metrics: list[LogMetric]) -> list[Point]:
        return [*points_of(self.entries, metrics), *self.googles]


async def run(firestore: str) -> Minute:
    """With the embedded Pub/Sub: Google's emulator pushes ever more slowly to a subscriber that refuses events."""
    stage = Stage(
        firestore=firestore,
        max_delivery_attempts=8,
        secret_latency=0.01,
        token_latency=0.1,
        retry_latency=0.3,
    )
    async with stage:
        function = await stage.start_function()
        await stage.start_function(target="watch_archive_job", settings={"WATCH_INTERVAL_SECONDS": "5"})
        for user in range(_USERS):
            stage.add_user(f"user-{user}")
        async with scheduled(stage, seconds=5.0):
            await stage.publish({"archiveJobId": "warms-up", "userId": "user-0"})
            await stage.until(lambda: stage.follow_ups)
            begin, published, sampled = time.time(), dict[str, float](), list[Point]()
            dead = dict[str, float]()  # by job
            for second in range(SECONDS):
                before = cpu_seconds(function.pid)
                await _start(stage, second)
                for content in _events(stage, second):
                    published[await stage.publish(content)] = time.time()
                await asyncio.sleep(max(0.0, begin + second + 1 - time.time()))
                dead = {message.data["archiveJobId"]: time.time() for message in stage.dead_letters} | dead
                sampled += _sampled(stage, cpu_seconds(function.pid) - before, memory_mb(function.pid))
            logged = entries(stage)
    return Minute(begin, logged, [*_pubsub(begin, published, dead, logged), *sampled])


async def _start(stage: Stage, second: int) -> None:
    """A job begins that the watch looks at."""
    job, user = f"watched-{second}", f"user-{second % _USERS}"
    stage.google.states[job] = random.Random(second).choice(["COMPLETE", "COMPLETE", "CANCELLED", "IN_PROGRESS"])
    await stage.publish({"archiveJobId": job, "userId": user}, topic=topics.STARTED)


def _events(stage: Stage, second: int) -> Iterator[Content]:
    """What fails in this second: mostly plain jobs of few users, and every other kind from time to time."""
    dice = random.Random(second)
    kinds = [name for name in KINDS if name not in ("plain", "api-disabled")]
    for number in range(dice.randint(_EVENTS_A_SECOND // 2, _EVENTS_A_SECOND)):
        job = f"job-{second}-{number}"
        kind = dice.choice(kinds) if dice.random() < 0.15 else "plain"
        if second in _OUTAGE:
            kind = dice.choice(["unavailable", "unavailable", "plain"])
        elif second in _FAULT:
            kind = "api-disabled"
        if kind == "plain":
            yield {"archiveJobId": job, "userId": f"user-{dice.randrange(_USERS)}"}
        else:
            yield KINDS[kind].prepare(stage, job)
    if second == _FAULT[0]:  # for this one it is never put right
        content = KINDS["plain"].prepare(stage, "given-up")
        stage.google.script_retry("given-up", repeat(google_errors.project_refused()))
        yield content


def _sampled(stage: Stage, cpu: float, memory: float) -> Iterator[Point]:
    """What Google's metrics would say at this moment of the function's process and of the dead letters."""
    now, service = time.time(), {"resource.labels.service_name": RETRY}
    dead = {"resource.labels.subscription_id": "archive-job-dead"}
    yield Point(now, f"{_SUBSCRIPTION}num_undelivered_messages", len(stage.dead_letters), dead)
    yield Point(now, f"{_CONTAINER}instance_count", 1, {**service, "metric.labels.state": "active"})
    yield Point(now, f"{_CONTAINER}cpu/utilizations", cpu, service)
    yield Point(now, f"{_CONTAINER}memory/utilizations", memory / _MEMORY_LIMIT_MB, service)


def _pubsub(begin: float, published: dict[str, float], dead: dict[str, float], logged: list[Entry]) -> Iterator[Point]:
    """What they would say of the failed topic and the push, from when events were published and settled or given up."""
    lines = [entry["jsonPayload"] | {"at": entry["timestamp"].timestamp()} for entry in logged]
    settled = {line["messageId"]: line["at"] for line in lines if line.get("outcome") in _SETTLED}
    settled |= {line["messageId"]: dead[line["archiveJobId"]] for line in lines if line.get("archiveJobId") in dead}
    topic = {"resource.labels.topic_id": "archive-job-failed"}
    push = {"resource.labels.subscription_id": "archive-job-failed-push"}
    for at in published.values():
        yield Point(at, "pubsub.googleapis.com/topic/send_message_operation_count", 1, topic)
    for second in range(SECONDS):
        now = begin + second + 0.5
        waiting = [at for message, at in published.items() if at <= now < settled.get(message, now + 1)]
        yield Point(now, f"{_SUBSCRIPTION}num_undelivered_messages", len(waiting), push)
        yield Point(now, f"{_SUBSCRIPTION}oldest_unacked_message_age", now - min(waiting, default=now), push)
