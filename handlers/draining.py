"""SIGTERM: Cloud Run ends an instance ten seconds after it (https://cloud.google.com/run/docs/container-contract#lifecycle).

What is in hand is finished or handed back by then; the server takes nothing new.
"""

import asyncio
import signal
import threading
from typing import Any


class Draining:
    """The steps in hand, and their shorter deadlines once the instance is to end: in nine of the ten seconds."""

    def __init__(self, seconds: float = 9.0) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._steps: dict[asyncio.Timeout, float] = {}

    @property
    def began(self) -> bool:
        return self._began is not None

    def deadline(self, at: float, share: float) -> float:
        """By when a step has to be over that had until then, at this share of its delivery's time."""
        return at if self._began is None else min(at, self._began + share * self._seconds)

    def hold(self, timeout: asyncio.Timeout, share: float) -> None:
        """Shorten this timeout, should draining begin before it is released."""
        self._steps[timeout] = share

    def release(self, timeout: asyncio.Timeout) -> None:
        del self._steps[timeout]

    def begin(self) -> None:
        """The instance is to end. Asked a second time, it does not begin anew."""
        if self._began is not None:
            return
        self._began = asyncio.get_running_loop().time()
        for timeout, share in self._steps.items():
            if not timeout.expired():
                timeout.reschedule(self.deadline(timeout.when() or self._began, share))

    def begin_at_sigterm(self) -> None:
        """Listen for the signal, besides the server, which stops listening for requests at it."""
        if threading.current_thread() is not threading.main_thread():
            return  # no other thread may listen for signals; whoever runs us in one ends us some other way
        loop, server = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self.begin)
            if callable(server):
                server(number, frame)

        signal.signal(signal.SIGTERM, handle)
