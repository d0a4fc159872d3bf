"""Every schedule of a scenario within a bound, by replay: run one, note the choices that came up, change a later one.

(Stateless search with bounded switches: https://www.microsoft.com/en-us/research/publication/chess-a-systematic-testing-tool-for-concurrent-software/)
"""

import time
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from handlers.bootstrap import Container
from tests.simulation.choices import Point, Schedule
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.small import SmallWorld


class Bound(NamedTuple):
    """How much differs from the schedule in which one delivery comes after the other and nothing goes wrong."""

    switches: int
    faults: int

    def __str__(self) -> str:
        said = ((self.switches, "switch", "switches"), (self.faults, "fault", "faults"))
        return ", ".join(f"{number} {one if number == 1 else many}" for number, one, many in said)


class Broken(NamedTuple):
    """A schedule that breaks an invariant, and what it breaks."""

    scenario: str
    schedule: Schedule
    violations: list[str]

    def text(self) -> str:
        return "/".join([self.scenario, *(f"{number}={option}" for number, option in self.schedule)])


class Part(NamedTuple):
    """The schedules of a scenario that begin with these choices, and make so many more."""

    scenario: str
    begin: Schedule
    left: Bound


class Result(NamedTuple):
    """What came of a part."""

    explored: int
    broken: list[Broken]
    is_whole: bool = True


def parts(scenario: str, bound: Bound, kind: type[Container] = Container) -> list[Part]:
    """The tree's first choices."""
    if bound == (0, 0):
        return [Part(scenario, (), bound)]
    points = SmallWorld(SCENARIOS[scenario], (), kind).run(judged=False).points
    return [Part(scenario, begin, left) for begin, left in _changed((), points, bound)]


def explore(
    part: Part, kind: type[Container] = Container, *, until: float = inf, most: float = inf, says: str = ""
) -> Result:
    """Until this moment of time.monotonic(), or until so many are found that break this."""
    scenario, explored, broken = SCENARIOS[part.scenario], 0, list[Broken]()
    for schedule in leaves(part, kind):
        if time.monotonic() > until or len(broken) >= most:
            return Result(explored, broken, is_whole=False)
        run = SmallWorld(scenario, schedule, kind).run()
        explored += 1
        if any(says in violation for violation in run.violations):
            broken.append(Broken(part.scenario, schedule, run.violations))
    return Result(explored, broken)


def leaves(part: Part, kind: type[Container] = Container) -> Iterator[Schedule]:
    """The part's schedules, depth first. What is on the way to them is run for the choices that come up in it."""
    to_do = [(part.begin, part.left)]
    while to_do:
        schedule, left = to_do.pop()
        if left == (0, 0):
            yield schedule
        else:
            points = SmallWorld(SCENARIOS[part.scenario], schedule, kind).run(judged=False).points
            to_do += _changed(schedule, points, left)


def _changed(schedule: Schedule, points: list[Point], left: Bound) -> Iterator[tuple[Schedule, Bound]]:
    """The schedules that make one more choice, after those of this one."""
    begin = schedule[-1][0] + 1 if schedule else 0
    for number, point in enumerate(points[begin:], begin):
        after = Bound(left.switches - point.is_switch, left.faults - (not point.is_switch))
        if min(after) >= 0:
            for option in point.options:
                yield (*schedule, (number, option)), after
