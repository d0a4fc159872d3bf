"""What several callers need at the same time is fetched once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class SingleFlight:
    """Whoever asks for what is being fetched already waits for the same result."""

    def __init__(self) -> None:
        self._flights: dict[str, asyncio.Task[Any]] = {}

    def under_way(self, key: str) -> asyncio.Task[Any] | None:
        flight = self._flights.get(key)
        return None if flight is None or flight.done() else flight

    def join(self, key: str, fetch: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """The task that fetches it. It is shared: await it under asyncio.shield."""
        flight = self.under_way(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(fetch())
            flight.add_done_callback(lambda task: self._landed(key, task))
        return flight

    def _landed(self, key: str, task: asyncio.Task[Any]) -> None:
        if self._flights[key] is task:
            del self._flights[key]
        _ = task.cancelled() or task.exception()  # seen, even where nobody waits for it any more
