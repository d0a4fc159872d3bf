"""The promises hold in every schedule, and the schedules leave nothing out."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
from handlers.outcomes import Reason

from handlers import portability, user_credentials
from tests.simulation.record import DeadLettered, Ended, Froze, Instance, Rejection, Together, Written
from tests.simulation.weather import TROUBLES
from tests.simulation.world import World

_SCHEDULES = int(os.environ.get("SIMULATED_SCHEDULES", "3000"))
_AT_ONCE = 100
_BLOCKS = range(0, _SCHEDULES, _AT_ONCE)


@dataclass(slots=True)
class _Covered:
    """What came up in some schedules, and the stories of those that broke a promise."""

    broken: list[str] = field(default_factory=list)
    answered: set[tuple[str, int, str]] = field(default_factory=set)
    happened: set[tuple[str, str]] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    steps: set[tuple[str, str]] = field(default_factory=set)
    effects: set[type] = field(default_factory=set)
    together: set[str] = field(default_factory=set)


@cache
def _run(first: int) -> _Covered:
    covered = _Covered()
    for seed in range(first, first + _AT_ONCE):
        run = World(seed).run()
        covered.broken += [run.story()] if run.violations else []
        covered.answered |= run.answered
        covered.happened |= run.happened
        for effect in run.record.effects:
            covered.effects.add(type(effect))
            if isinstance(effect, Rejection):
                covered.reasons.add(effect.reason)
            elif isinstance(effect, Written) and effect.before:
                covered.steps.add((effect.before.state, effect.after.state))
            elif isinstance(effect, Together):
                covered.together.add(effect.service)
    return covered


@pytest.mark.parametrize("first", _BLOCKS)
def test_no_schedule_breaks_a_promise(first: int, figure: Callable[[str, int], None]) -> None:
    broken = _run(first).broken
    figure("schedules simulated", _AT_ONCE)
    figure("schedules that broke a promise", len(broken))
    assert not broken, broken[0]


def test_every_row_of_the_table_of_googles_answers_comes_up() -> None:
    answered = {answer[1:] for first in _BLOCKS for answer in _run(first).answered if answer[0] == "portability"}
    answered |= {(status, "") for status, _ in answered}
    assert set() == set(portability.TABLE) - answered


def test_every_row_of_the_table_of_oauth_errors_comes_up() -> None:
    answered = {answer[2] for first in _BLOCKS for answer in _run(first).answered if answer[0] == "oauth"}
    assert set() == set(user_credentials.TABLE) - answered


def test_every_reason_for_a_rejection_comes_up() -> None:
    assert set(Reason) == {reason for first in _BLOCKS for reason in _run(first).reasons}


def test_every_trouble_with_every_service_comes_up() -> None:
    expected = {(service, trouble) for service, troubles in TROUBLES.items() for trouble in troubles}
    assert expected == {trouble for first in _BLOCKS for trouble in _run(first).happened}


def test_every_step_of_a_ledgers_entry_comes_up() -> None:
    taken = {step for first in _BLOCKS for step in _run(first).steps}
    claims = {(before, "claimed") for before in ("open", "claimed", "rejected", "deferred")}
    records = {("claimed", after) for after in ("open", "retried", "rejected", "deferred")}
    assert set() == (claims | records | {("deferred", "open"), ("open", "open"), ("retried", "retried")}) - taken


def test_calls_that_carry_several_deliveries_come_up() -> None:
    assert {"firestore", "pubsub"} == {service for first in _BLOCKS for service in _run(first).together}


def test_instances_die_freeze_and_are_ended_and_messages_become_dead_letters() -> None:
    assert {DeadLettered, Ended, Froze, Instance} <= {effect for first in _BLOCKS for effect in _run(first).effects}
