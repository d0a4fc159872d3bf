"""The small part of PromQL that infra/ uses, over counted log lines and gauges. What it does not know, it refuses.

https://prometheus.io/docs/prometheus/latest/querying/basics/, and for the names
https://cloud.google.com/monitoring/promql/promql-mapping
"""

import math
import operator
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from tests.monitoring.logs import Unreadable
from tests.monitoring.series import Point

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)(?![a-z0-9])|(?P<range>\[\d+[mhd]\])|(?P<time>\d+[mhd])|(?P<word>[a-z_]+(?::[a-z_]+)?)"
    r"|(?P<labels>\{[^}]*\})|(?P<sign>>=|<=|>|<|\*|\(|\)))"
)
_MATCHER = re.compile(r'([a-z_]+)(=~|=)"([^"]*)"')
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_REDUCE: Mapping[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "max": max,
    "count": lambda values: float(len(values)),
}
_STALE = 300.0  # seconds after which a gauge's last value counts no more

Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]


class Metrics:
    """Points by metric and labels. Of a counter each point adds its value; of a gauge the last one holds."""

    def __init__(self, points: Iterable[Point]) -> None:
        series: dict[str, dict[Labels, list[Point]]] = defaultdict(lambda: defaultdict(list))
        for point in points:
            labels = tuple(sorted((name.rpartition(".")[2], text) for name, text in point.labels.items()))
            series[re.sub(r"[^a-z0-9]", "_", point.metric)][labels].append(point)
        self._series: dict[str, dict[Labels, tuple[list[float], list[float], list[float]]]] = {}
        for metric, found in series.items():
            self._series[metric] = {}
            for labels, unsorted in found.items():
                ordered = sorted(unsorted, key=lambda point: point.seconds)
                values = [point.value for point in ordered]
                self._series[metric][labels] = [point.seconds for point in ordered], values, list(accumulate(values))

    def increase(self, metric: str, matchers: str, begin: float, end: float) -> Vector:
        found: Vector = {}
        for labels, (times, _, sums) in self._matching(metric, matchers):
            first, last = bisect_right(times, begin), bisect_right(times, end)
            if first < last:
                found[labels] = sums[last - 1] - (sums[first - 1] if first else 0.0)
        return found

    def last(self, metric: str, matchers: str, now: float) -> Vector:
        found: Vector = {}
        for labels, (times, values, _) in self._matching(metric, matchers):
            at = bisect_right(times, now)
            if at and now - times[at - 1] <= _STALE:
                found[labels] = values[at - 1]
        return found

    def _matching(
        self, metric: str, matchers: str
    ) -> Iterable[tuple[Labels, tuple[list[float], list[float], list[float]]]]:
        wanted = [(name, how, text) for name, how, text in _MATCHER.findall(matchers) if name != "monitored_resource"]
        if ",".join(f'{name}{how}"{text}"' for name, how, text in _MATCHER.findall(matchers)) != matchers:
            raise Unreadable(matchers)
        for labels, series in self._series.get(metric.replace(":", "_"), {}).items():
            known = dict(labels)
            if all(_matches(known.get(name, ""), how, text) for name, how, text in wanted):
                yield labels, series


def _matches(value: str, how: str, text: str) -> bool:
    return bool(re.fullmatch(text, value)) if how == "=~" else value == text


class Query:
    """A query that was read. `fires` says whether it has a result."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if not token or not token.lastgroup:
                raise Unreadable(text[at:])
            self._tokens.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()
        self._at = 0
        self._evaluate = self._any_of()
        if self._at != len(self._tokens):
            raise Unreadable(text)

    def fires(self, metrics: Metrics, now: float) -> bool:
        return bool(self._evaluate(metrics, now))

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self, *wanted: str) -> str:
        if self._at >= len(self._tokens) or (wanted and self._peek() not in wanted):
            raise Unreadable(f"{self._peek()} where {wanted} should be")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _any_of(self) -> "Evaluate":
        found = self._all_of()
        while self._peek() == "or":
            self._next()
            found = _or(found, self._all_of())
        return found

    def _all_of(self) -> "Evaluate":
        found = self._comparison()
        while self._peek() == "and":
            self._next()
            found = _and(found, self._comparison())
        return found

    def _comparison(self) -> "Evaluate":
        found = self._product()
        if self._peek() in _COMPARE:
            found = _filtered(found, _COMPARE[self._next()], self._product())
        return found

    def _product(self) -> "Evaluate":
        found = self._atom()
        while self._peek() == "*":
            self._next()
            found = _times(found, self._atom())
        return found

    def _atom(self) -> "Evaluate":
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        self._next()
        if kind == "number":
            return lambda metrics, now: float(text)
        if text == "(":
            found = self._any_of()
            self._next(")")
            return found
        if text in _REDUCE:
            return self._aggregated(text)
        if text in ("increase", "vector"):
            self._next("(")
            found = self._increase() if text == "increase" else _vector(self._atom())
            self._next(")")
            return found
        if kind == "word" and ":" in text:
            matchers = self._next()[1:-1]
            return lambda metrics, now: metrics.last(text, matchers, now)
        raise Unreadable(text)

    def _aggregated(self, how: str) -> "Evaluate":
        by = ""
        if self._peek() == "by":
            self._next()
            self._next("(")
            by = self._next()
            self._next(")")
        self._next("(")
        inner = self._any_of()
        self._next(")")

        def evaluate(metrics: Metrics, now: float) -> Vector:
            groups: dict[Labels, list[float]] = defaultdict(list)
            for labels, value in _as_vector(inner(metrics, now)).items():
                groups[tuple(pair for pair in labels if pair[0] == by)].append(value)
            return {labels: _REDUCE[how](values) for labels, values in groups.items()}

        return evaluate

    def _increase(self) -> "Evaluate":
        metric, matchers, window = self._next(), self._next()[1:-1], self._next()
        if ":" not in metric or not window.startswith("["):
            raise Unreadable(f"increase of {metric}")
        seconds, offset = _duration(window[1:-1]), 0.0
        if self._peek() == "offset":
            self._next()
            offset = _duration(self._next())
        return lambda metrics, now: metrics.increase(metric, matchers, now - offset - seconds, now - offset)


Evaluate = Callable[[Metrics, float], float | Vector]


def _duration(text: str) -> float:
    return float(text[:-1]) * _SECONDS[text[-1]]


def _as_vector(value: float | Vector) -> Vector:
    if not isinstance(value, dict):
        raise Unreadable("a number where a vector should be")
    return value


def _or(left: Evaluate, right: Evaluate) -> Evaluate:
    return lambda metrics, now: _as_vector(right(metrics, now)) | _as_vector(left(metrics, now))


def _and(left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(metrics: Metrics, now: float) -> Vector:
        found = _as_vector(left(metrics, now))
        other = _as_vector(right(metrics, now)) if found else {}
        return {labels: value for labels, value in found.items() if labels in other}

    return evaluate


def _filtered(left: Evaluate, compare: Callable[[float, float], bool], right: Evaluate) -> Evaluate:
    def evaluate(metrics: Metrics, now: float) -> Vector:
        found, other = _as_vector(left(metrics, now)), right(metrics, now)
        return (
            {
                labels: value
                for labels, value in found.items()
                if (compare(value, other[labels]) if labels in other else False)
            }
            if isinstance(other, dict)
            else {labels: value for labels, value in found.items() if compare(value, other)}
        )

    return evaluate


def _times(left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(metrics: Metrics, now: float) -> float | Vector:
        factor, value = left(metrics, now), right(metrics, now)
        if isinstance(factor, dict):
            raise Unreadable("a vector times something")
        return {labels: factor * one for labels, one in value.items()} if isinstance(value, dict) else factor * value

    return evaluate


def _vector(number: Evaluate) -> Evaluate:
    def evaluate(metrics: Metrics, now: float) -> Vector:
        value = number(metrics, now)
        return {} if isinstance(value, dict) else {(): value}

    return evaluate
