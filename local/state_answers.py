"""Every documented answer to `portabilityArchiveState`, and what comes of it in a running job's first hour.

https://developers.google.com/data-portability/reference/rest/v1/archiveJobs/getPortabilityArchiveState
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from local import foreign_answers
from local.answer_rows import FAULT, NOT_NOW, Row, Verdict, in_both_forms, row
from local.google_errors import (
    access_denied,
    error,
    not_failed,
    not_found,
    project_refused,
    rate_limited,
    unauthenticated,
)
from local.grants import MARK
from local.scripted import Answer

WATCHING = Verdict("watching")
SIGNED_URL = f"https://storage.googleapis.com/export/archive.zip?X-Goog-Signature={MARK}"  # never to be told


def _state(state: str | None, **more: Any) -> Callable[[str, datetime], Answer]:
    def make(job: str, now: datetime) -> Answer:
        content = {"name": f"archiveJobs/{job}/portabilityArchiveState", "state": state, **more}
        content.setdefault("startTime", (now - timedelta(minutes=10)).isoformat().replace("+00:00", "Z"))
        return Answer(200, {name: value for name, value in content.items() if value is not None})

    return make


def _states() -> Iterator[Row]:
    complete, exported = Verdict("ended", state="COMPLETE"), "2026-11-01T12:00:00.5Z"
    yield row("COMPLETE", _state("COMPLETE", urls=[SIGNED_URL], exportTime=exported), complete)
    yield row("COMPLETE, no urls", _state("COMPLETE", exportTime=exported), complete)
    yield row("COMPLETE, no time", _state("COMPLETE", urls=[SIGNED_URL] * 3), complete)
    yield row("COMPLETE, odd time", _state("COMPLETE", exportTime="yesterday"), complete)
    yield row("CANCELLED", _state("CANCELLED"), Verdict("ended", state="CANCELLED"))
    yield row("FAILED", _state("FAILED"), Verdict("failed"))
    yield row("FAILED, no start", _state("FAILED", startTime=None), Verdict("failed"))
    for state in ("IN_PROGRESS", "STATE_UNSPECIFIED", "A_NEW_STATE", "", None):
        yield row(f"{'no state' if state is None else state or 'empty state'}", _state(state), WATCHING)
    yield row("no field at all", Answer(200, {}), WATCHING)


def _errors() -> Iterator[Row]:
    yield row("403 denied", access_denied(), WATCHING)
    yield row("404 not found", not_found(), WATCHING)
    yield row("400 not failed", not_failed(), WATCHING)
    yield row("403 disabled", project_refused(), FAULT)
    yield row("429 rate", rate_limited(), NOT_NOW)
    yield row("401 twice", unauthenticated(), replace(NOT_NOW, calls=2))
    yield row("401 ACCOUNT_STATE_INVALID", unauthenticated("ACCOUNT_STATE_INVALID"), replace(WATCHING, calls=2))
    for code, status in ((500, "INTERNAL"), (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED")):
        yield row(f"{code} {status}", error(code, status, "Not now."), NOT_NOW)


LOOK: tuple[Row, ...] = (*_states(), *in_both_forms(_errors()), *foreign_answers.TO_LOOK)
