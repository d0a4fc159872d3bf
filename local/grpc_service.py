"""A gRPC service from a table of methods, for Google's interfaces whose packages ship no servicer."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

Methods = dict[str, tuple[Any, Callable[..., Any]]]


class Refused(Exception):
    """A request that Google would refuse."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class EveryMethod(grpc.GenericRpcHandler):
    """`answer` gets each call with its path, as streams of bytes both ways: on the wire one message is no different."""

    def __init__(self, answer: Callable[[str, Any, Any], Any]) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method

        async def handle(requests: Any, context: Any) -> None:
            await self._answer(path, requests, context)

        return grpc.stream_stream_rpc_method_handler(handle)


@asynccontextmanager
async def serving(
    *handlers: grpc.GenericRpcHandler, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """The address (`host:port`) where these answer meanwhile: in the clear without credentials."""
    server, anywhere = grpc.aio.server(handlers=handlers), "127.0.0.1:0"
    port = server.add_secure_port(anywhere, credentials) if credentials else server.add_insecure_port(anywhere)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


def service(name: str, methods: Methods) -> grpc.GenericRpcHandler:
    """Each method: the proto-plus class of its request, and what answers it, with a protobuf message or by Refused.

    A plain function gets the request; a coroutine function also the seconds that the caller waits (None: for ever).
    """
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(
                _answering(answer),
                request_deserializer=request.pb().FromString,
                response_serializer=lambda response: response.SerializeToString(),
            )
            for method, (request, answer) in methods.items()
        },
    )


def _answering(answer: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    waits = inspect.iscoroutinefunction(answer)

    async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await answer(request, context.time_remaining()) if waits else answer(request)
        except Refused as refusal:
            await context.abort(refusal.code, str(refusal))

    return handle
