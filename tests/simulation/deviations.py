"""What a seed drew that need not have happened (troubles, blows, duplicates, changes of mind), and which of it matters.

A run with less in it would draw other things from there on. So draws are remembered by who made them: the line of code,
the delivery it worked for, and how often it did so before. A trouble is remembered by the message, the service, and how
many of its exchanges went well before.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, combinations
from types import CodeType, FrameType
from typing import NamedTuple, TypeVar

from tests.simulation.record import DELIVERY

_Who = tuple[
    CodeType, int, str, int
]  # code and place in it, the delivery or message, and how often it was there before


class _Trouble(NamedTuple):
    message: str
    service: str
    after: int  # exchanges that go well before
    what: str


_Deviation = _Who | _Trouble
_R = TypeVar("_R")
_OTHER_DRAWS = 6  # tries, at what may follow where something is left out
_FAR = 1 << 40  # from one seed to the other for these


class Rehearsal(random.Random):
    """A seed's generator, which in its `memory` has what was drawn before, and lets happen only what is `kept`."""

    def __init__(
        self, seed: int, memory: dict[_Who, float] | None = None, kept: Sequence[_Deviation] | None = None
    ) -> None:
        super().__init__(seed)
        self.memory: dict[_Who, float] = {}
        self.happened: list[_Deviation] = []
        self._known = memory or {}
        self._kept = None if kept is None else [one for one in kept if not isinstance(one, _Trouble)]
        self._troubles = [one for one in kept or () if isinstance(one, _Trouble)]
        self._times: Counter[tuple[CodeType, int, str]] = Counter()
        self._well: Counter[tuple[str, str]] = Counter()

    def random(self) -> float:
        return self._drawn(super().random)

    def getrandbits(self, k: int, /) -> int:
        return int(self._drawn(lambda: super(Rehearsal, self).getrandbits(k)))

    def _drawn(self, draw: Callable[[], float]) -> float:
        who = self._who(sys._getframe(2), DELIVERY.get())
        drawn = self.memory[who] = self._known[who] if who in self._known else draw()
        return drawn

    def happens(self) -> bool:
        """Whether this may happen."""
        who = self._who(sys._getframe(2), _message())
        if self._kept is None or who in self._kept:
            self.happened.append(who)
            return True
        return False

    def trouble(self, service: str, draw: Callable[[], str]) -> str:
        """What happens to the next exchange."""
        lane = _message(), service
        drawn = draw() if self._kept is None else self._next_trouble(*lane)
        if drawn:
            self.happened.append(_Trouble(*lane, self._well[lane], drawn))
            self._well[lane] = 0
        else:
            self._well[lane] += 1
        return drawn

    def _next_trouble(self, *lane: str) -> str:
        for number, one in enumerate(self._troubles):
            if one[:2] == lane:
                if one.after > self._well[lane]:
                    break
                del self._troubles[number]
                return one.what
        return ""

    def _who(self, frame: FrameType | None, entity: str) -> _Who:
        while frame and frame.f_code.co_filename == random.__file__:
            frame = frame.f_back
        assert frame
        at = frame.f_code, frame.f_lasti, entity
        self._times[at] += 1
        return *at, self._times[at]


def _message() -> str:
    return DELIVERY.get().partition("#")[0]


def shrunk(seed: int, run: Callable[[Rehearsal], _R], is_broken: Callable[[_R], bool]) -> tuple[_R, Rehearsal]:
    """The seed's run without the deviations that it does not need to be broken.

    https://www.debugging.org/dd/ : ever smaller groups are left out, until none can be. A later trouble stays as many
    exchanges behind the one before it.
    """
    rehearsal = Rehearsal(seed)
    best, size, begin = run(rehearsal), len(rehearsal.happened), 0
    while size:
        for group in _groups(len(rehearsal.happened), size, begin):
            smaller = _without(group, seed, rehearsal, run, is_broken)
            if smaller:
                (best, rehearsal), begin = smaller, min(group)
                break
        else:
            size, begin = size if begin else size // 2, 0
    return best, rehearsal


def _groups(deviations: int, size: int, begin: int) -> Iterable[Collection[int]]:
    """Neighbours; at last one by one, and any two of them."""
    starts = range(begin, deviations, size)
    groups = (range(start, min(start + size, deviations)) for start in starts)
    return chain(groups, combinations(range(deviations), 2)) if size == 1 and not begin else groups


def _without(
    group: Collection[int],
    seed: int,
    rehearsal: Rehearsal,
    run: Callable[[Rehearsal], _R],
    is_broken: Callable[[_R], bool],
) -> tuple[_R, Rehearsal] | None:
    """A broken run without these deviations, and what is like them; without these alone; and with other draws."""
    happened = rehearsal.happened
    others = [one for number, one in enumerate(happened) if number not in group]
    unlike = [one for one in others if one not in [happened[number] for number in group]]
    trials = [Rehearsal(seed, rehearsal.memory, kept) for kept in (unlike, others)[unlike == others :]]
    trials += [Rehearsal(seed + other * _FAR, None, others) for other in range(_OTHER_DRAWS)]
    for trial in trials:
        tried = run(trial)
        if len(trial.happened) < len(happened) and is_broken(tried):
            return tried, trial
    return None
