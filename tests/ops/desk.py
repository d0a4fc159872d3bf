"""A project's topics and subscriptions as the commands meet them, and a consumer beside them that sees what is left."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types

from handlers.domain.decisions import RetryPolicy
from handlers.domain.events import encode, timestamp
from handlers.domain.messages import RetryRejected, as_text
from handlers.domain.outcomes import Reason
from local.topics import DEAD, FAILED, REJECTED

POLICY = RetryPolicy(budget=3, event_max_age=timedelta(days=14), park_ambiguous=False, doubt_pause=120)
SECONDS = 30.0
AT_ONCE = 8.0  # below any lease in these tests: who gets a message within this was not kept waiting by one
MOMENT = 0.5  # to see that nothing comes


def failed(job: str = "job", user: str = "alice", **fields: Any) -> bytes:
    return json.dumps({"archiveJobId": job, "userId": user} | fields).encode()


def rejection(
    event: bytes,
    at: datetime,
    reason: str = Reason.ACCESS_DENIED,
    job: str = "job",
    user: str = "alice",
    detail: str = "words",
) -> bytes:
    """What the function publishes when it rejects this event."""
    text, encoding = as_text(event)
    known: Any = {"archive_job_id": job, "root_archive_job_id": job, "user_id": user, "credential_id": user}
    words: Any = {"detail": detail, "event": text, "event_encoding": encoding, "rejected_at": timestamp(at)}
    return encode(RetryRejected(reason=reason, **words, **known))


@dataclass(slots=True)
class Desk:
    """`make` it first. Each topic has a pull subscription of its own name."""

    publisher: PublisherAsyncClient
    subscriber: SubscriberAsyncClient
    address: str
    project: str
    patience: float  # seconds within which a message that is there is handed out

    async def make(self) -> None:
        for name in (FAILED, REJECTED, DEAD):
            await self.publisher.create_topic(name=self.topic(name), timeout=SECONDS)
            request = types.Subscription(name=self.subscription(name), topic=self.topic(name), ack_deadline_seconds=60)
            await self.subscriber.create_subscription(request=request, timeout=SECONDS)

    async def connected(self) -> SubscriberAsyncClient:
        return self.subscriber

    def topic(self, name: str) -> str:
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str) -> str:
        return f"projects/{self.project}/subscriptions/{name}"

    async def publish(self, topic: str, *data: bytes, attributes: Mapping[str, str] | None = None) -> list[str]:
        """The messages' ids."""
        messages = [types.PubsubMessage(data=one, attributes=dict(attributes or {})) for one in data]
        return list(
            (await self.publisher.publish(topic=self.topic(topic), messages=messages, timeout=SECONDS)).message_ids
        )

    async def waiting(self, name: str, expected: int, seconds: float = AT_ONCE) -> list[types.PubsubMessage]:
        """Messages that another consumer gets now: waits for so many, and for a moment whether there are more.

        They are given back, so that they can be asked for again.
        """
        got: dict[str, types.ReceivedMessage] = {}
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            patience = max(left, 0.1) if len(got) < expected else min(MOMENT, self.patience, left)
            request = types.PullRequest(subscription=self.subscription(name), max_messages=1000)
            try:
                pulled = (await self.subscriber.pull(request=request, timeout=patience, retry=None)).received_messages
            except DeadlineExceeded:
                pulled = []
            got |= {received.message.message_id: received for received in pulled}
            if not pulled and len(got) >= expected:
                break
        ack_ids = [received.ack_id for received in got.values()]
        for start in range(0, len(ack_ids), 1000):
            await self.subscriber.modify_ack_deadline(
                subscription=self.subscription(name),
                ack_ids=ack_ids[start : start + 1000],
                ack_deadline_seconds=0,
                timeout=SECONDS,
            )
        return [received.message for received in got.values()]
