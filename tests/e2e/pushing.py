"""Deliveries by hand, as Pub/Sub pushes them, straight to a server."""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp

from local.function_server import FunctionServer
from local.stage import Stage


class Answered(NamedTuple):
    """An answer to a delivery."""

    status: int
    seconds: float


def push_body(event: Mapping[str, Any] | bytes, **message: Any) -> bytes:
    """The body that delivers an event. `message` are fields of the message beside its data."""
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    fields = {"data": base64.b64encode(data).decode(), "messageId": "1"} | message
    return json.dumps({"message": fields, "subscription": "projects/p/subscriptions/s"}).encode()


async def post(http: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """Gives the answer's status."""
    async with http.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
        await answer.read()
        return answer.status


async def push(http: aiohttp.ClientSession, url: str, event: Mapping[str, Any], **message: Any) -> int:
    """Deliver an event; gives the answer's status."""
    return await post(http, url, push_body(event, **message))


async def deliver(server: FunctionServer, *jobs: str, in_flight: int = 100) -> dict[str, Answered]:
    """Each job once, at most `in_flight` at a time, of users of the same names."""

    async def one(http: aiohttp.ClientSession, job: str) -> Answered:
        begun = time.monotonic()
        status = await push(http, server.url, {"archiveJobId": job, "userId": job}, messageId=f"of-{job}")
        return Answered(status, time.monotonic() - begun)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as http:
        return dict(zip(jobs, await asyncio.gather(*(one(http, job) for job in jobs)), strict=True))


async def until_done(server: FunctionServer, job: str = "job") -> None:
    """Deliver this job until it is done."""
    async with asyncio.timeout(30):
        while (await deliver(server, job))[job].status != 204:  # noqa: ASYNC110 it is another process that gets ready
            await asyncio.sleep(0.1)


async def attempts(stage: Stage, *jobs: str) -> dict[str, int]:
    """Of these jobs' follow-ups, once they are all there."""
    await stage.until(lambda: {*jobs} <= {message.data["retriedArchiveJobId"] for message in stage.follow_ups})
    return {message.data["retriedArchiveJobId"]: message.data["attempt"] for message in stage.follow_ups}
