"""The network between one instance and the services: where requests and answers are lost, and instances die."""

import asyncio
from asyncio import Future
from collections.abc import Callable
from contextvars import copy_context
from functools import cache, partial
from typing import Any, Protocol

from google.api_core import exceptions
from google.api_core.exceptions import GoogleAPICallError

from tests.simulation import faults
from tests.simulation.faults import Faults
from tests.simulation.timeline import ProcessLoop, Timeline

_CONNECT_TIMEOUT = 10.0  # seconds

_TRANSIENT = (
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

    name: str
    loop: ProcessLoop

    def freeze(self, seconds: float) -> None: ...
    def doom(self) -> None:
        """End this instance at once, but not in the midst of its own step."""


class Wire:
    """One instance's end of the network."""

    def __init__(self, host: Host, timeline: Timeline, faults_: Faults) -> None:
        self.loop = host.loop
        self.timeline = timeline
        self.faults = faults_
        self.instance = host.name
        self._host = host

    async def exchange(
        self,
        service: str,
        effect: Callable[[str], Any],
        *,
        seconds: float,
        refused: Callable[[], Any],
        lost: Callable[[], Any],
        overdue: Callable[[], Any],
        cut_off: Callable[[], Any] | None = None,
        reads: bool = False,
    ) -> Any:
        """Let the effect happen at the service and bring its answer back, or whatever becomes of it instead.

        The effect is told what trouble the service itself is in. What is an exception is raised, what the effect raises
        included. `cut_off` is the answer where this is cancelled while nothing was sent; None: it is cancelled.
        `reads`: it changes nothing at the service.
        """
        timeline, rng = self.timeline, self.timeline.rng
        trouble = self.faults.trouble(service, self.instance, reads=reads)
        answer: Future[Any] = self.loop.create_future()
        latency = self.faults.latency[service]
        there, back = latency * (0.3 + rng.random()), latency * (0.3 + rng.random())
        gives_up_at = timeline.now + seconds
        context = copy_context()  # the effect is recorded as this delivery's

        def arrive() -> None:
            if answer.cancelled() and rng.random() < 0.5:
                return  # the caller gave up on it before all of it was on its way
            try:
                result = context.run(effect, trouble)
            except GoogleAPICallError as error:
                result = error
            if trouble == faults.DIES_AFTER:
                self._host.doom()
            elif trouble == faults.LOST:
                timeline.after(back, self._bring, answer, lost(), gives_up_at, overdue)
            elif timeline.now + back <= gives_up_at:
                timeline.after(back, self._bring, answer, result, gives_up_at, overdue)

        match trouble:
            case faults.REFUSED:
                wait = there if rng.random() < 0.8 else _CONNECT_TIMEOUT
                timeline.after(min(wait, seconds / 2), self._bring, answer, refused(), gives_up_at, overdue)
                try:
                    return await answer
                except asyncio.CancelledError:
                    if cut_off is None:
                        raise
                    return cut_off()
            case faults.DIES_UNSENT:
                self._host.doom()
                return await answer
            case faults.DIES_SENT:
                self._host.doom()
            case faults.SLOW:
                there, back = (rng.choice((1.0, 5.0, 20.0)) * rng.random() for _ in "ab")
            case faults.LATE:
                there = seconds + rng.random() * self.faults.latest
            case faults.FREEZES:
                seconds_still = self.faults.freezes_for * (0.5 + rng.random())
                timeline.after(rng.random() * (there + back), self._host.freeze, seconds_still)
        if trouble != faults.VOID:
            timeline.after(there, arrive)
        if trouble == faults.VOID or there + back > seconds:
            timeline.after(seconds, self._bring, answer, overdue(), gives_up_at, overdue)
        return await answer

    def _bring(self, answer: Future[Any], result: Any, gives_up_at: float, overdue: Callable[[], Any]) -> None:
        self.loop.reach(self._hand_over, answer, result, gives_up_at, overdue)

    def _hand_over(self, answer: Future[Any], result: Any, gives_up_at: float, overdue: Callable[[], Any]) -> None:
        if answer.done():
            return
        if self.timeline.now > gives_up_at + 0.001 and self.timeline.rng.random() < 0.5:
            result = overdue()  # woken too late, the caller sees its own alarm before the answer
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    async def rpc(
        self,
        service: str,
        effect: Callable[[str], Any],
        *,
        retry: Any,
        timeout: float,  # noqa: ASYNC109
        reads: bool = False,
    ) -> Any:
        """One gRPC method, with tries as the given AsyncRetry says; `timeout` is that of one try."""
        carry_out, transient = partial(self._carry_out, service, effect), self._transient
        one_try = _with_tries(retry) if retry else Wire.exchange
        return await one_try(
            self,
            service,
            carry_out,
            seconds=timeout,
            refused=transient,
            lost=transient,
            overdue=_deadline_exceeded,
            reads=reads,
        )

    def _carry_out(self, service: str, effect: Callable[[str], Any], trouble: str) -> Any:
        if trouble == faults.MISTAKEN:
            self.faults.was_wrong(service)
        elif not self.faults.is_wrong(service):
            return effect(trouble)
        raise self.timeline.rng.choice(_OURS[service])("as the simulation wants it")

    def _transient(self) -> Exception:
        return self.timeline.rng.choice(_TRANSIENT)("as the simulation wants it")


@cache
def _with_tries(retry: Any) -> Any:
    return retry(Wire.exchange)


def _deadline_exceeded() -> Exception:
    return exceptions.DeadlineExceeded("as the simulation wants it")  # type: ignore[no-untyped-call]
