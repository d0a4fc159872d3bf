"""What a chart of Cloud Monitoring's would show: points, filtered, aligned and reduced as a dashboard's query says.

https://cloud.google.com/monitoring/api/v3/aggregation. What it does not know, it refuses.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tests.monitoring.logs import Entry, LogMetric, Unreadable

_PART = re.compile(r'([a-z_.]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric at a time in seconds; `labels` by their full names, as filters write them."""

    seconds: float
    metric: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def points_of(entries: Iterable[Entry], metrics: Iterable[LogMetric]) -> list[Point]:
    """What log-based metrics make of log entries."""
    metrics = list(metrics)
    return [
        Point(
            entry["timestamp"].timestamp(),
            metric.type,
            point[1],
            {f"metric.labels.{name}": text for name, text in point[0].items()},
        )
        for entry in entries
        for metric in metrics
        if (point := metric.point(entry))
    ]


def _percentile(share: float) -> Callable[[list[float]], float]:
    return lambda values: sorted(values)[math.ceil(share * len(values)) - 1]


# (aligner, reducer) → what becomes of a period's values; counted metrics have a 1 for each entry
_AGGREGATES: Mapping[tuple[str, str], Callable[[list[float]], float]] = {
    ("ALIGN_DELTA", "REDUCE_SUM"): math.fsum,
    ("ALIGN_DELTA", "REDUCE_PERCENTILE_50"): _percentile(0.50),
    ("ALIGN_DELTA", "REDUCE_PERCENTILE_95"): _percentile(0.95),
    ("ALIGN_MAX", ""): max,
    ("ALIGN_MAX", "REDUCE_SUM"): max,  # of one revision, which is all there is here
    ("ALIGN_MEAN", ""): fmean,
}
_COUNTS = "REDUCE_SUM"


def series(
    query: Mapping[str, Any], points: Iterable[Point], *, begin: float, seconds: float, periods: int
) -> dict[tuple[str, ...], list[float | None]]:
    """By the values of the fields that are grouped by: a value for each period, None where nothing is known.

    The query's own period is not taken, but `seconds`: a local run is shorter than Google's shortest.
    """
    chosen = query["timeSeriesFilter"]
    parts = [_PART.fullmatch(part) for part in chosen["filter"].split(" AND ")]
    wanted = {part[1]: part[2] for part in parts if part}
    aggregation = chosen["aggregation"]
    how = (aggregation["perSeriesAligner"], aggregation.get("crossSeriesReducer", ""))
    if len(wanted) != len(parts) or how not in _AGGREGATES:
        raise Unreadable(str(chosen))
    metric, _ = wanted.pop("metric.type"), wanted.pop("resource.type")
    found: dict[tuple[str, ...], list[list[float]]] = defaultdict(lambda: [[] for _ in range(periods)])
    for point in points:
        period = int((point.seconds - begin) // seconds)
        if point.metric == metric and 0 <= period < periods and wanted.items() <= point.labels.items():
            group = tuple(point.labels.get(name, "") for name in aggregation.get("groupByFields", []))
            found[group][period].append(point.value)
    nothing = 0.0 if how == ("ALIGN_DELTA", _COUNTS) else None
    return {
        group: [_AGGREGATES[how](values) if values else nothing for values in of_group]
        for group, of_group in sorted(found.items())
    }


def legend(template: str, group_by: Iterable[str], group: Iterable[str]) -> str:
    """A data set's name for one of its groups."""
    for name, text in zip(group_by, group, strict=True):
        template = template.replace("${" + name + "}", text or "none")
    return template
