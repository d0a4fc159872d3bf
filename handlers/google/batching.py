"""Calls to one destination that come close together go as one.

0 ms   20 ms   40 ms   60 ms
 A       BC      D                A came alone and went at once; B and C shared a batch; so will E, if it comes
         └ rejected: B and C once more, one by one, so that no item fails for another one's fault
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

MAX_LATENCY = 0.02  # seconds of the batching window after a call
MAX_ITEMS = 100
MAX_BYTES = 1_000_000  # a tenth of what Pub/Sub and Firestore take in one request


class Batch(Generic[_T]):
    """Items that will go together, each under the key of whoever waits for its answer."""

    def __init__(self) -> None:
        self.items: dict[object, _T] = {}
        self.sent = 0  # how many went together
        self.answers: asyncio.Future[dict[object, Any]] = asyncio.get_running_loop().create_future()
        self.sending: asyncio.Task[None] | None = None
        self._bytes = 0
        self._keys: set[str] = set()

    def has_room_for(self, size: int, keys: set[str]) -> bool:
        """Whether one more fits in, and has no key of another."""
        return len(self.items) < MAX_ITEMS and self._bytes + size <= MAX_BYTES and self._keys.isdisjoint(keys)

    def add(self, item: _T, size: int, keys: set[str]) -> object:
        """The key to its answer."""
        waiter = object()
        self.items[waiter] = item
        self._bytes += size
        self._keys |= keys
        return waiter

    async def send(self, call: Callable[[list[_T]], Awaitable[Sequence[Any]]]) -> None:
        waiters, items = list(self.items), list(self.items.values())
        self.sent = len(items)
        try:
            self.answers.set_result(dict(zip(waiters, await call(items), strict=True)))
        except asyncio.CancelledError:
            self.answers.cancel()
            raise
        except Exception as error:
            self.answers.set_exception(error)
            self.answers.exception()  # seen, even where nobody waits for it any more

    def cancel(self, waiter: object) -> None:
        """Nobody waits for this answer any more. An unsent item will not be sent, and the last one ends the call."""
        del self.items[waiter]
        if not self.items and self.sending:
            self.sending.cancel()


class Batcher(Generic[_T]):
    """One method of a service, used in one event loop. `call` carries out several items, and answers each of them.

    `size` is an item's in bytes. No two items in a call have one of their `keys` in common. `is_rejection` tells an
    error that may be one item's fault, and left all undone, from one that all items would get.
    """

    def __init__(
        self,
        call: Callable[[str, list[_T]], Awaitable[Sequence[Any]]],
        *,
        size: Callable[[_T], int],
        keys: Callable[[_T], set[str]] = lambda item: set(),
        is_rejection: Callable[[Exception], bool],
        max_latency: float = MAX_LATENCY,
    ) -> None:
        self._call = call
        self._size = size
        self._keys = keys
        self._is_rejection = is_rejection
        self._max_latency = max_latency
        self._open: dict[str, Batch[_T]] = {}  # by destination, while its batching window lasts

    async def __call__(self, destination: str, item: _T) -> Any:
        """The answer to this item. `destination` is what a call has one of: a topic, a database."""
        batch = self._open.get(destination)
        if not batch:
            self._open_window(destination)
            return await self._send_alone(destination, item)
        size, keys = self._size(item), self._keys(item)
        if not batch.has_room_for(size, keys):
            return await self._send_alone(destination, item)
        waiter = batch.add(item, size, keys)
        try:
            return (await asyncio.shield(batch.answers))[waiter]
        except asyncio.CancelledError:
            batch.cancel(waiter)
            raise
        except Exception as error:
            if batch.sent == 1 or not self._is_rejection(error):
                raise
        return await self._send_alone(destination, item)

    async def _send_alone(self, destination: str, item: _T) -> Any:
        [answer] = await self._call(destination, [item])
        return answer

    def _open_window(self, destination: str) -> None:
        """In a context of its own: a batch is no single delivery's."""
        self._open[destination] = Batch()
        asyncio.get_running_loop().call_later(self._max_latency, self._close_window, destination, context=Context())

    def _close_window(self, destination: str) -> None:
        """Send what waits. Where nothing does, the next item goes at once."""
        batch = self._open.pop(destination)
        if batch.items:
            self._open_window(destination)
            batch.sending = asyncio.create_task(batch.send(lambda items: self._call(destination, items)))
