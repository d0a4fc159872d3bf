"""Virtual time, and an event loop for each simulated process on it.

Nothing waits here: time jumps from one event to the next. Which process runs first, where several could, is the
seed's choice; within one process the order is asyncio's own, first in, first out.
"""

import asyncio
import heapq
import random
import time
import traceback
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any
from unittest import mock

from tests.simulation.deviations import Rehearsal

_AT_ONCE = 1e-6  # seconds between the events that a frozen process finds waiting for it


_TASKS_KEPT = 30  # before those that are done are let go


class Endless(Exception):
    """The simulation did not come to rest, or could not go on."""


def why_stopped(error: Exception) -> str:
    """Why a run could not go on, and the line that could not."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"the run stopped: {error!r} in {frame.name}, {frame.line}"


class Timeline:
    """What is going to happen, in order. `now` is in seconds since the run began."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.rng = rng
        self.rehearsal = rng if isinstance(rng, Rehearsal) else None
        self.runnable: list[ProcessLoop] = []
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._entered = 0

    def happens(self) -> bool:
        """Whether something may happen that has been drawn, and need not happen."""
        return self.rehearsal is None or self.rehearsal.happens()

    def trouble(self, service: str, draw: Callable[[], str]) -> str:
        """What happens to the next exchange with this service, where it is not left out."""
        return self.rehearsal.trouble(service, draw) if self.rehearsal else draw()

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Let it happen that much later."""
        self._entered += 1
        heapq.heappush(self._due, (self.now + seconds, self._entered, callback, args))

    def run(self, *, most_seconds: float, most_steps: int) -> None:
        """Until nothing is left to happen. Raises Endless where that takes more than this, or a stand-in raises."""
        with mock.patch.object(time, "monotonic", self._monotonic):  # by which AsyncRetry knows when to give up
            try:
                self._run(most_seconds, most_steps)
            except Endless:
                raise
            except Exception as error:
                raise Endless(f"{why_stopped(error)} (at {self.now:.3f})") from error

    def _monotonic(self) -> float:
        return self.now

    def _run(self, most_seconds: float, most_steps: int) -> None:
        due, runnable, pop = self._due, self.runnable, heapq.heappop
        steps = 0
        while due:
            self.now, _, callback, args = pop(due)
            callback(*args)
            while runnable:
                steps += 1
                loop = runnable[0] if len(runnable) == 1 else runnable[int(self.rng.random() * len(runnable))]
                loop.run_one()
            if steps > most_steps or self.now > most_seconds:
                raise Endless(f"no rest after {self.now:.0f} virtual seconds and {steps} steps")


class _Handle:
    """A callback of a process; the parts of asyncio that are in use know it by `cancel` alone."""

    __slots__ = ("args", "callback", "cancelled", "context")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one process: it can be frozen, and it can die at any await.

    Its clock has an origin and a pace of its own, as clocks of machines do.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.dead = False
        self.frozen_until = -1.0
        self._frozen = False
        self._timeline = timeline
        self._ready: deque[_Handle] = deque()
        self._kept: list[tuple[Callable[..., object], tuple[Any, ...]]] = []  # what reached it while it was frozen
        self._signals: list[Callable[[], object]] = []
        self._tasks: list[tuple[asyncio.Task[Any], Context]] = []
        self._born = timeline.now
        self._origin = timeline.rng.uniform(0.0, 1e6)
        self._pace = timeline.rng.uniform(0.999, 1.001)

    # --- the world's side ---

    def reach(self, callback: Callable[..., object], *args: Any) -> None:
        """Something from outside arrives: an answer, a request, a timer's end."""
        if self.dead:
            return
        if self._frozen:
            self._kept.append((callback, args))
        else:
            callback(*args)

    def signal(self, handler: Callable[[], object]) -> None:
        """A signal arrives. A frozen process handles it before anything else when it wakes."""
        if self.dead:
            return
        if self._frozen:
            self._signals.append(handler)
        else:
            handler()

    def freeze(self, seconds: float) -> None:
        """No part of this process runs for so long: throttled, swapped out, or its machine moved."""
        if self._frozen or self.dead:
            return
        self._frozen = True
        self.frozen_until = self._timeline.now + seconds
        self._timeline.after(seconds, self._thaw)

    def _thaw(self) -> None:
        if self.dead:
            return
        self._frozen = False
        if self._ready:
            self._timeline.runnable.append(self)
        for handler in self._signals:
            handler()
        self._signals.clear()
        kept, self._kept = self._kept, []
        self._timeline.rng.shuffle(kept)  # timers and sockets: what is seen first is the poller's choice
        for number, (callback, args) in enumerate(kept):
            self._timeline.after(number * _AT_ONCE, self.reach, callback, *args)

    def die(self) -> None:
        """From here on nothing of this process reaches the world. (Not to be called from within the process.)"""
        self.dead = True
        self._ready.clear()
        self._kept.clear()
        if self in self._timeline.runnable:
            self._timeline.runnable.remove(self)
        for task, context in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                assert coroutine is not None
                with suppress(RuntimeError):  # it met its end with another await, and nobody is left to run that
                    context.run(coroutine.close)
        self._tasks.clear()

    def run_one(self) -> None:
        """Run the next callback."""
        ready = self._ready
        handle = ready.popleft()
        if not ready:
            self._timeline.runnable.remove(self)
        if not handle.cancelled:
            events._set_running_loop(self)
            try:
                handle.context.run(handle.callback, *handle.args)
            finally:
                events._set_running_loop(None)
        if self._frozen and self in self._timeline.runnable:
            self._timeline.runnable.remove(self)

    # --- asyncio's side ---

    def time(self) -> float:
        return self._origin + (self._timeline.now - self._born) * self._pace

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        handle = _Handle(callback, args, copy_context() if context is None else context)
        if not self.dead:
            if not self._ready and not self._frozen:
                self._timeline.runnable.append(self)
            self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        handle = _Handle(callback, args, copy_context() if context is None else context)
        self._timeline.after(max(0.0, when - self.time()) / self._pace, self.reach, self._end_of_timer, handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def _end_of_timer(self, handle: _Handle) -> None:
        if not handle.cancelled:
            self.call_soon(handle.callback, *handle.args, context=handle.context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        context = context or copy_context()
        task = asyncio.Task(coro, loop=self, context=context, **options)
        if len(self._tasks) >= _TASKS_KEPT:
            self._tasks = [one for one in self._tasks if not one[0].done()]
        self._tasks.append((task, context))
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What asyncio complains of here are the remains of processes that died."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.dead
