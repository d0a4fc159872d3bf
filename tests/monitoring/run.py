"""A run of the real functions on a stage, as Cloud Logging would have it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from local.every_kind import KINDS
from local.function_server import FunctionServer
from local.stage import Stage
from tests.monitoring.logs import Entry, entry

RETRY, RESUME, WATCH = "archive-job-retry", "archive-job-retry-resume", "archive-job-retry-watch"
SMOKE_USER = "deployment-smoke-test"


def entries(stage: Stage, scheduled: FunctionServer | None) -> list[Entry]:
    """The entries of both functions so far."""
    return [
        entry(RESUME if server is scheduled else RETRY, line)
        for server in stage.servers
        for line in server.log
        if "severity" in line
    ]


@contextlib.asynccontextmanager
async def scheduled(stage: Stage, seconds: float = 1.0) -> AsyncIterator[FunctionServer]:
    """Be Cloud Scheduler, only more often."""
    server = await stage.start_function(target="resume_deferred_retries")

    async def call() -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await http.post(server.url)
                await asyncio.sleep(seconds)

    calling = asyncio.create_task(call())
    try:
        yield server
    finally:
        calling.cancel()


async def every_kind(stage: Stage) -> list[Entry]:
    """What is logged while a job of every kind is brought to its end, and then some."""
    await stage.start_function()
    async with scheduled(stage) as server:
        for name, kind in KINDS.items():
            await stage.publish(kind.prepare(stage, name))
        wanted = sum(len(kind.ends) for kind in KINDS.values())
        await stage.until(lambda: len(_deliveries(stage)) >= wanted)
        long_ago = (datetime.now(UTC) - timedelta(minutes=20)).isoformat()
        plain = {"archiveJobId": "plain", "userId": "plain"}
        for event in (
            plain,
            {**plain, "archiveJobId": "again"},
            {**plain, "archiveJobId": "old", "failedAt": long_ago},
        ):
            await stage.publish(event)
        await stage.publish({"archiveJobId": "smoke", "userId": SMOKE_USER})
        await stage.until(lambda: len(_deliveries(stage)) >= wanted + 4)
        return entries(stage, server)


def _deliveries(stage: Stage) -> list[dict[str, Any]]:
    return [line for line in stage.deliveries if "messageId" in line]
