"""Batching: what goes as one call, what does not, and who is told what where it fails."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from handlers.google.batching import MAX_BYTES, MAX_ITEMS, Batcher

WINDOW = 0.02


class Service:
    """Answers an item by its name in capitals, once it may; rejects what it is told to, and every call that has it."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.rejects: set[str] = set()
        self.fault: Exception | None = None
        self.may = asyncio.Event()
        self.may.set()
        self.cancelled = 0

    async def __call__(self, items: list[str]) -> Sequence[str]:
        self.sent.append(items)
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fault and items != ["first"]:
            raise self.fault
        if self.rejects & set(items):
            raise ValueError(*self.rejects & set(items))
        return [item.upper() for item in items]


@pytest.fixture
async def service() -> Service:
    return Service()


def batcher(service: Any, window: float = WINDOW) -> Batcher[str]:
    return Batcher(
        service,
        size=len,
        keys=lambda item: {item.split("/")[0]},
        is_refused=lambda error: isinstance(error, ValueError),
        max_latency=window,
    )


async def together(call: Batcher[str], *items: str) -> list[Any]:
    """The answers to what comes at once, after something else has just been sent."""
    _, *answers = await asyncio.gather(*(call(item) for item in ("first", *items)), return_exceptions=True)
    return answers


async def test_item_that_comes_alone_goes_at_once(service: Service) -> None:
    call = batcher(service, window=3600)
    async with asyncio.timeout(1):
        assert "A" == await call("a")


async def test_item_after_a_quiet_window_goes_at_once(service: Service) -> None:
    call = batcher(service)
    await call("a")
    await asyncio.sleep(WINDOW * 3)
    answer = asyncio.create_task(call("b"))
    await asyncio.sleep(0)
    assert [["a"], ["b"]] == service.sent
    await answer


async def test_batch_gives_each_item_its_answer(service: Service) -> None:
    assert ["A", "B", "C"] == await together(batcher(service), "a", "b", "c")
    assert [["first"], ["a", "b", "c"]] == service.sent


async def test_hanging_call_keeps_nobody_waiting(service: Service) -> None:
    call = batcher(service)
    service.may.clear()
    calls = [asyncio.create_task(call(item)) for item in "ab"]
    await asyncio.sleep(WINDOW * 4)
    calls.append(asyncio.create_task(call("c")))
    await asyncio.sleep(0)
    assert [["a"], ["b"], ["c"]] == service.sent
    service.may.set()
    assert ["A", "B", "C"] == await asyncio.gather(*calls)


async def test_rejected_batch_is_sent_again_item_by_item(service: Service) -> None:
    service.rejects = {"b"}
    a, b, c = await together(batcher(service), "a", "b", "c")
    assert ("A", "ValueError('b')", "C") == (a, repr(b), c)
    assert [["first"], ["a", "b", "c"], ["a"], ["b"], ["c"]] == service.sent


async def test_batch_without_an_answer_is_not_sent_again(service: Service) -> None:
    service.fault = OSError()
    assert ["OSError()"] * 2 == [repr(error) for error in await together(batcher(service), "a", "b")]
    assert [["first"], ["a", "b"]] == service.sent


async def test_rejected_item_that_was_alone_is_not_sent_again(service: Service) -> None:
    service.rejects = {"a"}
    assert ["ValueError('a')"] == [repr(error) for error in await together(batcher(service), "a")]
    assert [["first"], ["a"]] == service.sent


async def test_cancelled_call_leaves_nobody_waiting() -> None:
    async def cancelled(items: list[str]) -> list[str]:
        if "a" in items:
            raise asyncio.CancelledError
        return items

    async with asyncio.timeout(1):
        answers = await together(batcher(cancelled), "a", "b")
    assert [asyncio.CancelledError] * 2 == [type(answer) for answer in answers]


async def test_batch_answered_in_part_has_failed() -> None:
    async def first_alone(items: list[str]) -> list[str]:
        return [items[0].upper()]

    call = Batcher(first_alone, size=len, is_refused=lambda error: False, max_latency=WINDOW)
    async with asyncio.timeout(1):
        answers = await together(call, "a", "b")
    assert [ValueError] * 2 == [type(answer) for answer in answers]


async def test_batch_runs_in_no_deliverys_context() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    seen: list[str] = []

    async def look(items: list[str]) -> list[str]:
        seen.append(whose.get())
        return items

    call = batcher(look)

    async def deliver(name: str) -> None:
        whose.set(name)
        await call(name)

    await asyncio.gather(*(asyncio.create_task(deliver(name)) for name in ("first", "a", "b")))
    assert ["first", "nobody's"] == seen


async def test_batch_holds_no_key_twice(service: Service) -> None:
    assert ["A/1", "B/1", "A/2", "A/3"] == await together(batcher(service), "a/1", "b/1", "a/2", "a/3")
    assert [["first"], ["a/2"], ["a/3"], ["a/1", "b/1"]] == service.sent


async def test_full_batch_takes_no_more_items(service: Service) -> None:
    await together(batcher(service), *(f"{number}" for number in range(MAX_ITEMS + 1)))
    assert [1, 1, MAX_ITEMS] == [len(items) for items in service.sent]


async def test_full_batch_takes_no_more_bytes(service: Service) -> None:
    half, more = "h" * (MAX_BYTES // 2), "m" * (MAX_BYTES + 1)
    await together(batcher(service), half, "i" + half[1:], "a", more)
    assert [["f"], ["a"], ["m"], ["h", "i"]] == [[item[0] for item in items] for items in service.sent]


async def test_unsent_item_of_a_cancelled_waiter_is_not_sent(service: Service) -> None:
    call = batcher(service)
    waiting = [asyncio.create_task(call(item)) for item in ("first", "a", "b")]
    await asyncio.sleep(0)
    waiting[1].cancel()
    assert "B" == await waiting[2]
    assert [["first"], ["b"]] == service.sent


async def test_last_cancelled_waiter_ends_the_call(service: Service) -> None:
    call = batcher(service)
    await call("first")
    service.may.clear()
    a, b = (asyncio.create_task(call(item)) for item in "ab")
    while len(service.sent) < 2:  # noqa: ASYNC110 until the window is over
        await asyncio.sleep(0.001)
    a.cancel()
    await asyncio.sleep(WINDOW)
    assert (0, False) == (service.cancelled, b.done())
    b.cancel()
    await asyncio.wait([a, b])
    await asyncio.sleep(0)
    assert 1 == service.cancelled
