"""What several callers need at the same time is fetched once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class SingleFlight:
    """Whoever asks for what is being fetched already waits for the same result."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

    def running(self, key: str) -> asyncio.Task[Any] | None:
        task = self._running.get(key)
        return None if task is None or task.done() else task

    def join(self, key: str, fetch: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """The task that fetches it. It is shared: await it under asyncio.shield."""
        running = self.running(key)
        if running is None:
            running = self._running[key] = asyncio.create_task(fetch())
            running.add_done_callback(lambda task: self._finished(key, task))
        return running

    def _finished(self, key: str, task: asyncio.Task[Any]) -> None:
        if self._running[key] is task:
            del self._running[key]
        _ = task.cancelled() or task.exception()  # seen, even where nobody waits for it any more
