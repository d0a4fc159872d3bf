"""Every schedule of two deliveries within a small bound holds the promises; and the enumeration can fail."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from handlers.bootstrap import Container
from tests.simulation import mutants
from tests.simulation.choices import Schedule
from tests.simulation.enumeration import Bound, explore, leaves, parts
from tests.simulation.explore import first_found, story_of
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.small import SmallWorld

_ONE_CHOICE = (Bound(0, 0), Bound(1, 0), Bound(0, 1))


@pytest.mark.parametrize("bound", _ONE_CHOICE, ids=str)
def test_no_schedule_of_two_events_breaks_an_invariant(bound: Bound, figure: Callable[[str, int], None]) -> None:
    results = [explore(part) for part in parts("two events", bound)]
    broken = [one for result in results for one in result.broken]
    figure("schedules enumerated", sum(result.explored for result in results))
    figure("enumerated schedules that broke an invariant", len(broken))
    assert not broken, story_of(broken[0], Container)


@pytest.mark.parametrize("scenario", [scenario for scenario in SCENARIOS if scenario != "two events"])
def test_no_switch_in_any_other_scenario_breaks_an_invariant(scenario: str, figure: Callable[[str, int], None]) -> None:
    results = [explore(part) for bound in (Bound(0, 0), Bound(1, 0)) for part in parts(scenario, bound)]
    figure("schedules enumerated", sum(result.explored for result in results))
    assert not [one for result in results for one in result.broken]


def test_late_acknowledgement_of_a_deferral_that_was_resumed_loses_nothing() -> None:
    run = SmallWorld(SCENARIOS["deferred"], ((5, "freezes for a minute"),)).run()
    assert "m1#1 firestore" == run.points[5].where
    assert not run.violations


@pytest.mark.parametrize(
    "mutant",
    [
        mutants.PublishesBeforeItRecords,
        mutants.ClaimWithoutCondition,
        mutants.NoDoubtPause,
        mutants.SendsAgainByItself,
        mutants.TokensForEver,
    ],
)
def test_mutant_is_found_by_one_choice(mutant: type[Container], figure: Callable[[str, int], None]) -> None:
    found = first_found(mutant, _ONE_CHOICE)
    figure("mutants found by enumeration", found is not None)
    assert found, mutant.__doc__
    assert len(found.schedule) <= 1
    assert len(story_of(found, mutant).splitlines()) <= 15


def test_command_tells_every_bound_that_its_time_did_not_reach() -> None:
    command = [sys.executable, "-m", "tests.simulation.explore", "--cores", "1", "--scenario", "two events"]
    ran = subprocess.run(
        [*command, "--switches", "1", "--faults", "1", "--seconds", "0"], capture_output=True, text=True, check=True
    )
    bounds = ("0 switches, 0 faults", "1 switch, 0 faults", "0 switches, 1 fault", "1 switch, 1 fault")
    assert [f"{bound}: not begun" for bound in bounds] == ran.stdout.splitlines()[:-1]


def test_no_schedule_comes_twice() -> None:
    seen: set[Schedule] = set()
    for bound in (Bound(1, 0), Bound(2, 0)):
        for part in parts("one message twice", bound):
            for schedule in leaves(part):
                assert schedule not in seen
                assert bound == Bound(len(schedule), 0)
                seen.add(schedule)
    assert seen


def test_schedule_replays_exactly() -> None:
    schedule = ((5, "lost"),)
    histories = {SmallWorld(SCENARIOS["two events"], schedule).run().record.history() for _ in range(2)}
    assert 1 == len(histories)


def test_schedule_with_a_choice_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="is not among the choices at m1#1 secrets"):
        SmallWorld(SCENARIOS["two events"], ((0, "rain"),)).run()
