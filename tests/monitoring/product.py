"""A product's jobs as its metrics have them: healthy for a week, then broken. Which alerts fire, and when."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.infra.terraform import Plan
from tests.monitoring.logs import Entry, LogMetric, entry, matches
from tests.monitoring.promql import Metrics, Query
from tests.monitoring.run import RESUME, RETRY
from tests.monitoring.series import Point

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
_SUBSCRIPTION = "pubsub.googleapis.com/subscription/"
_RUNS_EVERY = 10 * MINUTE
_USERS = 10

# Deliveries of an event that is refused, in seconds after its first one: the back-off doubles from 10 s to 600 s
_BACK_OFF = [0.0, 10.0, 30.0, 70.0, 150.0, 310.0, 630.0]
DELIVERIES = _BACK_OFF + [630.0 + 600.0 * number for number in range(1, 94)]


@dataclass(frozen=True, slots=True)
class Volume:
    """How many jobs fail, in groups of `jobs` every so many seconds; for how long after the break one looks."""

    name: str
    jobs: int
    every: float
    history: float
    looks_on: float

    def times(self, begin: float, end: float) -> Iterator[float]:
        count = 0
        while begin + count * self.every < end:
            yield begin + count * self.every
            count += 1


LARGE = Volume("a thousand a minute", 1000, MINUTE, 1.1 * DAY, 3 * HOUR)
SMALL = Volume("three a day", 1, 8 * HOUR, 7.5 * DAY, 4 * DAY)


def dated(service: str, line: Mapping[str, Any]) -> Entry:
    """A line as Cloud Logging has it; when it was written is told beside it."""
    return entry(service, {**line, "time": "2026-01-01T00:00:00Z"})


@dataclass
class Told:
    """Points and lines in the making."""

    metrics: Sequence[LogMetric]
    counts: dict[tuple[str, float, tuple[tuple[str, str], ...]], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    entries: list[tuple[float, Entry]] = field(default_factory=list)  # what matches lines looks at: the broken ones

    def say(self, service: str, line: Mapping[str, Any], times: Mapping[float, float]) -> None:
        """Lines of this kind: when, and how many."""
        found = dated(service, line)
        for metric in self.metrics:
            if point := metric.point(found):
                labels = tuple((f"metric.labels.{name}", text) for name, text in point[0].items())
                name, value = (f"{metric.type}_count", 1.0) if metric.value else (metric.type, point[1])
                for at, weight in times.items():
                    self.counts[name, at, labels] += weight * value

    def gauge(self, metric: str, subscription: str, at: float, value: float) -> None:
        labels = (("resource.labels.subscription_id", subscription),)
        self.counts[_SUBSCRIPTION + metric, at, labels] = value

    def points(self) -> Iterator[Point]:
        for (metric, at, labels), value in self.counts.items():
            yield Point(at, metric, value, dict(labels))


class Alerts:
    """The alerts of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.metrics = [LogMetric.planned(metric.values) for metric in plan.of("logging_metric")]
        self._queries: dict[str, tuple[Query, float]] = {}
        self._filters: dict[str, str] = {}
        self._gauges: dict[str, Query] = {}
        for policy in plan.of("monitoring_alert_policy"):
            name = policy.values["display_name"].partition(": ")[2]
            [condition] = policy.values["conditions"]
            for query in condition["condition_prometheus_query_language"]:
                self._queries[name] = Query(query["query"]), float(query["duration"].removesuffix("s"))
            for matched in condition["condition_matched_log"]:
                self._filters[name] = matched["filter"]
            for threshold in condition["condition_threshold"]:
                parts = dict(part.split("=") for part in threshold["filter"].split(" AND "))
                metric = parts["metric.type"].strip('"').replace(".", "_").replace("/", ":", 1).replace("/", "_")
                labels = f"{{subscription_id={parts['resource.labels.subscription_id']}}}"
                self._gauges[name] = Query(f"{metric}{labels} > {threshold['threshold_value']:g}")

    def fired(self, told: Told, begin: float, end: float, every: float = 5 * MINUTE) -> dict[str, float]:
        """Every alert that fires from `begin` to `end`, with the seconds that it takes to."""
        metrics, found = Metrics(told.points()), dict[str, float]()
        conditions = self._queries | {name: (query, 0.0) for name, query in self._gauges.items()}
        since: dict[str, float] = {}
        now = begin
        while now < end:
            for name, (query, duration) in conditions.items():
                if name in found:
                    continue
                if not query.fires(metrics, now):
                    since.pop(name, None)
                elif now - since.setdefault(name, now) >= duration:
                    found[name] = now - begin
            now += every
        for name, written in self._filters.items():
            seen = [at for at, line in told.entries if matches(written, line)]
            if seen:
                found[name] = min(seen) - begin
        return found


HEALTHY: Mapping[str, Any] = {
    "severity": "INFO",
    "outcome": "retried",
    "republished": False,
    "calls": 1,
    "callsUnknown": 0,
    "delaySeconds": 1.5,
    "userId": "user-0",
}
RUN: Mapping[str, Any] = {"severity": "INFO", "outcome": "resumed", "resumed": 0}


def broken_by(
    metrics: Sequence[LogMetric], line: Mapping[str, Any], volume: Volume, *, one: bool = False, schedule: bool = False
) -> tuple[Told, float, float]:
    """What a product tells whose deliveries end with this line from some time on: those of one job, or all of them.

    Gives begin and end of the time to look at, too. Of the line of a run, all runs end so, and deliveries are healthy.
    """
    told, begin = Told(metrics), volume.history
    end = begin + volume.looks_on
    healthy_until = end if one or schedule else begin
    told.say(RETRY, HEALTHY, {at: float(volume.jobs) for at in volume.times(0.0, healthy_until)})
    runs = [number * _RUNS_EVERY for number in range(int(end / _RUNS_EVERY))]
    told.say(RESUME, RUN, {at: 1.0 for at in runs if at < begin or not schedule})
    if schedule:
        told.say(RESUME, line, {at: 1.0 for at in runs if at >= begin})
        told.entries.append((begin, dated(RESUME, line)))
    else:
        _break(told, line, [(begin, 1)] if one else [(at, volume.jobs) for at in volume.times(begin, end)], end)
    return told, begin, end


def _break(told: Told, line: Mapping[str, Any], arrivals: list[tuple[float, int]], end: float) -> None:
    stays = line["outcome"] in ("not_now", "fault")
    times: list[dict[float, float]] = [defaultdict(float) for _ in range(_USERS)]
    for number, (arrival, jobs) in enumerate(arrivals):
        for offset in DELIVERIES if stays else [0.0]:
            at = arrival + offset // MINUTE * MINUTE
            for user in range(_USERS) if jobs > 1 and at < end else [number % _USERS]:
                times[user][at] += jobs / _USERS if jobs > 1 else jobs
    told.entries.append((arrivals[0][0], dated(RETRY, line)))
    for user, when in enumerate(times):
        told.say(RETRY, line if "userId" not in line else {**line, "userId": f"user-{user}"}, when)
    at = arrivals[0][0]
    while stays and at < end:
        waiting = [(arrival, jobs) for arrival, jobs in arrivals if arrival <= at < arrival + DELIVERIES[-1]]
        dead = sum(jobs for arrival, jobs in arrivals if at >= arrival + DELIVERIES[-1])
        told.gauge("num_undelivered_messages", "archive-job-dead", at, dead)
        told.gauge("num_undelivered_messages", "archive-job-failed-push", at, sum(jobs for _, jobs in waiting))
        oldest = at - waiting[0][0] if waiting else 0.0
        told.gauge("oldest_unacked_message_age", "archive-job-failed-push", at, oldest)
        at += 5 * MINUTE
