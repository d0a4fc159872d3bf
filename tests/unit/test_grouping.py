"""Rules of calls that go as one."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from handlers.grouping import LARGEST, MOST, Grouped

SOON = 0.02  # seconds between two calls: long enough for a test to do something meanwhile


class Service:
    """Answers an item by its name in capitals, once it may; refuses what it is told to, and every call that has it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.refuses: set[str] = set()
        self.breaks = False
        self.may = asyncio.Event()
        self.may.set()
        self.given_up = 0

    async def __call__(self, place: str, items: list[str]) -> Sequence[str]:
        self.calls.append((place, items))
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.breaks and items != ["first"]:
            raise OSError
        for item in items:
            if item in self.refuses:
                raise ValueError(item)
        return [item.upper() for item in items]

    @property
    def sent(self) -> list[list[str]]:
        return [items for _, items in self.calls]


def refused(error: Exception) -> bool:
    return isinstance(error, ValueError)


def grouped(service: Service, pause: float = SOON) -> Grouped[str]:
    return Grouped(service, size=len, names=lambda item: {item.split("/")[0]}, refused=refused, pause=pause)


async def together(call: Grouped[str], *items: str) -> list[Any]:
    """The answers to what comes at once, after something else has just been sent."""
    _, *answers = await asyncio.gather(*(call("there", item) for item in ("first", *items)), return_exceptions=True)
    return answers


async def test_what_comes_alone_goes_at_once() -> None:
    service = Service()
    call = grouped(service, pause=3600)
    async with asyncio.timeout(1):
        assert await call("there", "a") == "A"
        assert await call("elsewhere", "b") == "B"


async def test_what_comes_after_a_quiet_time_goes_at_once() -> None:
    service = Service()
    call = grouped(service)
    await call("there", "a")
    await asyncio.sleep(SOON * 2)
    answer = asyncio.create_task(call("there", "b"))
    await asyncio.sleep(0)
    assert service.sent == [["a"], ["b"]]
    assert await answer == "B"


async def test_what_comes_in_quick_succession_goes_as_one_and_each_gets_its_own_answer() -> None:
    service = Service()
    assert await together(grouped(service), "a", "b", "c") == ["A", "B", "C"]
    assert service.sent == [["first"], ["a", "b", "c"]]


async def test_only_what_goes_to_the_same_place_goes_as_one() -> None:
    service = Service()
    call = grouped(service)
    places = ["x", "y", "x", "y", "x"]
    await asyncio.gather(*(call(place, f"{number}") for number, place in enumerate(places)))
    assert sorted(service.calls) == [("x", ["0"]), ("x", ["2", "4"]), ("y", ["1"]), ("y", ["3"])]


async def test_a_call_that_hangs_keeps_nobody_waiting() -> None:
    service = Service()
    call = grouped(service)
    service.may.clear()
    hanging = [asyncio.create_task(call("there", item)) for item in "ab"]
    await asyncio.sleep(SOON * 3)
    service.may.set()
    assert await call("there", "c") == "C"
    assert service.sent == [["a"], ["b"], ["c"]]
    await asyncio.gather(*hanging)


async def test_of_a_group_that_failed_each_is_sent_alone_and_gets_what_is_its_own() -> None:
    service = Service()
    service.refuses = {"b"}
    a, b, c = await together(grouped(service), "a", "b", "c")
    assert (a, c) == ("A", "C")
    assert repr(b) == "ValueError('b')"
    assert service.sent == [["first"], ["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_of_a_group_whose_call_had_no_answer_nothing_is_sent_again() -> None:
    service = Service()
    service.breaks = True
    assert ["OSError()"] * 2 == [repr(error) for error in await together(grouped(service), "a", "b")]
    assert service.sent == [["first"], ["a", "b"]]


async def test_what_failed_is_not_kept_for_the_collector() -> None:
    class Item(str):
        pass

    service = Service()
    service.refuses = {"first", "a", "b"}
    items = [Item(name) for name in ("first", "a", "b")]
    kept = [weakref.ref(item) for item in items]
    gc.collect()
    gc.disable()
    try:
        await together(grouped(service), *items[1:])
        service.calls.clear()
        items.clear()
        await asyncio.sleep(0)
        assert [None, None] == [item() for item in kept[1:]]
    finally:
        gc.enable()


async def test_a_call_that_is_cancelled_leaves_nobody_waiting() -> None:
    async def cancelled(place: str, items: list[str]) -> list[str]:
        if "a" in items:
            raise asyncio.CancelledError
        return items

    async with asyncio.timeout(1):
        answers = await together(Grouped(cancelled, size=len, refused=refused, pause=SOON), "a", "b")
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)


async def test_a_call_for_several_is_made_in_no_deliverys_context() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    seen: list[str] = []

    async def look(place: str, items: list[str]) -> list[str]:
        seen.append(whose.get())
        return items

    call = Grouped(look, size=len, refused=refused, pause=SOON)

    async def deliver(name: str) -> None:
        whose.set(name)
        await call("there", name)

    await asyncio.gather(*(asyncio.create_task(deliver(name)) for name in ("first", "a", "b")))
    assert seen == ["first", "nobody's"]


async def test_a_call_that_is_answered_in_part_has_failed() -> None:
    sent: list[list[str]] = []

    async def first_alone(place: str, items: list[str]) -> list[str]:
        sent.append(items)
        return [items[0].upper()]

    assert await together(Grouped(first_alone, size=len, refused=refused, pause=SOON), "a", "b") == ["A", "B"]
    assert sent == [["first"], ["a", "b"], ["a"], ["b"]]


async def test_what_failed_alone_is_not_sent_again() -> None:
    service = Service()
    service.refuses = {"first", "a"}
    call = grouped(service)
    with pytest.raises(ValueError, match="first"):
        await call("there", "first")
    with pytest.raises(ValueError, match="a"):
        await call("there", "a")
    assert service.sent == [["first"], ["a"]]


async def test_two_items_with_a_name_in_common_never_go_as_one_and_the_second_waits_for_nothing() -> None:
    service = Service()
    assert await together(grouped(service), "a/1", "b/1", "a/2", "a/3") == ["A/1", "B/1", "A/2", "A/3"]
    assert service.sent == [["first"], ["a/2"], ["a/3"], ["a/1", "b/1"]]


async def test_what_has_no_room_in_the_group_any_more_goes_at_once() -> None:
    service = Service()
    await together(grouped(service), *(f"{number}" for number in range(MOST + 1)))
    assert [len(items) for items in service.sent] == [1, 1, MOST]
    service = Service()
    half, more = "h" * (LARGEST // 2), "m" * (LARGEST + 1)
    await together(grouped(service), half, "i" + half[1:], "a", more)
    assert [[item[0] for item in items] for items in service.sent] == [["f"], ["a"], ["m"], ["h", "i"]]


async def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    service = Service()
    call = grouped(service)
    waiting = [asyncio.create_task(call("there", item)) for item in ("first", "a", "b")]
    await asyncio.sleep(0)
    waiting[1].cancel()
    assert await waiting[2] == "B"
    assert service.sent == [["first"], ["b"]]


async def test_who_gives_up_takes_nothing_from_the_others_and_the_last_one_ends_the_call() -> None:
    service = Service()
    call = grouped(service)
    await call("there", "first")
    service.may.clear()
    a, b = (asyncio.create_task(call("there", item)) for item in "ab")
    while len(service.calls) < 2:  # noqa: ASYNC110 until the timer has sent it
        await asyncio.sleep(0.001)
    a.cancel()
    await asyncio.sleep(SOON)
    assert (service.given_up, b.done()) == (0, False)
    b.cancel()
    await asyncio.wait([a, b])
    await asyncio.sleep(0)
    assert service.given_up == 1
