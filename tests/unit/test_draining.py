"""Rules of the end of an instance: what SIGTERM sets off, and what becomes of the steps in hand."""

import asyncio
import math
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from handlers.draining import Draining


@pytest.fixture
def server() -> Iterator[list[int]]:
    """The signals that the server's own handler is told."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


async def test_sigterm_begins_the_draining_and_reaches_the_server_too(server: list[int]) -> None:
    draining = Draining(seconds=0.1)
    draining.begin_at_sigterm()
    assert not draining.began
    with suppress(TimeoutError):
        async with asyncio.timeout(20) as step:
            draining.hold(step, 1.0)
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Future()
    assert ([signal.SIGTERM], True) == (server, draining.began)


async def test_in_a_thread_that_may_not_listen_for_signals_nothing_listens(server: list[int]) -> None:
    draining = Draining()
    await asyncio.to_thread(draining.begin_at_sigterm)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.01)
    assert ([signal.SIGTERM], False) == (server, draining.began)


async def test_a_step_keeps_its_share_of_the_time_that_is_left_or_its_own_deadline_if_that_is_sooner() -> None:
    draining, begun = Draining(seconds=9.0), asyncio.get_running_loop().time()
    assert 5.0 == draining.deadline(5.0, 1 / 3)
    draining.begin()
    assert begun + 3 <= draining.deadline(math.inf, 1 / 3) <= asyncio.get_running_loop().time() + 3
    assert begun + 1 == draining.deadline(begun + 1, 1 / 3)


async def test_asked_a_second_time_it_does_not_begin_anew() -> None:
    draining = Draining()
    draining.begin()
    by = draining.deadline(math.inf, 1.0)
    await asyncio.sleep(0.01)
    draining.begin()
    assert by == draining.deadline(math.inf, 1.0)


async def test_a_step_whose_time_has_just_run_out_keeps_no_other_from_its_shorter_deadline() -> None:
    draining = Draining(seconds=9.0)
    with suppress(TimeoutError):
        async with asyncio.timeout(0) as over:
            draining.hold(over, 1.0)
            await asyncio.Future()
    async with asyncio.timeout(600) as other:
        draining.hold(other, 1.0)
        draining.begin()
        await asyncio.sleep(0)
        assert draining.deadline(math.inf, 1.0) == other.when()
