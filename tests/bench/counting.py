"""Counts the calls that come to a gRPC service, and passes them on as they are."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc


class _PassOn(grpc.GenericRpcHandler):
    """Whatever the method: on the wire, one message is a stream of one."""

    def __init__(self, to: grpc.aio.Channel, counts: Counter[str]) -> None:
        self._to = to
        self._counts = counts

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        self._counts[call.method.rpartition("/")[2]] += 1
        method: Any = self._to.stream_stream(call.method)

        async def answers(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            try:
                async for answer in method(requests):
                    yield answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        return grpc.stream_stream_rpc_method_handler(answers)


@asynccontextmanager
async def counted(address: str, counts: Counter[str]) -> AsyncIterator[str]:
    """An address that leads to the service at `address`, and counts the calls by their methods' names meanwhile."""
    async with grpc.aio.insecure_channel(address) as channel:
        server = grpc.aio.server(handlers=[_PassOn(channel, counts)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)
