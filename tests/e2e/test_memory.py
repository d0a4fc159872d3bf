"""The most expensive requests, eighty at once: the instance keeps within its memory, and serves others meanwhile."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from local import google_errors
from local.function_server import ROOT
from local.scripted import ANY, Step
from local.stage import RESUME, RETRY, WATCH, Stage
from tests.e2e import pushing
from tests.e2e.pushing import push_body
from tests.e2e.test_hostile_peers import memory_mib

LIMIT_MIB = 512  # of infra/
MOST_SECONDS = 0.5
MIB = 1 << 20


def event(more: str) -> bytes:
    return f'{{"archiveJobId": 7, "userId": "alice", "more": {more}}}'.encode()


EXPENSIVE: dict[str, bytes] = {
    "control characters": push_body(b"\x01" * MIB),
    "half pairs": push_body(event('"' + "\\ud800" * (MIB // 6 - 20) + '"')),
    "small fields": push_body(event("{}")[:-1] + b"".join(b',"%d":0' % number for number in range(90_000)) + b"}"),
    "one wide character": push_body("\U0001f600".encode() + b"x" * (MIB - 4)),
    "quotes": push_body(b'"x,' * (MIB // 3)),
    "no text": push_body(b"\xff" * (8 * MIB)),
    "attributes": push_body(b"{}", attributes={str(number): "" for number in range(300_000)}),
    "wide data": push_body(b"").replace(b'"data": ""', '"data": "\U0001f600%s"'.encode() % (b"-_" * (8 * MIB))),
}


async def test_eighty_expensive_requests_fit_into_the_memory_and_delay_no_other(
    google_cloud: dict[str, Any], figure: Callable[[str, int], None]
) -> None:
    async with Stage(**google_cloud, tls=False) as stage:
        server = await stage.start_function()
        [worker] = server.workers
        command = (sys.executable, "-m", "tests.e2e.prober", str(server.port), str(worker))
        for name, body in EXPENSIVE.items():
            prober = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                answers = await asyncio.gather(*(pushing.post(http, server.url, body) for _ in range(80)))
            waited = float((await prober.communicate())[0])
            assert {*answers} <= {204, 400, 503}, name
            figure(f"ms of CPU that another request waited for at most, beside 80 of {name}", round(waited * 1000))
            assert waited <= MOST_SECONDS, name
            assert [worker] == server.workers, name
            assert memory_mib(server) < LIMIT_MIB, name


COOLDOWN = timedelta(seconds=1.5)


def cooldowns() -> Iterator[Step]:
    while True:
        yield google_errors.cooldown(datetime.now(UTC) + COOLDOWN)


async def test_large_events_that_are_due_fit_into_the_memory_of_the_schedule(google_cloud: dict[str, Any]) -> None:
    """In both collections: they would end each of its runs, and stay due."""
    jobs = [f"job-{number}" for number in range(60)]
    large = {"userId": "alice", "theirs": "x" * 880_000}
    async with Stage(**google_cloud, tls=False, settings={"WATCH_INTERVAL_SECONDS": "0.1"}) as stage:
        stage.add_user("alice")
        stage.google.script_retry(ANY, cooldowns())
        servers = [await stage.start_function(target=target) for target in (RETRY, WATCH)]
        async with aiohttp.ClientSession() as http:
            for server in servers:
                for job in jobs:
                    assert 204 == await pushing.push(http, server.url, {"archiveJobId": job} | large)
        due_at = datetime.now(UTC) + COOLDOWN
        schedule = await stage.start_function(target=RESUME)
        await asyncio.sleep((due_at - datetime.now(UTC)).total_seconds())
        async with aiohttp.ClientSession() as http, http.post(schedule.url) as answer:
            assert 204 == answer.status
        assert 120 == schedule.deliveries[-1]["resumed"]
        assert memory_mib(schedule) < LIMIT_MIB
