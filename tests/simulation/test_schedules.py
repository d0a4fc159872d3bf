"""The invariants hold in every schedule, and the schedules leave nothing out."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args

import pytest

from handlers.domain.outcomes import Cause, Reason
from handlers.google import oauth
from tests.simulation import story
from tests.simulation.faults import TROUBLES
from tests.simulation.lapses import Lapses, in_schedule
from tests.simulation.mutants import ClaimsBeforeTheToken
from tests.simulation.record import (
    CallAnswered,
    DeadLettered,
    Effect,
    Froze,
    Instance,
    Meaning,
    Rejection,
    Resumed,
    Together,
    Written,
)
from tests.simulation.states import ENDS
from tests.simulation.watch_record import (
    EndTold,
    FailureTold,
    Kept,
    LookAnswered,
    StartedPublished,
    WatchDeadLettered,
    WatchRejection,
)
from tests.simulation.world import World

_SCHEDULES = int(os.environ.get("SIMULATED_SCHEDULES", "600"))
_AT_ONCE = 100
_BLOCKS = range(0, _SCHEDULES, _AT_ONCE)
_STATES = {"IN_PROGRESS", "STATE_UNSPECIFIED", "A_NEW_STATE", "none", *ENDS}
_OTHER_STEPS = {("deferred", "open"), ("deferred", "deferred"), ("open", "open"), ("retried", "retried")}


@dataclass(slots=True)
class _Covered:
    """What came up in some schedules, and the seeds of those that broke an invariant."""

    broken: list[int] = field(default_factory=list)
    answered: set[tuple[str, int, str]] = field(default_factory=set)
    happened: set[tuple[str, str]] = field(default_factory=set)
    said: set[str] = field(default_factory=set)  # reasons, causes and what calls came to
    steps: set[tuple[str, str]] = field(default_factory=set)
    effects: set[type[Effect]] = field(default_factory=set)
    together: set[str] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)  # what was told, what looks came to, and how events came
    kept: set[tuple[str, str]] = field(default_factory=set)  # steps of an entry of the watch
    lapses: Lapses = field(default_factory=Lapses)


@cache
def _run(first: int) -> _Covered:
    covered = _Covered()
    for seed in range(first, first + _AT_ONCE):
        run = World(seed).run()
        covered.broken += [seed] if run.violations else []
        covered.answered |= run.answered
        covered.happened |= run.happened
        covered.lapses += in_schedule(run.record.effects)
        for effect in run.record.effects:
            covered.effects.add(type(effect))
            match effect:
                case Rejection(reason=reason, cause=cause):
                    covered.said |= {reason, cause}
                case CallAnswered(meaning=meaning):
                    covered.said.add(meaning)
                case Kept(before=before, after=after):
                    covered.kept.add((before.state if before else "", after.state))
                case Written(before=before, after=after) if before:
                    covered.steps.add((before.state, after.state))
                case Together(service=service):
                    covered.together.add(service)
                case EndTold(state=state, cause=cause):
                    covered.watched |= {f"told {state}", f"because of {cause or 'its age'}"}
                case LookAnswered(cause=cause, until=until):
                    covered.watched |= {f"refused: {cause}", f"put off: {until > 0}"}
                case StartedPublished(job=job, put_back_by=put_back_by, says_when=says_when, data=data):
                    kind = "put back" if put_back_by else "follow-up" if b"retriedAt" in data else "published"
                    covered.watched |= {f"{kind}, dated: {says_when}", f"sound: {bool(job)}"}
    return covered


@pytest.mark.parametrize("first", _BLOCKS)
def test_no_schedule_breaks_an_invariant(first: int, figure: Callable[[str, int], None]) -> None:
    broken = _run(first).broken
    figure("schedules simulated", _AT_ONCE)
    figure("schedules that broke an invariant", len(broken))
    assert not broken, story.of_seed(broken[0])


def test_schedules_contain_every_meaning_of_an_answer() -> None:
    assert set() == {*get_args(Meaning)} - _all("said")


def test_schedules_contain_every_error_of_the_token_endpoint() -> None:
    answered = {said for service, _, said in _all("answered") if service == "oauth"}
    assert (
        set()
        == {*oauth.ERRORS, "unauthorized_client", "foreign", "invalid_client", "deleted_client", "internal_failure"}
        - answered
    )


def test_schedules_contain_every_reason_and_cause_of_a_rejection() -> None:
    assert set() == {*Reason, *Cause} - _all("said")


def test_schedules_contain_every_trouble_with_every_service() -> None:
    expected = {(service, trouble) for service, troubles in TROUBLES.items() for trouble in troubles}
    assert expected == _all("happened")


def test_schedules_contain_every_step_of_an_entry() -> None:
    claims = {(before, "claimed") for before in ("open", "claimed", "rejected", "deferred")}
    records = {("claimed", after) for after in ("open", "retried", "rejected", "deferred")}
    assert set() == (claims | records | _OTHER_STEPS) - _all("steps")


def test_schedules_contain_batches_of_several_deliveries() -> None:
    assert {"firestore", "pubsub"} == _all("together")


def test_schedules_contain_deaths_freezes_runs_of_the_schedule_and_dead_letters() -> None:
    assert {DeadLettered, Froze, Instance, Resumed} <= _all("effects")


def test_schedules_contain_every_state_and_every_end_of_a_watched_job() -> None:
    assert set() == _STATES - {said for service, _, said in _all("answered") if service == "state"}
    assert {EndTold, FailureTold, WatchDeadLettered, WatchRejection} <= _all("effects")
    assert {"told COMPLETE", "told CANCELLED", "told UNKNOWN", "because of its age"} <= _all("watched")


def test_schedules_contain_looks_that_are_refused_put_off_or_lost() -> None:
    causes = {"ACCESS_DENIED", "JOB_NOT_FOUND", "JOB_NOT_RETRYABLE", "ACCOUNT_STATE"}
    assert set() == {*(f"refused: {cause}" for cause in ("", *causes)), "put off: True"} - _all("watched")
    assert {f"because of {cause}" for cause in Cause} & _all("watched")


def test_schedules_contain_started_events_follow_ups_put_backs_and_malformed_ones() -> None:
    dated = {"published, dated: True", "published, dated: False", "follow-up, dated: True", "put back, dated: True"}
    assert set() == {*dated, "sound: False"} - _all("watched")


def test_schedules_contain_every_step_of_an_entry_of_the_watch() -> None:
    looks = {("open", after) for after in ("deferred", "ended", "rejected")}
    others = {("", "deferred"), ("deferred", "open"), ("open", "open"), ("deferred", "deferred")}
    assert set() == (looks | others) - _all("kept")
    assert {before for before, _ in _all("kept")} >= {"rejected"}  # asked once more after an UNKNOWN


def test_token_before_claim_quarters_claims_that_lapse_unsent(figure: Callable[[str, int], None]) -> None:
    now = _run(0).lapses + _run(_AT_ONCE).lapses
    runs = (World(seed, ClaimsBeforeTheToken).run() for seed in range(2 * _AT_ONCE))
    before = sum((in_schedule(run.record.effects) for run in runs), Lapses())
    figure("claims that lapsed with nothing sent", now.unsent)
    figure("claims that lapsed with nothing sent, in the order of the first edition", before.unsent)
    assert before.unsent
    assert now.unsent <= before.unsent / 4


def _all(name: str) -> set[Any]:
    return {one for first in _BLOCKS for one in getattr(_run(first), name)}
