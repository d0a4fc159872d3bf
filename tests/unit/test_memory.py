"""Nothing of a large request waits for the garbage collector, which runs seldom (main.py): it is gone once answered."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPIError

from handlers.domain.outcomes import Misconfigured
from handlers.google.batching import Batcher
from handlers.google.grpc_errors import is_refused
from tests.unit.fakes import FakePublisher, grpc_error
from tests.unit.instance import Instance, failed, push

MIB = 1 << 20
LARGE = failed(more="x" * (MIB - 1000))


async def left(work: Callable[[], Awaitable[object]]) -> int:
    """Bytes that it leaves behind."""
    await work()  # what is made once
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(4):
            await work()
        await asyncio.sleep(0)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b" " * MIB, 400), (push(LARGE, data="A" * MIB + "!"), 400), (push(b"x" * MIB), 204), (push(LARGE), 204)],
    ids=["no delivery", "no base64", "malformed event", "event"],
)
async def test_large_request_leaves_nothing_behind(instance: Instance, body: bytes, status: int) -> None:
    async def work() -> None:
        assert status == (await instance.post(body)).status_code
        instance.topics.messages.clear()

    assert await left(work) < MIB / 2


class RefusingPublisher(FakePublisher):
    """Refuses what it gets, with the retry that a generated client puts around the call."""

    async def publish(self, request: Any, **options: Any) -> Any:
        async def refuse() -> None:
            raise grpc_error("INVALID_ARGUMENT")

        return await options["retry"](refuse)()


async def test_large_messages_that_are_refused_leave_nothing_behind(instance: Instance) -> None:
    instance.clients.topics = RefusingPublisher()
    topic = instance.container.topic("archive-job-retry-rejected")

    async def work() -> None:
        published = (topic.publish(b"x" * (MIB // 4), {}) for _ in range(4))
        ends = await asyncio.gather(*published, return_exceptions=True)
        assert all(isinstance(end, Misconfigured) for end in ends)

    assert await left(work) < MIB / 2


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAVAILABLE"])
async def test_batch_that_fails_leaves_nothing_behind(code: str) -> None:
    async def fail(items: list[bytes]) -> list[object]:
        raise grpc_error(code)

    batcher = Batcher[bytes](fail, size=lambda item: 0, is_refused=is_refused, max_latency=0.001)

    async def work() -> None:
        ends = await asyncio.gather(*(batcher(b"x" * MIB) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(end, GoogleAPIError) for end in ends)
        await asyncio.sleep(0.002)

    assert await left(work) < MIB / 2
