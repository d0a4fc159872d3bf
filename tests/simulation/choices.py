"""Enumerated choices in place of drawn ones: a generator that draws nothing, and a timeline that runs one strand at a
time.

A strand is what one delivery does, or one run of the schedule. It runs on until it has nothing to do for a second: it
is answered, or it waits for a timer. Then whatever is due first goes on. A switch holds a strand before one of its
requests arrives, and lets another one run on in its place. Something parked (a frozen instance, a request that is
late) goes on when it is switched to, or when nothing else is left to happen.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, TypeVar

from msgspec import Struct

from tests.simulation.record import DELIVERY
from tests.simulation.timeline import Endless, Timeline

_T = TypeVar("_T")
_RUNS_ON = 1.0  # seconds until its next event within which a strand is not waiting

Schedule = tuple[tuple[int, str], ...]  # (number of a choice, what is chosen), where it is not the default


class Fixed(random.Random):
    """The middle of a range; of several the preferred one, or the first."""

    def __init__(self, prefers: Sequence[object] = ()) -> None:
        super().__init__(0)
        self.prefers = prefers
        self.at = 0.5  # which part of a range

    def random(self) -> float:
        return 0.5

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.at

    def choice(self, seq: Any) -> Any:
        return next((one for one in seq if one in self.prefers), seq[0])

    def shuffle(self, x: Any) -> None:
        """In the order in which it came."""


class Point(Struct, frozen=True):
    """A choice that came up: where, and what there is beside the default."""

    where: str
    is_switch: bool
    options: tuple[str, ...]


class Choices:
    """Those of one schedule, as it says, and the default everywhere else."""

    def __init__(self, schedule: Schedule) -> None:
        self._chosen = dict(schedule)
        self.points: list[Point] = []

    def choose(self, where: str, options: Sequence[str], *, is_switch: bool = False) -> str:
        """What the schedule says here; "" is the default."""
        chosen = self._chosen.get(len(self.points), "")
        self.points.append(Point(where, is_switch, tuple(options)))
        return chosen if chosen in options else ""

    def check(self) -> None:
        """Raises ValueError where the schedule is not one of this world's."""
        for number, chosen in self._chosen.items():
            if number >= len(self.points):
                raise ValueError(f"choice {number} did not come up")
            point = self.points[number]
            if chosen not in point.options:
                raise ValueError(f"{chosen!r} is not among the choices at {point.where}: {', '.join(point.options)}")

    @property
    def is_default_so_far(self) -> bool:
        return not self._chosen or len(self.points) <= min(self._chosen)


_Event = tuple[float, int, str, Callable[..., object], tuple[Any, ...]]  # due, number, strand, and what to call


class ExploredTimeline(Timeline):
    """Runs what is due strand by strand."""

    def __init__(self, rng: Fixed) -> None:
        super().__init__(rng)
        self._strands: dict[str, list[_Event]] = {}
        self._parked: dict[str, _Event] = {}
        self._running = ""  # the strand that runs on
        self._cause = ""  # the strand whose event happens: what follows from it is of that strand, too
        self._turn = ""  # the strand that has been switched to
        self.unparked_at = 0.0

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Of the strand that asks for it. After an infinite time: parked."""
        self.begin(DELIVERY.get() or self._cause, seconds, callback, *args)

    def begin(self, strand: str, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Of this strand."""
        self._entered += 1
        event = (self.now + seconds, self._entered, strand, callback, args)
        if seconds == inf:
            while strand in self._parked:
                strand += "'"
            self._parked[strand] = event
        else:
            heapq.heappush(self._strands.setdefault(strand, []), event)

    def others(self) -> list[str]:
        """What could run on in place of this strand."""
        soon = self.now + _RUNS_ON
        able = [
            name for name, events in self._strands.items() if name not in ("", self._running) and _due(events) <= soon
        ]
        return able + [f"{name}, which was parked" for name in self._parked]

    def switch(self, other: str) -> None:
        """Hold the running strand, at its next event, in favour of this one."""
        name, _, is_parked = other.partition(", ")
        self._turn = self._unpark(name) if is_parked else name

    def _unpark(self, name: str) -> str:
        self.unparked_at = self.now
        _, number, strand, callback, args = self._parked.pop(name)
        heapq.heappush(self._strands.setdefault(strand, []), (self.now, number, strand, callback, args))
        return strand

    def _run(self, most_seconds: float, most_steps: int) -> None:
        steps = 0
        while event := self._next():
            steps += 1
            due, _, self._cause, callback, args = event
            self.now = max(self.now, due)
            callback(*args)
            while self.runnable:
                self.runnable[0].run_one()
            if steps > most_steps or self.now > most_seconds:
                raise Endless(f"no rest after {self.now:.0f} virtual seconds and {steps} steps")

    def _next(self) -> _Event | None:
        if not self._strands:
            if not self._parked:
                return None
            self._running = self._unpark(next(iter(self._parked)))
        if self._turn:
            self._running, self._turn = self._turn, ""
        events, of_the_world = self._strands.get(self._running), self._strands.get("")
        if not self._running or not events or _due(events) > self.now + _RUNS_ON:
            events = min(self._strands.values())
            self._running = events[0][2] or self._running
        elif of_the_world and of_the_world < events:
            events = of_the_world
        event = heapq.heappop(events)
        if not events:
            del self._strands[event[2]]
        return event


def _due(events: list[_Event]) -> float:
    return events[0][0]
