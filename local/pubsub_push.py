"""Push: every message of a subscription as an HTTP POST to its endpoint."""

import asyncio
import base64
import json
from typing import Any

import aiohttp

from local.pubsub_subscription import PULL_PATIENCE_SECONDS, Lease, Subscription

PUSHES_AT_ONCE = 100  # per subscription

# https://cloud.google.com/pubsub/docs/push: everything else is delivered again.
ACKNOWLEDGING_STATUS = frozenset({102, 200, 201, 202, 204})


async def push_all(subscription: Subscription, http: aiohttp.ClientSession) -> None:
    """Push for as long as the task lives."""
    free = asyncio.Semaphore(PUSHES_AT_ONCE)
    async with asyncio.TaskGroup() as pushes:
        while True:
            await free.acquire()
            while not (leases := await subscription.take(1, PULL_PATIENCE_SECONDS)):
                pass
            pushes.create_task(_push(subscription, leases[0], http)).add_done_callback(lambda _: free.release())


async def _push(subscription: Subscription, lease: Lease, http: aiohttp.ClientSession) -> None:
    try:
        async with http.post(
            subscription.config.push_config.push_endpoint,
            data=_push_body(subscription, lease),
            headers={"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "APIs-Google"},
            timeout=aiohttp.ClientTimeout(total=subscription.ack_deadline_seconds),
            allow_redirects=False,
        ) as response:
            acknowledged = response.status in ACKNOWLEDGING_STATUS
    except (aiohttp.ClientError, TimeoutError):
        acknowledged = False
    if acknowledged:
        subscription.acknowledge(lease.ack_id)
    else:
        subscription.modify_ack_deadline(lease.ack_id, 0)


def _push_body(subscription: Subscription, lease: Lease) -> bytes:
    """The body of a push, https://cloud.google.com/pubsub/docs/push#receive_push: what is empty is left out."""
    given = lease.message
    published = given.publish_time.ToJsonString()
    message = {
        "data": base64.b64encode(given.data).decode(),
        "attributes": dict(given.attributes),
        "messageId": given.message_id,
        "message_id": given.message_id,
        "orderingKey": given.ordering_key,
        "publishTime": published,
        "publish_time": published,
    }
    body: dict[str, Any] = {
        "message": {name: value for name, value in message.items() if value},
        "subscription": subscription.config.name,
    }
    if subscription.config.dead_letter_policy.dead_letter_topic:
        body["deliveryAttempt"] = lease.attempt
    return json.dumps(body).encode()
