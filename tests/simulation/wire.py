"""The network between one instance and the services: where requests and answers are lost, and instances die."""

import asyncio
from asyncio import Future
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Protocol

from google.api_core import exceptions
from google.api_core.exceptions import GoogleAPICallError, RetryError

from handlers.ports import NoAnswer
from tests.simulation import weather
from tests.simulation.timeline import ProcessLoop, Timeline
from tests.simulation.weather import Weather

_LATEST = 200.0  # seconds after its caller gave up on it at which a request can still arrive

_PASSING = (
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.Aborted,
    exceptions.ResourceExhausted,
    exceptions.Cancelled,
    exceptions.Unknown,
    exceptions.DataLoss,
)
_OURS: dict[str, tuple[type[GoogleAPICallError], ...]] = {
    # the last two are also what a write meets that lost a race: a database that is not there, or of the wrong kind
    "firestore": (
        exceptions.PermissionDenied,
        exceptions.InvalidArgument,
        exceptions.NotFound,
        exceptions.FailedPrecondition,
    ),
    "secrets": (exceptions.PermissionDenied, exceptions.Unauthenticated, exceptions.InvalidArgument),
    "pubsub": (exceptions.PermissionDenied, exceptions.NotFound, exceptions.InvalidArgument),
}


class Host(Protocol):
    """The instance at this end of the wire."""

    loop: ProcessLoop

    def freeze(self, seconds: float) -> None: ...
    def doom(self) -> None:
        """End this instance at once, but not in the midst of its own step."""


class Wire:
    """One instance's end of the network."""

    def __init__(self, host: Host, timeline: Timeline, weather_: Weather) -> None:
        self.loop = host.loop
        self.timeline = timeline
        self.weather = weather_
        self._host = host

    async def exchange(
        self,
        service: str,
        effect: Callable[[str], Any],
        *,
        seconds: float,
        refused: Callable[[], Exception],
        lost: Callable[[], Exception],
        overdue: Callable[[], Exception],
    ) -> Any:
        """Let the effect happen at the service and bring its answer back, or whatever becomes of it instead.

        The effect is told what trouble the service itself is in. What it raises is its answer, too.
        """
        timeline, rng = self.timeline, self.timeline.rng
        trouble = self.weather.trouble(service)
        answer: Future[Any] = self.loop.create_future()
        there, back = (self.weather.latency[service] * (0.3 + rng.random()) for _ in "ab")
        gives_up_at = timeline.now + seconds
        context = copy_context()  # the effect is recorded as this delivery's

        def arrive() -> None:
            if answer.cancelled() and rng.random() < 0.5:
                return  # the caller gave up on it before all of it was on its way
            try:
                result = context.run(effect, trouble)
            except (GoogleAPICallError, NoAnswer) as error:
                result = error
            if trouble == weather.DIES_AFTER:
                self._host.doom()
            elif trouble == weather.LOST:
                timeline.after(back, self._bring, answer, lost(), gives_up_at, overdue)
            elif timeline.now + back <= gives_up_at:
                timeline.after(back, self._bring, answer, result, gives_up_at, overdue)

        match trouble:
            case weather.REFUSED:
                timeline.after(min(there, seconds / 2), self._bring, answer, refused(), gives_up_at, overdue)
                return await answer
            case weather.DIES_UNSENT:
                self._host.doom()
                return await answer
            case weather.DIES_SENT:
                self._host.doom()
            case weather.SLOW:
                there, back = (rng.choice((1.0, 5.0, 20.0)) * rng.random() for _ in "ab")
            case weather.LATE:
                there = seconds + rng.random() * _LATEST
            case weather.FREEZES:
                seconds_still = self.weather.freezes_for * (0.5 + rng.random())
                timeline.after(rng.random() * (there + back), self._host.freeze, seconds_still)
        if trouble != weather.VOID:
            timeline.after(there, arrive)
        if trouble == weather.VOID or there + back > seconds:
            timeline.after(seconds, self._bring, answer, overdue(), gives_up_at, overdue)
        return await answer

    def _bring(self, answer: Future[Any], result: Any, gives_up_at: float, overdue: Callable[[], Exception]) -> None:
        self.loop.reach(self._hand_over, answer, result, gives_up_at, overdue)

    def _hand_over(
        self, answer: Future[Any], result: Any, gives_up_at: float, overdue: Callable[[], Exception]
    ) -> None:
        if answer.done():
            return
        if self.timeline.now > gives_up_at + 0.001 and self.timeline.rng.random() < 0.5:
            result = overdue()  # woken too late, the caller sees its own alarm before the answer
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    async def rpc(self, service: str, effect: Callable[[str], Any], retry: Any, seconds: float) -> Any:
        """One gRPC method: tries as the given AsyncRetry says, which by itself would go by the real clock.

        (https://googleapis.dev/python/google-api-core/latest/retry.html)
        """
        rng, begun = self.timeline.rng, self.loop.time()
        pause = retry._initial if retry else 0.0

        def carry_out(trouble: str) -> Any:
            if self.weather.wrong(service):
                raise rng.choice(_OURS[service])("as the simulation wants it")
            return effect(trouble)

        def passing() -> Exception:
            return rng.choice(_PASSING)("as the simulation wants it")

        while True:
            try:
                return await self.exchange(
                    service, carry_out, seconds=seconds, refused=passing, lost=passing, overdue=_deadline_exceeded
                )
            except GoogleAPICallError as error:
                if retry is None or not retry._predicate(error):
                    raise
                wait = rng.uniform(0.0, pause)
                if self.loop.time() + wait > begun + retry._timeout:
                    raise RetryError("timeout exceeded", error) from error  # type: ignore[no-untyped-call]
            await asyncio.sleep(wait)
            pause = min(pause * retry._multiplier, retry._maximum)


def _deadline_exceeded() -> Exception:
    return exceptions.DeadlineExceeded("as the simulation wants it")  # type: ignore[no-untyped-call]
