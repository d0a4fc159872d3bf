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
        self.bytes = 0
        self.names: set[str] = set()
        self.sent = 0
        self.answers: asyncio.Future[dict[object, Any]] = asyncio.get_running_loop().create_future()
        self.sending: asyncio.Task[None] | None = None

    async def send(self, send: Callable[[list[_T]], Awaitable[Sequence[Any]]]) -> None:
        keys, items = list(self.items), list(self.items.values())
        self.sent = len(items)
        try:
            answers = await send(items)
        except Exception as error:
            self.answers.set_exception(error)
            self.answers.exception()  # seen, even if nobody waits for it any more
        else:
            self.answers.set_result(dict(zip(keys, answers, strict=True)))

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
        self._waiting: dict[str, list[_Group[_T]]] = {}  # by place; an empty list while the next item has to wait

    async def __call__(self, place: str, item: _T) -> Any:
        """The answer to this item. `place` is what a call has one of: a topic, a database."""
        if place not in self._waiting:
            self._hold(place)
            return (await self.send(place, [item]))[0]
        group, key = self._group(place, item), object()
        group.items[key] = item
        try:
            return (await asyncio.shield(group.answers))[key]
        except asyncio.CancelledError:
            group.leave(key)
            raise
        except Exception:
            if group.sent == 1:
                raise
        return (await self.send(place, [item]))[0]

    def _group(self, place: str, item: _T) -> _Group[_T]:
        """The last group, or a new one where this item does not fit into it."""
        groups, size, names = self._waiting[place], self._size(item), self._names(item)
        last = groups[-1] if groups else None
        if not last or len(last.items) == MOST or last.bytes + size > LARGEST or last.names & names:
            last = _Group()
            groups.append(last)
        last.bytes += size
        last.names |= names
        return last

    def _hold(self, place: str) -> None:
        self._waiting.setdefault(place, [])
        asyncio.get_running_loop().call_later(self._every, self._go, place)

    def _go(self, place: str) -> None:
        """Send the group that has waited longest. Where there is none, the next item goes at once."""
        groups = self._waiting[place]
        if not groups:
            del self._waiting[place]
            return
        self._hold(place)
        group = groups.pop(0)
        if group.items:
            group.sending = asyncio.create_task(group.send(lambda items: self.send(place, items)))
