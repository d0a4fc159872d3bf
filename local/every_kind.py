"""A failed job of every kind: what the world does to it, and how its deliveries end."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from local import google_errors
from local.scripted import Answer, Drop, Step
from local.stage import Stage

COOLDOWN_SECONDS = 2.0  # Google's own lasts a day
Content = Mapping[str, Any] | bytes


@dataclass(frozen=True, slots=True)
class Kind:
    """`ends`: outcome and reason of each of its deliveries, in order. `prepare` sets the world up for a job of a user
    of the same name, and gives the event."""

    ends: tuple[tuple[str, str], ...]
    prepare: Callable[[Stage, str], Content]


def _plain(stage: Stage, job: str) -> dict[str, Any]:
    stage.add_user(job)
    return {"archiveJobId": job, "userId": job}


def _google(steps: Callable[[], Iterator[Step]]) -> Callable[[Stage, str], Content]:
    def prepare(stage: Stage, job: str) -> Content:
        stage.google.script_retry(job, steps())
        return _plain(stage, job)

    return prepare


def _once(*steps: Step) -> Callable[[Stage, str], Content]:
    return _google(lambda: iter(steps))


def _twice(step: Step) -> Callable[[Stage, str], Content]:
    """An event that is published after the rejection is a new question, and gets the same answer."""
    return _google(lambda: iter((step, step)))


def _token_endpoint_down(stage: Stage, job: str) -> Content:
    stage.google.script_token(stage.add_user(job), [Answer(503, b"<html>Service Unavailable</html>")])
    return {"archiveJobId": job, "userId": job}


def _revoked(stage: Stage, job: str) -> Content:
    stage.add_user(job, consents=False)
    return {"archiveJobId": job, "userId": job}


def _with(**fields: Any) -> Callable[[Stage, str], Content]:
    return lambda stage, job: _plain(stage, job) | fields


def _malformed(_stage: Stage, _job: str) -> Content:
    return b"{not even JSON"


_RETRIED, _NOT_NOW = ("retried", ""), ("not_now", "")

KINDS: Mapping[str, Kind] = {
    "plain": Kind((_RETRIED,), _plain),
    "unavailable": Kind((_NOT_NOW, _RETRIED), _once(google_errors.unavailable())),
    "dropped": Kind((_NOT_NOW, _RETRIED), _once(Drop())),
    "rate-limited": Kind((_NOT_NOW, _RETRIED), _once(google_errors.rate_limited())),
    "token-endpoint-down": Kind((_NOT_NOW, _RETRIED), _token_endpoint_down),
    "api-disabled": Kind((("fault", ""), _RETRIED), _once(google_errors.project_refused())),
    "cooldown": Kind((("deferred", ""), _RETRIED), _google(lambda: google_errors.cools_down(COOLDOWN_SECONDS))),
    "revoked": Kind((("rejected", "REAUTHORIZATION_REQUIRED"),), _revoked),
    "malformed": Kind((("rejected", "MALFORMED_EVENT"),), _malformed),
    "expired": Kind((("rejected", "EVENT_EXPIRED"),), _with(failedAt="2020-01-01T00:00:00Z")),
    "used-up": Kind((("rejected", "RETRY_BUDGET_EXHAUSTED"),), _with(attempt=3)),
    "denied": Kind((("rejected", "ACCESS_DENIED"),), _twice(google_errors.access_denied())),
    "unknown": Kind((("rejected", "JOB_NOT_FOUND"),), _twice(google_errors.not_found())),
    "not-failed": Kind((("rejected", "JOB_NOT_RETRYABLE"),), _twice(google_errors.not_failed())),
}
