"""A run of the real functions on a stage, as Cloud Logging would have it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.delivery.smoke import CANARY
from local import topics
from local.every_kind import KINDS
from local.stage import Stage
from tests.monitoring.logs import Entry, entry

RETRY, RESUME, WATCH = "archive-job-retry", "archive-job-retry-resume", "archive-job-retry-watch"
_SERVICES = {"resume_deferred_retries": RESUME, "watch_archive_job": WATCH}


def entries(stage: Stage) -> list[Entry]:
    """The entries of all functions so far."""
    return [
        entry(_SERVICES.get(server.target, RETRY), line)
        for server in stage.servers
        for line in server.log
        if "severity" in line
    ]


@contextlib.asynccontextmanager
async def scheduled(stage: Stage, seconds: float = 1.0) -> AsyncIterator[None]:
    """Be Cloud Scheduler, only more often."""
    server = await stage.start_function(target="resume_deferred_retries")
    calling = asyncio.create_task(server.be_called(seconds))
    try:
        yield
    finally:
        calling.cancel()


async def every_kind(stage: Stage) -> list[Entry]:
    """What is logged while a job of every kind is brought to its end, and then some."""
    await stage.start_function()
    await stage.start_function(target="watch_archive_job", settings={"WATCH_INTERVAL_SECONDS": "0.5"})
    async with scheduled(stage):
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
        await stage.publish({"archiveJobId": "smoke", "userId": CANARY})
        await stage.until(lambda: len(_deliveries(stage)) >= wanted + 4)
        await _watched(stage)
        return entries(stage)


async def _watched(stage: Stage) -> None:
    """Two jobs that the watch looks at until they end."""
    for state in ("COMPLETE", "FAILED"):
        stage.add_user(f"watched-{state}")
        stage.google.states[f"watched-{state}"] = state
        await stage.publish({"archiveJobId": f"watched-{state}", "userId": f"watched-{state}"}, topic=topics.STARTED)
    await stage.until(lambda: {"ended", "failed"} <= {line["outcome"] for line in stage.deliveries})


def _deliveries(stage: Stage) -> list[dict[str, Any]]:
    """Of failed events."""
    retrying = [server for server in stage.servers if server.target == "retry_failed_archive_job"]
    return [line for server in retrying for line in server.deliveries if "messageId" in line]
