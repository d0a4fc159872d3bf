"""Calls to Google's gRPC services, and the one table of their errors: what they mean for a delivery.

https://cloud.google.com/apis/design/errors#handling_errors
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import TracebackType
from typing import Any

import google.auth
import grpc.aio
from google.api_core.exceptions import GoogleAPIError, from_grpc_error
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.api_core.grpc_helpers_async import create_channel
from grpc import StatusCode

from handlers.outcomes import Fault, Misconfigured, Throttled, Unavailable

PASSING = frozenset(
    {
        StatusCode.ABORTED,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
    }
)
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def passes(error: Exception) -> bool:
    """Whether the call failed in a way that passes by itself. What was asked for may have been done all the same."""
    code = getattr(error, "grpc_status_code", None)  # a RetryError has none: its time ran out on passing faults
    return isinstance(error, GoogleAPIError) and (code is None or code in PASSING)


def refused(error: Exception) -> bool:
    """Whether the call was refused, with nothing done."""
    return isinstance(error, GoogleAPIError) and not passes(error)


def fault_of(error: GoogleAPIError, doing: str) -> Fault:
    """The fault behind a failed call. Everything that does not pass by itself is ours: a role, a name, a request."""
    code = getattr(error, "grpc_status_code", None)
    said = f"{doing}: {code.name if code else 'no answer'}"
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Throttled(said)
    return Unavailable(said) if passes(error) else Misconfigured(said)


class Channels(AbstractAsyncContextManager["Channels"]):
    """A channel to each service: Google's, with the program's own account looked up once, or an emulator's."""

    def __init__(self, credentials: Any = None, *, ping_after: float = 30.0) -> None:
        self._credentials = credentials
        # A connection can die without a word. One that was silent for so many seconds of a call is asked for a sign of
        # life, as by Google's own clients, and given up if there is none: the next call makes a new one.
        self._options = [
            ("grpc.keepalive_time_ms", int(ping_after * 1000)),
            ("grpc.http2.ping_timeout_ms", int(ping_after * 1000 / 3)),  # a minute by default
        ]
        self._opened: list[grpc.aio.Channel] = []

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them all."""
        await asyncio.gather(*(channel.close() for channel in self._opened))

    def to(self, host: str, emulator: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """`emulator` is its `host:port`, to be reached in the clear; empty for Google's own service at `host`."""
        options = [*self._options, *options]
        if emulator:
            channel = grpc.aio.insecure_channel(emulator, options=options)
        else:
            if not self._credentials:
                self._credentials, _ = google.auth.default(scopes=[_SCOPE])
            channel = create_channel(f"{host}:443", credentials=self._credentials, options=options)
        channel.get_state(try_to_connect=True)  # now: the first call finds a connection, with no handshake to wait for
        self._opened.append(channel)
        return channel

    def client(self, kind: Any, emulator: str) -> Any:
        """A client of this kind: one that is made with a Service, and says of which HOST and name, its SERVICE."""
        return kind(Service(self.to(kind.HOST, emulator), kind.SERVICE))


class Service:
    """One service on a channel, called with bare protobuf messages: half of the CPU of a generated client.

    `routed_by` is the field of a request that Google's front end goes by (https://google.aip.dev/client-libraries/4222).
    The methods raise GoogleAPIError.
    """

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._channel = channel
        self._name = name

    def unary(
        self, method: str, request_type: Any, answer_type: Any, *, routed_by: str, seconds: float, retry: Any = None
    ) -> Callable[[Any], Awaitable[Any]]:
        """A method with one answer, after one try of so many seconds or as many as `retry` says."""
        call = self._channel.unary_unary(f"/{self._name}/{method}", **_serialization(request_type, answer_type))

        async def once(request: Any) -> Any:
            try:
                return await call(request, timeout=seconds, metadata=_routing(routed_by, getattr(request, routed_by)))
            except grpc.aio.AioRpcError as error:
                raise _error(error) from None

        return retry(once) if retry else once

    def streaming(
        self, method: str, request_type: Any, answer_type: Any, *, routed_by: str, seconds: float
    ) -> Callable[[Any], AsyncIterator[Any]]:
        """A method with a stream of answers, tried once, for so many seconds."""
        call = self._channel.unary_stream(f"/{self._name}/{method}", **_serialization(request_type, answer_type))

        async def answers(request: Any) -> AsyncIterator[Any]:
            metadata = _routing(routed_by, getattr(request, routed_by))
            try:
                async for answer in call(request, timeout=seconds, metadata=metadata):
                    yield answer
            except grpc.aio.AioRpcError as error:
                raise _error(error) from None

        return answers


def _serialization(request_type: Any, answer_type: Any) -> dict[str, Any]:
    return {"request_serializer": request_type.SerializeToString, "response_deserializer": answer_type.FromString}


def _error(error: grpc.aio.AioRpcError) -> GoogleAPIError:
    named: GoogleAPIError = from_grpc_error(error)  # type: ignore[no-untyped-call]
    return named


@lru_cache  # databases and topics are few; a secret's name is forgotten again
def _routing(field: str, value: str) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(to_grpc_metadata({field: value}))  # type: ignore[no-untyped-call]
