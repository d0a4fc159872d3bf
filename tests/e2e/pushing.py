"""Deliveries by hand, as Pub/Sub pushes them, straight to a server."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import aiohttp


async def push(http: aiohttp.ClientSession, url: str, event: Mapping[str, Any], **message: Any) -> int:
    """Deliver an event; gives the answer's status. `message` are fields of the message beside its data."""
    data = base64.b64encode(json.dumps(event).encode()).decode()
    body = {"message": {"data": data, "messageId": "1"} | message, "subscription": "projects/p/subscriptions/s"}
    async with http.post(url, json=body) as answer:
        await answer.read()
        return answer.status
