"""Counts the calls that come to a gRPC service, and passes them on as they are."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from local.grpc_service import EveryMethod, serving


@asynccontextmanager
async def counted(address: str, counts: Counter[str]) -> AsyncIterator[str]:
    """An address that leads to the service at `address`, and counts the calls by their methods' names meanwhile."""
    async with grpc.aio.insecure_channel(address) as channel:

        async def pass_on(path: str, requests: Any, context: Any) -> None:
            counts[path.rpartition("/")[2]] += 1
            method: Any = channel.stream_stream(path)
            try:
                async for answer in method(requests):
                    await context.write(answer)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        async with serving(EveryMethod(pass_on)) as counting:
            yield counting
