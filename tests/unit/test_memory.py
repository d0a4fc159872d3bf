"""Nothing of a large request stays until the garbage collector comes by itself, which is seldom (main.py)."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from handlers.google.http_client import HttpClient
from local.processes import free_port
from local.stage import RESUME
from tests.unit.fakes import FakePublisher, cooldown, grpc_error
from tests.unit.instance import Instance, failed, later, push

MIB = 1 << 20
LARGE = failed(more="x" * (MIB - 1000))


async def left(work: Callable[[], Awaitable[object]]) -> int:
    """Bytes that it leaves behind, where the collector does not come by itself."""
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
    """Refuses what it gets, `in_vain` times or always, with the retry that a generated client puts around the call."""

    def __init__(self, code: str, in_vain: int) -> None:
        super().__init__()
        self.code, self.in_vain = code, in_vain

    async def publish(self, request: Any, **options: Any) -> Any:
        tries = 0

        async def refuse() -> Any:
            nonlocal tries
            tries += 1
            if tries > self.in_vain:
                return await super(RefusingPublisher, self).publish(request)
            try:
                raise RuntimeError("gRPC's own error")  # noqa: TRY301
            except RuntimeError as error:
                raise grpc_error(self.code) from error

        return await options["retry"](refuse)()


@pytest.mark.parametrize(("code", "in_vain", "status"), [("INVALID_ARGUMENT", 99, 500), ("UNAVAILABLE", 1, 204)])
async def test_large_event_whose_rejection_is_refused_leaves_nothing_behind(
    instance: Instance, code: str, in_vain: int, status: int
) -> None:
    instance.clients.topics = RefusingPublisher(code, in_vain)

    async def work() -> None:
        answers = await asyncio.gather(*(instance.post(push(b"x" * MIB)) for _ in range(3)))
        assert {status} == {answer.status_code for answer in answers}
        instance.clients.topics.messages.clear()

    assert await left(work) < MIB / 2


async def test_large_events_that_cannot_be_put_back_leave_nothing_behind(instance: Instance) -> None:
    jobs = [f"job-{number}" for number in range(20)]
    for job in jobs:
        instance.script(job, cooldown(later(3600)))
        await instance.deliver(failed(job, more="x" * 100_000))
    instance.clock.wait(3600)
    instance.clients.topics = RefusingPublisher("INVALID_ARGUMENT", 99)

    async def work() -> None:
        assert 500 == (await instance.post(b"", entry_point=RESUME)).status_code

    assert await left(work) < MIB / 2


async def test_request_that_is_not_answered_leaves_nothing_behind() -> None:
    """It may have a refresh token in it."""
    http, url = HttpClient(), f"http://127.0.0.1:{free_port()}"

    async def work() -> None:
        await http.request("POST", url, headers={}, body=b"x" * MIB, seconds=5)

    assert await left(work) < MIB / 2
    await http.close()
