"""Scripts: what a stand-in does at the next calls for one job, credential or secret."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

ANY = "*"  # the key of a script for calls that have none of their own

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; a body that is neither text nor bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Drop:
    """The request is read, and perhaps carried out; then the connection is cut."""

    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Silence:
    """The request is read, and never answered."""


Step = Answer | Drop | Silence


class Scripts(Generic[S]):
    """Steps by key, each taken once, in order. `itertools.repeat(step)` makes one that never ends."""

    def __init__(self) -> None:
        self._steps: dict[str, Iterator[S]] = {}

    def set(self, key: str, steps: Iterable[S]) -> None:
        """Replace the script of this key."""
        self._steps[key] = iter(steps)

    def next(self, key: str) -> S | None:
        """The step for a call with this key, None where nothing is scripted (any more)."""
        for script in (self._steps.get(key), self._steps.get(ANY)):
            if script is not None and (step := next(script, None)) is not None:
                return step
        return None
