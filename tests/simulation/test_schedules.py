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
from tests.simulation.world import World

_SCHEDULES = int(os.environ.get("SIMULATED_SCHEDULES", "600"))
_AT_ONCE = 100
_BLOCKS = range(0, _SCHEDULES, _AT_ONCE)
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


@cache
def _run(first: int) -> _Covered:
    covered = _Covered()
    for seed in range(first, first + _AT_ONCE):
        run = World(seed).run()
        covered.broken += [seed] if run.violations else []
        covered.answered |= run.answered
        covered.happened |= run.happened
        for effect in run.record.effects:
            covered.effects.add(type(effect))
            match effect:
                case Rejection(reason=reason, cause=cause):
                    covered.said |= {reason, cause}
                case CallAnswered(meaning=meaning):
                    covered.said.add(meaning)
                case Written(before=before, after=after) if before:
                    covered.steps.add((before.state, after.state))
                case Together(service=service):
                    covered.together.add(service)
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
    assert set() == {*oauth.ERRORS, "foreign", "invalid_client", "deleted_client", "internal_failure"} - answered


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


def _all(name: str) -> set[Any]:
    return {one for first in _BLOCKS for one in getattr(_run(first), name)}
