"""The log-based metrics against the lines that the real functions write: each takes what it says, and nothing else."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from infra.delivery.smoke import CANARY
from local.stage import Stage
from tests.infra.terraform import Plan
from tests.log_fields import FIELDS
from tests.monitoring.logs import Entry, LogMetric, Unreadable, entry, matches, value_at
from tests.monitoring.run import RESUME, RETRY, WATCH, every_kind

# Cloud Run's own entry for a request, and a line that is no JSON: with a severity and a service as ours have them
OTHERS: tuple[Entry, ...] = (
    {
        "resource": {"type": "cloud_run_revision", "labels": {"service_name": RETRY}},
        "severity": "ERROR",
        "httpRequest": {"status": 500},
    },
    {
        "resource": {"type": "cloud_run_revision", "labels": {"service_name": RETRY}},
        "severity": "DEFAULT",
        "textPayload": "outcome",
    },
    {
        "resource": {"type": "cloud_run_revision", "labels": {"service_name": "another-product"}},
        "severity": "ERROR",
        "jsonPayload": {"outcome": "fault", "calls": 1, "callsUnknown": 1, "delaySeconds": 700, "tokenCached": True},
    },
)

# Of an entry that the schedule passes by: there is none on the stage; tests/infra/test_broken.py has the real line
PASSED_BY = entry(
    RESUME, {"severity": "WARNING", "time": "2026-11-23T18:00:00Z", "message": "ledger entry 'job' cannot be read"}
)

Line = Mapping[str, Any]
_STEPS = ("claim", "token", "retry", "record", "publish")
# metric → whether it takes a line of its function, which is the retrying one where nothing else is said
OF = {"looks": WATCH, "runs": RESUME, "unreadable": RESUME}
TAKES: dict[str, Callable[[Line], bool]] = {
    "calls": lambda line: line.get("calls", 0) > 0,
    "calls-unknown": lambda line: line.get("callsUnknown", 0) > 0,
    "delay": lambda line: "delaySeconds" in line,
    "deliveries": lambda line: "outcome" in line,
    "faults": lambda line: line.get("outcome") == "fault",
    "late": lambda line: line.get("delaySeconds", 0) > 600,
    "latency": lambda line: "latencyMs" in line,
    "looks": lambda line: "outcome" in line,
    "rejected": lambda line: line.get("outcome") == "rejected",
    "runs": lambda line: "outcome" in line,
    "tokens": lambda line: "tokenCached" in line,
    "unreadable": lambda line: "cannot be read" in line["message"],
    **{f"step-{step}": lambda line, step=step: step in line.get("stepsMs", {}) for step in _STEPS},  # type: ignore[misc]
}


@pytest.fixture(scope="module")
def metrics(plan: Plan) -> dict[str, LogMetric]:
    planned = [LogMetric.planned(metric.values) for metric in plan.of("logging_metric")]
    return {metric.name.removeprefix("archive-job-retry/"): metric for metric in planned}


@pytest.fixture(scope="module")
def logged(pubsub_emulator: str, firestore_emulator: str) -> list[Entry]:
    async def run() -> list[Entry]:
        async with Stage(pubsub=pubsub_emulator, firestore=firestore_emulator) as stage:
            return [*await every_kind(stage), PASSED_BY]

    return asyncio.run(run())


def of_service(logged: list[Entry], service: str) -> list[Entry]:
    return [found for found in logged if found["resource"]["labels"]["service_name"] == service]


def labels_of(metric: LogMetric, logged: list[Entry]) -> list[dict[str, str]]:
    return [point[0] for point in map(metric.point, logged) if point]


def test_every_metric_is_looked_at(metrics: dict[str, LogMetric]) -> None:
    assert set(TAKES) == set(metrics)


@pytest.mark.parametrize("name", TAKES)
def test_a_metric_takes_the_lines_that_it_says_and_no_others(
    name: str, metrics: dict[str, LogMetric], logged: list[Entry]
) -> None:
    metric, runs, looks = metrics[name], of_service(logged, RESUME), of_service(logged, WATCH)
    users = [line for line in of_service(logged, RETRY) if value_at(line, "jsonPayload.credentialId") != CANARY]
    own = {RESUME: runs, WATCH: looks}.get(OF.get(name, RETRY), users)
    expected = [line for line in own if TAKES[name](line["jsonPayload"])]
    assert expected
    assert expected == [found for found in [*users, *runs, *looks, *OTHERS] if metric.point(found)]
    smoke = [line for line in logged if value_at(line, "jsonPayload.credentialId") == CANARY]
    assert [None] == [metric.point(line) for line in smoke]
    # somebody else's credential under the smoke test's user is seen like any other, but for the user that is told apart
    hidden = [{**line, "jsonPayload": {**line["jsonPayload"], "userId": CANARY}} for line in users]
    assert [bool(metric.point(line)) for line in users] == [bool(metric.point(line)) for line in hidden]


def test_every_field_that_a_metric_goes_by_stands_in_a_line_that_it_takes(
    metrics: dict[str, LogMetric], logged: list[Entry]
) -> None:
    for metric in metrics.values():
        taken = [found for found in logged if metric.point(found)]
        missing = {field for field in metric.fields if all(value_at(found, field) is None for found in taken)}
        assert set() == missing, metric.name


def test_every_field_of_a_line_is_documented_and_every_documented_one_is_written(logged: list[Entry]) -> None:
    told = {name for found in logged if "outcome" in found["jsonPayload"] for name in found["jsonPayload"]}
    assert set(FIELDS) == told - {"message", "@type", "context"}


def test_deliveries_tell_jobs_from_repetitions_and_every_reason_apart(
    metrics: dict[str, LogMetric], logged: list[Entry]
) -> None:
    labels = labels_of(metrics["deliveries"], logged)
    retried = [label["republished"] for label in labels if label["outcome"] == "retried"]
    assert (retried.count("true"), set(retried)) == (1, {"true", "false"})
    assert {label["reason"] for label in labels if label["outcome"] == "rejected"} == {
        "ACCESS_DENIED",
        "EVENT_EXPIRED",
        "JOB_NOT_FOUND",
        "JOB_NOT_RETRYABLE",
        "MALFORMED_EVENT",
        "REAUTHORIZATION_REQUIRED",
        "RETRY_BUDGET_EXHAUSTED",
    }
    causes = {label["cause"] for label in labels if label["reason"] == "REAUTHORIZATION_REQUIRED"}
    assert {"INVALID_GRANT"} == causes
    looks = [(label["outcome"], label["state"]) for label in labels_of(metrics["looks"], logged)]
    assert {("watching", ""), ("ended", "COMPLETE"), ("failed", "FAILED")} <= set(looks)
    assert all(len(label["user"]) <= 1 for label in labels_of(metrics["rejected"], logged))
    assert {"false", "true"} == {label["cached"] for label in labels_of(metrics["tokens"], logged)}


def test_a_fault_of_the_scheduled_function_counts_too(metrics: dict[str, LogMetric], logged: list[Entry]) -> None:
    [fault] = [found for found in logged if metrics["faults"].point(found)]
    labels = {**fault["resource"]["labels"], "service_name": RESUME}
    moved = {**fault, "resource": {**fault["resource"], "labels": labels}}
    assert ({"step": "retry"}, 1.0) == metrics["faults"].point(moved)


@pytest.mark.parametrize(
    "query",
    ['a.b=~"x"', 'a.b="x" OR a.c="x"', "a.b!=1", 'a.b="x" a.c="y"', "severity=>ERROR", "a.b=ERROR", "", '-a.b="x"'],
)
def test_a_filter_of_a_form_that_is_not_known_is_refused(query: str) -> None:
    with pytest.raises(Unreadable):
        matches(query, {"a": {"b": "x"}})


@pytest.mark.parametrize(
    ("query", "verdict"),
    [
        ('a.b="X"', True),
        ('NOT a.b="y"', True),
        ('a.b:"X"', True),
        ('a.c:"LEFT"', True),
        ('a.c:"right"', False),
        ('NOT a.missing="y"', True),
        ('a.missing="y"', False),
        ("a.n>=2", True),
        ("a.n>2", False),
        ("a.b>0", False),
        ("a.no:*", True),
        ("a.missing:*", False),
        ("a.no>=0", False),
        ('a.b=("y" OR "x") AND a.n<3', True),
        ("severity>=WARNING", True),
        ("severity>ERROR", False),
    ],
)
def test_a_filter_is_read_as_cloud_logging_reads_it(query: str, verdict: bool) -> None:
    assert verdict == matches(query, {"severity": "ERROR", "a": {"b": "x", "c": "what is left", "n": 2, "no": False}})
