"""Calls to one place in quick succession go as one.

0 ms   10 ms   20 ms   30 ms
 A       BC      D                A came alone and went at once; B and C waited for each other; so will E, if it comes
         └ failed: B and C once more, one by one, so that each gets the answer that is its own
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

EVERY = 0.01  # seconds between two calls; what comes later than that goes at once
MOST = 100  # items of a group
LARGEST = 1_000_000  # bytes of a group: a tenth of what Pub/Sub and Firestore take in one request


class _Group(Generic[_T]):
    """Items that will go together, each under the key of whoever waits for its answer."""

    def __init__(self) -> None:
        self.items: dict[object, _T] = {}
        self._bytes = 0
        self._names: set[str] = set()
        self.sent = 0
        self.answers: asyncio.Future[dict[object, Any]] = asyncio.get_running_loop().create_future()
        self.sending: asyncio.Task[None] | None = None

    def takes(self, size: int, names: set[str]) -> bool:
        """Whether there is room for one more; what would not fit, or be the second of its name, goes alone."""
        return len(self.items) < MOST and self._bytes + size <= LARGEST and self._names.isdisjoint(names)

    def add(self, item: _T, size: int, names: set[str]) -> object:
        """The key to its answer."""
        key = object()
        self.items[key] = item
        self._bytes += size
        self._names |= names
        return key

    async def send(self, send: Callable[[list[_T]], Awaitable[Sequence[Any]]]) -> None:
        keys, items = list(self.items), list(self.items.values())
        self.sent = len(items)
        try:
            self.answers.set_result(dict(zip(keys, await send(items), strict=True)))
        except Exception as error:
            self.answers.set_exception(error)
            self.answers.exception()  # seen, even if nobody waits for it any more

    def leave(self, key: object) -> None:
        """Nobody waits for this item any more: it is not sent, unless it has been."""
        del self.items[key]
        if not self.items and self.sending:
            self.sending.cancel()


class Grouped(Generic[_T]):
    """One method of a service. `send` carries out a list of items in one call, and has an answer to each of them.

    `size` is an item's in bytes. No two items in a call have one of their `names` in common. `every` is in seconds.
    """

    def __init__(
        self,
        send: Callable[[str, list[_T]], Awaitable[Sequence[Any]]],
        *,
        size: Callable[[_T], int],
        names: Callable[[_T], set[str]] = lambda item: set(),
        every: float = EVERY,
    ) -> None:
        self.send = send
        self._names = names
        self._size = size
        self._every = every
        self._waiting: dict[str, _Group[_T]] = {}  # by place, for as long as the next item has to wait

    async def __call__(self, place: str, item: _T) -> Any:
        """The answer to this item. `place` is what a call has one of: a topic, a database."""
        group = self._waiting.get(place)
        if not group:
            self._hold(place)
        if not group or not group.takes(size := self._size(item), names := self._names(item)):
            return (await self.send(place, [item]))[0]
        key = group.add(item, size, names)
        try:
            return (await asyncio.shield(group.answers))[key]
        except asyncio.CancelledError:
            group.leave(key)
            raise
        except Exception:
            if group.sent == 1:
                raise
        return (await self.send(place, [item]))[0]

    def _hold(self, place: str) -> None:
        self._waiting[place] = _Group()
        asyncio.get_running_loop().call_later(self._every, self._go, place)

    def _go(self, place: str) -> None:
        """Send what waits. Where nothing does, the next item goes at once."""
        group = self._waiting.pop(place)
        if group.items:
            self._hold(place)
            group.sending = asyncio.create_task(group.send(lambda items: self.send(place, items)))
