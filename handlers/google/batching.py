"""Calls of one method that come close together go as one.

0 ms    20 ms   40 ms   60 ms   80 ms
 A  B C    D                      E
         └ B and C  └ D               A goes at once, B and C together after its 20 ms, D 20 ms later, E at once
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


class _Batch(Generic[_T]):
    """Items that will go together, each with the future of its answer."""

    def __init__(self) -> None:
        self.items: list[tuple[_T, asyncio.Future[Any]]] = []
        self.sending: asyncio.Task[None] | None = None
        self.bytes = 0
        self.keys: set[str] = set()


class Batcher(Generic[_T]):
    """One method of a service, used in one event loop. `call` carries out several items, and answers each of them.

    `size` is an item's in bytes. No two items in a call have one of their `keys` in common. `is_refused` tells an
    error that may be one item's fault, and left all undone, from one that all items would get.
    """

    def __init__(
        self,
        call: Callable[[list[_T]], Awaitable[Sequence[Any]]],
        *,
        size: Callable[[_T], int],
        keys: Callable[[_T], set[str]] = lambda item: set(),
        is_refused: Callable[[Exception], bool],
        max_latency: float = MAX_LATENCY,
    ) -> None:
        self._call = call
        self._size = size
        self._keys = keys
        self._is_refused = is_refused
        self._max_latency = max_latency
        self._open: _Batch[_T] | None = None  # while the batching window lasts

    async def __call__(self, item: _T) -> Any:
        """The answer to this item."""
        if batch := self._open:
            size, keys = self._size(item), self._keys(item)
            if len(batch.items) < MAX_ITEMS and batch.bytes + size <= MAX_BYTES and batch.keys.isdisjoint(keys):
                answer = asyncio.get_running_loop().create_future()
                batch.items.append((item, answer))
                batch.bytes += size
                batch.keys |= keys
                try:
                    return await answer
                except asyncio.CancelledError:  # the last one that is cancelled ends the call
                    if batch.sending and all(each.cancelled() for _, each in batch.items):
                        batch.sending.cancel()
                    raise
                except Exception as error:
                    if len(batch.items) == 1 or not self._is_refused(error):
                        raise
        else:
            self._open_window()
        [alone] = await self._call([item])
        return alone

    def _open_window(self) -> None:
        """In a context of its own: a batch is no single delivery's."""
        batch = self._open = _Batch[_T]()
        asyncio.get_running_loop().call_later(self._max_latency, self._close_window, batch, context=Context())

    def _close_window(self, batch: _Batch[_T]) -> None:
        """Send what somebody waits for. Where nobody does, the next item goes at once."""
        self._open = None
        batch.items = [(item, answer) for item, answer in batch.items if not answer.cancelled()]
        if batch.items:
            self._open_window()
            batch.sending = asyncio.create_task(self._send(batch))

    async def _send(self, batch: _Batch[_T]) -> None:
        waiting = [answer for _, answer in batch.items]
        try:
            found = await self._call([item for item, _ in batch.items])
            for answer, one in list(zip(waiting, found, strict=True)):
                if not answer.done():
                    answer.set_result(one)
        except asyncio.CancelledError:
            for answer in waiting:
                answer.cancel()
            raise
        except Exception as error:
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
