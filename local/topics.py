"""The project's topics and subscriptions, as infra/ wires them, on an emulator or the embedded Pub/Sub."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

FAILED, RETRIED = "archive-job-failed", "archive-job-retried"
REJECTED, DEAD = "archive-job-retry-rejected", "archive-job-dead"
STARTED, ENDED, WATCH_DEAD = "archive-job-started", "archive-job-ended", "archive-job-watch-dead"
PULLED = (RETRIED, REJECTED, DEAD, ENDED, WATCH_DEAD)  # what comes out
_RPC_SECONDS = 30.0
_PULL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Published:
    """A message that came out on a topic."""

    data: Any  # the JSON that it holds, None where it holds none
    raw: bytes
    attributes: dict[str, str]
    message_id: str


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[PublisherAsyncClient, SubscriberAsyncClient]]:
    """Google's generated clients on one plaintext connection to `address` (`host:port`)."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield (
            PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel)),
            SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel)),
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a push subscription delivers. Times are in seconds."""

    back_off: tuple[float, float] = (0.2, 2.0)
    ack_deadline: int = 120
    max_delivery_attempts: int = 10


class Topics:
    """The topics of one project. Each pull subscription bears its topic's name, those that push a number with it."""

    def __init__(self, project: str, publisher: PublisherAsyncClient, subscriber: SubscriberAsyncClient) -> None:
        self._project = project
        self._pushing: list[str] = []
        self._publisher = publisher
        self._subscriber = subscriber

    async def create(self) -> None:
        """All topics, and pull subscriptions to what comes out."""
        for topic in (FAILED, STARTED, *PULLED):
            await self._publisher.create_topic(name=self._name("topics", topic), timeout=_RPC_SECONDS)
        for topic in PULLED:
            await self._subscribe(topic)

    async def push(self, topic: str, endpoint: str, dead_letters: str, how: Delivery) -> None:
        """One more push subscription to this topic."""
        self._pushing.append(f"{topic}-{len(self._pushing) + 1}")
        await self._subscribe(
            topic,
            self._pushing[-1],
            push_config=types.PushConfig(push_endpoint=endpoint),
            ack_deadline_seconds=how.ack_deadline,
            retry_policy=types.RetryPolicy(
                minimum_backoff=timedelta(seconds=how.back_off[0]), maximum_backoff=timedelta(seconds=how.back_off[1])
            ),
            dead_letter_policy=types.DeadLetterPolicy(
                dead_letter_topic=self._name("topics", dead_letters), max_delivery_attempts=how.max_delivery_attempts
            ),
        )

    async def stop_pushing(self) -> None:
        """Or an emulator that others use too would go on pushing to an address that soon is somebody else's."""
        for name in self._pushing:
            with contextlib.suppress(GoogleAPICallError):
                await self._subscriber.delete_subscription(subscription=self._name("subscriptions", name), timeout=5.0)

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Gives the message's id."""
        message = types.PubsubMessage(data=data, attributes=attributes)
        response = await self._publisher.publish(
            topic=self._name("topics", topic), messages=[message], timeout=_RPC_SECONDS
        )
        return str(response.message_ids[0])

    async def collect(self, topic: str, into: list[Published]) -> None:
        """Take in what comes out on a topic, for as long as the task lives."""
        subscription = self._name("subscriptions", topic)
        while True:
            request = types.PullRequest(subscription=subscription, max_messages=100)
            pulled = (await self._subscriber.pull(request=request, timeout=_PULL_SECONDS)).received_messages
            for received in pulled:
                message = received.message
                into.append(
                    Published(_parsed(message.data), message.data, dict(message.attributes), message.message_id)
                )
            if pulled:
                ack_ids = [received.ack_id for received in pulled]
                await self._subscriber.acknowledge(subscription=subscription, ack_ids=ack_ids, timeout=_RPC_SECONDS)

    async def _subscribe(self, topic: str, name: str = "", **settings: Any) -> None:
        request = types.Subscription(
            name=self._name("subscriptions", name or topic), topic=self._name("topics", topic), **settings
        )
        await self._subscriber.create_subscription(request=request, timeout=_RPC_SECONDS)

    def _name(self, kind: str, name: str) -> str:
        return f"projects/{self._project}/{kind}/{name}"


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
