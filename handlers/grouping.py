"""Calls to one place in quick succession go as one.

0 ms   20 ms   40 ms   60 ms
 A       BC      D                A came alone and went at once; B and C waited for each other; so will E, if it comes
         └ refused: B and C once more, one by one, so that nobody is refused for what another one asked
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

PAUSE = 0.02  # seconds after a call for which what comes waits for company
MOST = 100  # items of a group
LARGEST = 1_000_000  # bytes of a group: a tenth of what Pub/Sub and Firestore take in one request


class _Group(Generic[_T]):
    """Items that will go together, each under the key of whoever waits for its answer."""

    def __init__(self) -> None:
        self.items: dict[object, _T] = {}
        self.sent = 0  # how many went together
        self.answers: asyncio.Future[dict[object, Any]] = asyncio.get_running_loop().create_future()
        self.sending: asyncio.Task[None] | None = None
        self._bytes = 0
        self._names: set[str] = set()

    def takes(self, size: int, names: set[str]) -> bool:
        """Whether there is room for one more, and it is the first of its name."""
        return len(self.items) < MOST and self._bytes + size <= LARGEST and self._names.isdisjoint(names)

    def add(self, item: _T, size: int, names: set[str]) -> object:
        """The key to its answer."""
        key = object()
        self.items[key] = item
        self._bytes += size
        self._names |= names
        return key

    async def carry_out(self, call: Callable[[list[_T]], Awaitable[Sequence[Any]]]) -> None:
        keys, items = list(self.items), list(self.items.values())
        self.sent = len(items)
        try:
            self.answers.set_result(dict(zip(keys, await call(items), strict=True)))
        except asyncio.CancelledError:
            self.answers.cancel()
            raise
        except Exception as error:
            # without its traceback, which holds this group, and so all that was sent, until the collector comes
            self.answers.set_exception(error.with_traceback(None))
            self.answers.exception()  # seen, even if nobody waits for it any more

    def leave(self, key: object) -> None:
        """Nobody waits for this answer any more. What has not been sent will not be, and the last one ends the call."""
        del self.items[key]
        if not self.items and self.sending:
            self.sending.cancel()


class Grouped(Generic[_T]):
    """One method of a service, used in one event loop. `call` carries out several items, and answers each of them.

    `size` is an item's in bytes. No two items in a call have one of their `names` in common. `refused` tells an error
    that may be one item's fault, and left all undone, from one that all may as well get. `pause` is in seconds.
    """

    def __init__(
        self,
        call: Callable[[str, list[_T]], Awaitable[Sequence[Any]]],
        *,
        size: Callable[[_T], int],
        names: Callable[[_T], set[str]] = lambda item: set(),
        refused: Callable[[Exception], bool],
        pause: float = PAUSE,
    ) -> None:
        self.call = call
        self._size = size
        self._names = names
        self._refused = refused
        self._pause = pause
        self._waiting: dict[str, _Group[_T]] = {}  # by place, for as long as the next item has to wait

    async def __call__(self, place: str, item: _T) -> Any:
        """The answer to this item. `place` is what a call has one of: a topic, a database."""
        group = self._waiting.get(place)
        if not group:
            self._open(place)
            return await self._alone(place, item)
        size, names = self._size(item), self._names(item)
        if not group.takes(size, names):
            return await self._alone(place, item)
        key = group.add(item, size, names)
        try:
            return (await asyncio.shield(group.answers))[key]
        except asyncio.CancelledError:
            group.leave(key)
            raise
        except Exception as error:
            if group.sent == 1 or not self._refused(error):
                raise
        finally:
            del group  # as above: an error that is raised holds this frame
        return await self._alone(place, item)

    async def _alone(self, place: str, item: _T) -> Any:
        [answer] = await self.call(place, [item])
        return answer

    def _open(self, place: str) -> None:
        """A group that goes when the pause is over. In a context of its own: it is no single delivery's."""
        self._waiting[place] = _Group()
        asyncio.get_running_loop().call_later(self._pause, self._go, place, context=Context())

    def _go(self, place: str) -> None:
        """Send what waits. Where nothing does, the next item goes at once."""
        group = self._waiting.pop(place)
        if group.items:
            self._open(place)
            group.sending = asyncio.create_task(group.carry_out(lambda items: self.call(place, items)))
