"""The time of one delivery, shared out among its steps."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from handlers.domain.outcomes import Transient
from handlers.ports import DeliveryLog

_T = TypeVar("_T")

# By which share of a delivery's time a step has to be over: the access token; the claim; what follows where those fail
# (a claim withdrawn, another token); the call; recording its answer; publishing it.
PREPARED, CLAIMED, RECOVERED, ANSWERED, RECORDED, PUBLISHED = 3 / 9, 4 / 9, 5 / 9, 7 / 9, 8 / 9, 1.0


class Deadlines:
    """Runs the steps of one delivery, which has `seconds` from now on."""

    def __init__(self, seconds: float, log: DeliveryLog) -> None:
        self._seconds = seconds
        self.log = log
        self._begun = asyncio.get_running_loop().time()

    async def step(self, name: str, by: float, work: Awaitable[_T], *, decides: bool = True) -> _T:
        """Run one step until this share of the time is over. Raises Transient then."""
        try:
            with self.log.step(name, decides=decides):
                async with asyncio.timeout_at(self._begun + by * self._seconds):
                    return await work
        except TimeoutError:
            raise Transient(f"not over in time: {name}") from None

    def seconds_left(self, by: float) -> float:
        """Until this share of the time is over. Not above 0 where the instance was CPU-throttled meanwhile."""
        return self._begun + by * self._seconds - asyncio.get_running_loop().time()
