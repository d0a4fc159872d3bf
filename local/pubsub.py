"""Pub/Sub embedded in this process, for machines without Google's emulator.

Speaks Google's own gRPC interface, as far as a producer, a consumer and a push endpoint need it: topics,
subscriptions, publish, pull, acknowledge, push with ack deadline, back-off and dead letters. What it does not know
answers UNIMPLEMENTED. It and Google's emulator are held by the same tests (tests/integration/test_pubsub_stage.py).
What it does as Google Cloud does and the emulator does not: `deliveryAttempt` and `orderingKey` in a push body, a 202
that acknowledges, the limit of a message's size, and many pushes of one subscription at once (the emulator: two).
"""

import asyncio
import re
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

from local.grpc_service import Methods, Refused, service
from local.pubsub_push import push_all
from local.pubsub_subscription import PULL_PATIENCE_SECONDS, Message, Subscription

MOST_HELD_BYTES = 256 * 1024 * 1024  # per subscription; beyond it, publishing is refused rather than a message dropped
MOST_MESSAGE_BYTES = 10_000_000
RETENTION_SECONDS = 7 * 24 * 3600  # Google's default

_NAME = re.compile(r"projects/[^/]+/(?:topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
_DELETED_TOPIC = "_deleted-topic_"


class PubSub(AbstractAsyncContextManager["PubSub"]):
    """The embedded Pub/Sub; serves at `address` (`host:port`) while it is entered."""

    def __init__(self) -> None:
        self.address = ""
        self._topics: dict[str, Any] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._pushing: dict[str, asyncio.Task[None]] = {}
        self._last_message_id = 0

    async def __aenter__(self) -> Self:
        """Start to serve on a free port of the loopback interface."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2 * MOST_MESSAGE_BYTES)])
        self._server.add_generic_rpc_handlers(
            (
                service("google.pubsub.v1.Publisher", self._publisher_methods()),
                service("google.pubsub.v1.Subscriber", self._subscriber_methods()),
            )
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop pushing and serving; what was not acknowledged is gone."""
        for task in self._pushing.values():
            task.cancel()
        await asyncio.gather(*self._pushing.values(), return_exceptions=True)
        await self._server.stop(grace=None)
        for subscription in self._subscriptions.values():
            subscription.close()
        await self._http.close()

    def _publisher_methods(self) -> Methods:
        return {
            "CreateTopic": (types.Topic, self._create_topic),
            "GetTopic": (types.GetTopicRequest, lambda request: self._topic(request.topic)),
            "DeleteTopic": (types.DeleteTopicRequest, self._delete_topic),
            "Publish": (types.PublishRequest, self._publish),
        }

    def _subscriber_methods(self) -> Methods:
        return {
            "CreateSubscription": (types.Subscription, self._create_subscription),
            "GetSubscription": (types.GetSubscriptionRequest, lambda request: self._subscription(request).config),
            "DeleteSubscription": (types.DeleteSubscriptionRequest, self._delete_subscription),
            "Pull": (types.PullRequest, self._pull),
            "Acknowledge": (types.AcknowledgeRequest, self._acknowledge),
            "ModifyAckDeadline": (types.ModifyAckDeadlineRequest, self._modify_ack_deadline),
        }

    # Topics

    def _create_topic(self, topic: Any) -> Any:
        _check_name(topic.name)
        if topic.name in self._topics:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, "Topic already exists")
        self._topics[topic.name] = topic
        return topic

    def _topic(self, name: str) -> Any:
        if name not in self._topics:
            raise Refused(grpc.StatusCode.NOT_FOUND, "Topic not found")
        return self._topics[name]

    def _delete_topic(self, request: Any) -> Empty:
        self._topic(request.topic)
        del self._topics[request.topic]
        for subscription in self._subscriptions.values():
            if subscription.config.topic == request.topic:
                subscription.config.topic = _DELETED_TOPIC
        return Empty()

    def _publish(self, request: Any) -> Any:
        self._topic(request.topic)
        if not request.messages:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "No messages to publish")
        if any(not message.data and not message.attributes for message in request.messages):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Some messages are empty")
        if any(len(message.data) > MOST_MESSAGE_BYTES for message in request.messages):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"A message is larger than {MOST_MESSAGE_BYTES} bytes")
        if any(subscription.held_bytes > MOST_HELD_BYTES for subscription in self._subscriptions_of(request.topic)):
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too much is waiting to be acknowledged")
        ids = [self._hand_out(request.topic, message) for message in request.messages]
        return types.PublishResponse.pb()(message_ids=ids)

    def _hand_out(self, topic: str, message: Message) -> str:
        self._last_message_id += 1
        message.message_id = str(self._last_message_id)
        message.publish_time.FromMilliseconds(int(time.time() * 1000))
        for subscription in self._subscriptions_of(topic):
            subscription.offer(message)
        return str(message.message_id)

    def _dead_letter(self, topic: str, message: Message) -> bool:
        if topic not in self._topics:
            return False
        self._hand_out(topic, message)
        return True

    def _subscriptions_of(self, topic: str) -> list[Subscription]:
        return [subscription for subscription in self._subscriptions.values() if subscription.config.topic == topic]

    # Subscriptions

    def _create_subscription(self, config: Any) -> Any:
        _check_name(config.name)
        if config.name in self._subscriptions:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, "Subscription already exists")
        if config.topic not in self._topics:
            raise Refused(grpc.StatusCode.NOT_FOUND, "Subscription topic does not exist")
        config.ack_deadline_seconds = config.ack_deadline_seconds or 10
        if not config.HasField("message_retention_duration"):
            config.message_retention_duration.FromSeconds(RETENTION_SECONDS)
        self._subscriptions[config.name] = subscription = Subscription(config, self._dead_letter)
        if config.push_config.push_endpoint:
            self._pushing[config.name] = asyncio.create_task(push_all(subscription, self._http))
        return config

    def _subscription(self, request: Any) -> Subscription:
        if request.subscription not in self._subscriptions:
            raise Refused(grpc.StatusCode.NOT_FOUND, "Subscription does not exist")
        return self._subscriptions[request.subscription]

    def _delete_subscription(self, request: Any) -> Empty:
        self._subscription(request).close()
        del self._subscriptions[request.subscription]
        if task := self._pushing.pop(request.subscription, None):
            task.cancel()
        return Empty()

    async def _pull(self, request: Any, caller_waits_seconds: float | None) -> Any:
        subscription = self._subscription(request)
        if request.max_messages < 1:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "No max_messages specified")
        # Answer shortly before the caller gives up, so that nothing is leased out to nobody.
        patience_seconds = min(PULL_PATIENCE_SECONDS, (caller_waits_seconds or PULL_PATIENCE_SECONDS) * 0.9)
        leases = await subscription.take(request.max_messages, 0 if request.return_immediately else patience_seconds)
        counted = bool(subscription.config.dead_letter_policy.dead_letter_topic)
        response = types.PullResponse.pb()()
        for lease in leases:
            attempt = lease.attempt if counted else 0
            response.received_messages.add(ack_id=lease.ack_id, message=lease.message, delivery_attempt=attempt)
        return response

    def _acknowledge(self, request: Any) -> Empty:
        subscription = self._subscription(request)
        for ack_id in _checked_ack_ids(subscription, request):
            subscription.acknowledge(ack_id)
        return Empty()

    def _modify_ack_deadline(self, request: Any) -> Empty:
        subscription = self._subscription(request)
        for ack_id in _checked_ack_ids(subscription, request):
            subscription.modify_ack_deadline(ack_id, request.ack_deadline_seconds)
        return Empty()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid name: (name={name})")


def _checked_ack_ids(subscription: Subscription, request: Any) -> list[str]:
    for ack_id in request.ack_ids:
        if not subscription.is_ack_id(ack_id):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid ack id (ack_id={ack_id})")
    return list(request.ack_ids)
