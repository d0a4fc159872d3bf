"""Releases that share a ledger: the one before this one, this one, and one to come."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest

from tests.predecessor import RELEASE
from tests.simulation import story
from tests.simulation.excuses import NEXT
from tests.simulation.mutants import UnknownFieldsLost
from tests.simulation.record import Delivered, Instance, ResumeStarted, Written
from tests.simulation.versions import VersionsWorld
from tests.simulation.world import Run

_SCHEDULES = 200
_AT_ONCE = 50
_FIRST = 300  # of the seeds: each turn comes up in a third of the blocks
_BLOCKS = range(_FIRST, _FIRST + _SCHEDULES, _AT_ONCE)

pytestmark = pytest.mark.usefixtures("predecessor")


@dataclass(slots=True)
class _Covered:
    broken: list[str] = field(default_factory=list)
    in_turn: set[tuple[str, str, str]] = field(default_factory=set)  # a release, the state it left, and who went on


@cache
def _run(first: int) -> _Covered:
    covered = _Covered()
    for seed in range(first, first + _AT_ONCE):
        run = VersionsWorld(seed).run()
        covered.broken += [story.of_seed(seed, world=VersionsWorld)] if run.violations else []
        covered.in_turn |= _in_turn(run)
    return covered


def _in_turn(run: Run) -> set[tuple[str, str, str]]:
    """Which release went on where which other one had left a job."""
    releases: dict[str, str] = {}
    instances: dict[str, str] = {}
    last: dict[str, str] = defaultdict(str)
    found = set()
    for effect in run.record.effects:
        match effect:
            case Instance(name=name, release=release):
                releases.setdefault(name, release)
            case Delivered(delivery=delivery, instance=instance) | ResumeStarted(run=delivery, instance=instance):
                instances[delivery] = instance
            case Written(delivery=delivery, job=job, before=before) if delivery in instances:
                by = releases[instances[delivery]]
                if before and job in last:
                    found.add((last[job], before.state, by))
                last[job] = by
    return found


@pytest.mark.parametrize("first", _BLOCKS)
def test_no_schedule_of_several_releases_breaks_an_invariant(first: int, figure: Callable[[str, int], None]) -> None:
    broken = _run(first).broken
    figure("schedules of several releases simulated", _AT_ONCE)
    figure("schedules of several releases that broke an invariant", len(broken))
    assert not broken, broken[0]


def test_schedules_contain_every_release_going_on_after_every_other() -> None:
    states = ("open", "claimed", "rejected", "deferred")
    expected = {(one, state, other) for state in states for one, other in ((RELEASE, ""), ("", RELEASE))}
    expected |= {(one, state, other) for state in ("open", "claimed") for one, other in ((NEXT, ""), ("", NEXT))}
    assert set() == expected - {turn for first in _BLOCKS for turn in _run(first).in_turn}


def test_release_that_drops_fields_of_a_later_one_is_found() -> None:
    said = (violation for seed in range(60) for violation in VersionsWorld(seed, UnknownFieldsLost).run().violations)
    assert any("a field was lost that this version does not know" in violation for violation in said)
