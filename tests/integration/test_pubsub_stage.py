"""One contract for both: Google's Pub/Sub emulator, and the one that takes its place where that is not installed."""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from google.api_core import exceptions
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types

from local.http_server import HttpServer
from local.processes import free_port
from local.pubsub import PubSub
from local.topics import connected

RPC_SECONDS = 30.0


@dataclass(slots=True)
class World:
    """One project in a Pub/Sub, with the short names of things spelled out."""

    publisher: PublisherAsyncClient
    subscriber: SubscriberAsyncClient
    project: str

    def topic(self, name: str = "topic") -> str:
        return f"projects/{self.project}/topics/{name}"

    def subscription(self, name: str = "subscription") -> str:
        return f"projects/{self.project}/subscriptions/{name}"

    async def create_topic(self, name: str = "topic") -> None:
        await self.publisher.create_topic(name=self.topic(name), timeout=RPC_SECONDS)

    async def create_subscription(self, name: str = "subscription", topic: str = "topic", **settings: Any) -> None:
        request = types.Subscription(name=self.subscription(name), topic=self.topic(topic), **settings)
        await self.subscriber.create_subscription(request=request, timeout=RPC_SECONDS)

    async def publish(self, data: bytes = b"", topic: str = "topic", ordering_key: str = "", **attributes: str) -> str:
        message = types.PubsubMessage(data=data, attributes=attributes, ordering_key=ordering_key)
        response = await self.publisher.publish(topic=self.topic(topic), messages=[message], timeout=RPC_SECONDS)
        return str(response.message_ids[0])

    async def pull(self, name: str = "subscription", *, seconds: float = RPC_SECONDS) -> list[types.ReceivedMessage]:
        """Up to ten messages; waits for the first one."""
        request = types.PullRequest(subscription=self.subscription(name), max_messages=10)
        return list((await self.subscriber.pull(request=request, timeout=seconds)).received_messages)

    async def acknowledge(self, received: types.ReceivedMessage, name: str = "subscription") -> None:
        await self.subscriber.acknowledge(
            subscription=self.subscription(name), ack_ids=[received.ack_id], timeout=RPC_SECONDS
        )

    async def extend(self, received: types.ReceivedMessage, seconds: int, name: str = "subscription") -> None:
        await self.subscriber.modify_ack_deadline(
            subscription=self.subscription(name),
            ack_ids=[received.ack_id],
            ack_deadline_seconds=seconds,
            timeout=RPC_SECONDS,
        )


@pytest.fixture(params=["google", "embedded"])
async def world(request: pytest.FixtureRequest, project: str) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "embedded":
            address = (await stack.enter_async_context(PubSub())).address
        else:
            address = request.getfixturevalue("pubsub_emulator")
        yield World(*await stack.enter_async_context(connected(address)), project)


@dataclass(slots=True)
class Endpoint:
    """An HTTP server that is pushed to: keeps what came, answers what it is told to."""

    url: str = ""
    answer: Callable[[int], int | None] = lambda _: 204  # by the number of the delivery, from 1; None drops it
    together: int = 1  # answers nobody before so many are there
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.at.append(time.monotonic())
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.json())
        number = len(self.bodies)
        self.changed.set()
        await self.wait_for(self.together)
        status = self.answer(number)
        if status is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    async def wait_for(self, deliveries: int) -> None:
        async with asyncio.timeout(30):
            while len(self.bodies) < deliveries:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    server = HttpServer(endpoint.handle)
    await server.start()
    endpoint.url = f"{server.url}/push"
    yield endpoint
    await server.close()


# Topics and subscriptions


async def test_a_topic_can_be_created_once_and_deleted(world: World) -> None:
    await world.create_topic()
    with pytest.raises(exceptions.AlreadyExists):
        await world.create_topic()
    assert (await world.publisher.get_topic(topic=world.topic())).name == world.topic()
    await world.publisher.delete_topic(topic=world.topic())
    with pytest.raises(exceptions.NotFound):
        await world.publisher.get_topic(topic=world.topic())
    with pytest.raises(exceptions.NotFound):
        await world.publisher.delete_topic(topic=world.topic())


@pytest.mark.parametrize("name", ["topic", "projects/p/topics/x", "projects/p/topics/1ab", "projects/p/topics/a b c"])
async def test_a_bad_name_is_refused(world: World, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        await world.publisher.create_topic(name=name)


async def test_a_subscription_can_be_created_once_and_deleted(world: World) -> None:
    await world.create_topic()
    await world.create_subscription(ack_deadline_seconds=33)
    with pytest.raises(exceptions.AlreadyExists):
        await world.create_subscription()
    found = await world.subscriber.get_subscription(subscription=world.subscription())
    assert (found.name, found.topic, found.ack_deadline_seconds) == (world.subscription(), world.topic(), 33)
    assert found.message_retention_duration == timedelta(days=7)
    await world.subscriber.delete_subscription(subscription=world.subscription())
    for call in (world.pull(), world.subscriber.get_subscription(subscription=world.subscription())):
        with pytest.raises(exceptions.NotFound):
            await call


async def test_a_subscription_needs_its_topic(world: World) -> None:
    with pytest.raises(exceptions.NotFound):
        await world.create_subscription()


async def test_a_subscription_survives_its_topic(world: World) -> None:
    await world.create_topic()
    await world.create_subscription()
    await world.publish(b"kept")
    await world.publisher.delete_topic(topic=world.topic())
    found = await world.subscriber.get_subscription(subscription=world.subscription())
    assert found.topic == "_deleted-topic_"
    assert [received.message.data for received in await world.pull()] == [b"kept"]


# Publish and pull


async def test_publishing_needs_the_topic(world: World) -> None:
    with pytest.raises(exceptions.NotFound):
        await world.publish(b"x")


async def test_an_empty_publish_or_message_is_refused(world: World) -> None:
    await world.create_topic()
    with pytest.raises(exceptions.InvalidArgument):
        await world.publish(b"")
    with pytest.raises(exceptions.InvalidArgument):
        await world.publisher.publish(topic=world.topic(), messages=[], timeout=RPC_SECONDS)


async def test_a_message_arrives_whole_at_every_subscription_there_was(world: World) -> None:
    await world.create_topic()
    await world.publish(b"nobody subscribed yet")
    for name in ("one", "two"):
        await world.create_subscription(name)
    before = time.time()
    message_id = await world.publish(b"\x00\xff whole", key="välue", ordering_key="k")
    for name in ("one", "two"):
        [received] = await world.pull(name)
        message = received.message
        assert (message.data, dict(message.attributes)) == (b"\x00\xff whole", {"key": "välue"})
        assert (message.message_id, message.ordering_key) == (message_id, "k")
        assert before - 1 < message.publish_time.timestamp() < time.time() + 1  # type: ignore[attr-defined]


async def test_ten_megabytes_go_through(world: World) -> None:
    await world.create_topic()
    await world.create_subscription()
    await world.publish(b"x" * 10_000_000)
    [received] = await world.pull()
    assert len(received.message.data) == 10_000_000


async def test_a_pull_waits_for_a_message(world: World) -> None:
    await world.create_topic()
    await world.create_subscription()
    pull = asyncio.create_task(world.pull())
    await asyncio.sleep(0.3)
    assert not pull.done()
    await world.publish(b"x")
    assert [received.message.data for received in await pull] == [b"x"]


async def test_what_is_leased_or_acknowledged_is_not_delivered_again(world: World) -> None:
    await world.create_topic()
    await world.create_subscription()
    await world.publish(b"leased")
    [leased] = await world.pull()
    await world.publish(b"acknowledged")
    [done] = await world.pull()
    await world.acknowledge(done)
    await world.acknowledge(done)  # twice is no error
    assert await world.pull(seconds=1.5) == []  # a pull of nothing ends before its deadline
    await world.extend(leased, 0)
    assert [received.message.data for received in await world.pull()] == [b"leased"]


async def test_a_lapsed_lease_is_delivered_again_and_an_extended_one_is_not(world: World) -> None:
    await world.create_topic()
    await world.create_subscription(ack_deadline_seconds=10)
    for data in (b"short", b"long"):
        await world.publish(data)
        [received] = await world.pull()
        await world.extend(received, 1 if data == b"short" else 20)
    assert [received.message.data for received in await world.pull()] == [b"short"]
    assert await world.pull(seconds=1.5) == []


async def test_an_acknowledgement_that_is_none_of_ours_is_refused(world: World) -> None:
    await world.create_topic()
    await world.create_subscription()
    foreign = types.ReceivedMessage(ack_id="rubbish")
    with pytest.raises(exceptions.InvalidArgument):
        await world.acknowledge(foreign)
    with pytest.raises(exceptions.InvalidArgument):
        await world.extend(foreign, 5)
    with pytest.raises(exceptions.NotFound):
        await world.acknowledge(foreign, "absent")


async def test_a_pull_says_how_many_it_wants(world: World) -> None:
    await world.create_topic()
    await world.create_subscription()
    with pytest.raises(exceptions.InvalidArgument):
        await world.subscriber.pull(subscription=world.subscription(), max_messages=0, timeout=RPC_SECONDS)


# Push


async def test_a_push_carries_the_message_in_googles_envelope(world: World, endpoint: Endpoint) -> None:
    await world.create_topic()
    await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
    message_id = await world.publish(b"\x00\xff", key="value")
    await endpoint.wait_for(1)
    [body] = endpoint.bodies
    message = body["message"]
    assert endpoint.headers[0]["Content-Type"] == "application/json"
    assert body["subscription"] == world.subscription()
    assert base64.b64decode(message["data"]) == b"\x00\xff"
    assert message["attributes"] == {"key": "value"}
    assert message["messageId"] == message["message_id"] == message_id
    assert message["publishTime"] == message["publish_time"]
    assert message["publishTime"].endswith("Z")


async def test_a_message_of_attributes_alone_has_no_data_worth_the_name(world: World, endpoint: Endpoint) -> None:
    await world.create_topic()
    await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
    await world.publish(only="attributes")
    await endpoint.wait_for(1)
    assert not endpoint.bodies[0]["message"].get("data")


async def test_an_acknowledging_status_ends_the_delivery(world: World, endpoint: Endpoint) -> None:
    endpoint.answer = lambda number: (200, 201, 204)[number - 1]
    await world.create_topic()
    await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
    for data in (b"one", b"two", b"three"):
        await world.publish(data)
    await endpoint.wait_for(3)
    await asyncio.sleep(1.5)  # the emulator looks for what to deliver again once a second
    assert len({body["message"]["messageId"] for body in endpoint.bodies}) == len(endpoint.bodies) == 3


async def test_any_other_end_is_delivered_again(world: World, endpoint: Endpoint) -> None:
    bad = (302, 400, 404, 500, 503, None)
    endpoint.answer = lambda number: bad[number - 1] if number <= len(bad) else 204
    await world.create_topic()
    await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
    for number in range(len(bad)):
        await world.publish(str(number).encode())
    await endpoint.wait_for(2 * len(bad))
    assert len({body["message"]["messageId"] for body in endpoint.bodies}) == len(bad)


async def test_a_push_slower_than_the_ack_deadline_is_delivered_again(world: World, endpoint: Endpoint) -> None:
    endpoint.together = 2
    await world.create_topic()
    await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url), ack_deadline_seconds=1)
    await world.publish(b"x")
    await endpoint.wait_for(2)


async def test_a_push_endpoint_that_is_down_is_tried_until_it_is_up(world: World, endpoint: Endpoint) -> None:
    port = free_port()
    await world.create_topic()
    await world.create_subscription(push_config=types.PushConfig(push_endpoint=f"http://127.0.0.1:{port}/push"))
    await world.publish(b"x")
    await asyncio.sleep(0.5)
    server = HttpServer(endpoint.handle)
    await server.start(port)
    await endpoint.wait_for(1)
    await server.close()


async def test_a_retry_policy_puts_time_between_deliveries(world: World, endpoint: Endpoint) -> None:
    endpoint.answer = lambda number: 503 if number < 3 else 204
    await world.create_topic()
    await world.create_subscription(
        push_config=types.PushConfig(push_endpoint=endpoint.url),
        retry_policy=types.RetryPolicy(minimum_backoff=timedelta(seconds=1), maximum_backoff=timedelta(seconds=2)),
    )
    await world.publish(b"x")
    await endpoint.wait_for(3)
    assert all(later - earlier >= 1 for earlier, later in zip(endpoint.at[:-1], endpoint.at[1:], strict=True))


async def test_a_message_that_keeps_failing_ends_in_the_dead_letter_topic(world: World, endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: 503
    for topic in ("topic", "dead"):
        await world.create_topic(topic)
    await world.create_subscription("dead", "dead")
    await world.create_subscription(
        push_config=types.PushConfig(push_endpoint=endpoint.url),
        dead_letter_policy=types.DeadLetterPolicy(dead_letter_topic=world.topic("dead"), max_delivery_attempts=5),
    )
    await world.publish(b"poison", key="value")
    [received] = await world.pull("dead")
    message = received.message
    assert len(endpoint.bodies) == 5
    assert message.data == b"poison"
    attributes = dict(message.attributes)
    published = attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    assert published == endpoint.bodies[0]["message"]["publishTime"]
    assert attributes == {
        "key": "value",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": "subscription",
        "CloudPubSubDeadLetterSourceSubscriptionProject": world.project,
    }


# Where the embedded one follows Google Cloud, and the emulator does not


async def test_embedded_a_push_under_a_dead_letter_policy_counts_its_attempts(endpoint: Endpoint, project: str) -> None:
    endpoint.answer = lambda number: 503 if number < 3 else 204
    async with _embedded(project) as world:
        for topic in ("topic", "dead"):
            await world.create_topic(topic)
        await world.create_subscription(
            push_config=types.PushConfig(push_endpoint=endpoint.url),
            dead_letter_policy=types.DeadLetterPolicy(dead_letter_topic=world.topic("dead")),
        )
        await world.publish(b"x", ordering_key="k")
        await endpoint.wait_for(3)
    assert [body["deliveryAttempt"] for body in endpoint.bodies] == [1, 2, 3]
    assert {body["message"]["orderingKey"] for body in endpoint.bodies} == {"k"}


async def test_embedded_a_202_acknowledges(endpoint: Endpoint, project: str) -> None:
    endpoint.answer = lambda _: 202
    async with _embedded(project) as world:
        await world.create_topic()
        await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
        await world.publish(b"x")
        await endpoint.wait_for(1)
        await asyncio.sleep(0.2)
    assert len(endpoint.bodies) == 1


async def test_embedded_what_is_empty_is_left_out_of_a_push(endpoint: Endpoint, project: str) -> None:
    async with _embedded(project) as world:
        await world.create_topic()
        await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
        await world.publish(only="attributes")
        await endpoint.wait_for(1)
    assert set(endpoint.bodies[0]) == {"message", "subscription"}
    assert set(endpoint.bodies[0]["message"]) == {
        "attributes", "messageId", "message_id", "publishTime", "publish_time",
    }  # fmt: skip


async def test_embedded_many_pushes_are_under_way_at_once(endpoint: Endpoint, project: str) -> None:
    endpoint.together = 80
    async with _embedded(project) as world:
        await world.create_topic()
        await world.create_subscription(push_config=types.PushConfig(push_endpoint=endpoint.url))
        messages = [types.PubsubMessage(data=str(number).encode()) for number in range(80)]
        await world.publisher.publish(topic=world.topic(), messages=messages, timeout=RPC_SECONDS)
        await endpoint.wait_for(80)


async def test_embedded_a_message_over_googles_limit_is_refused(project: str) -> None:
    async with _embedded(project) as world:
        await world.create_topic()
        with pytest.raises(exceptions.InvalidArgument):
            await world.publish(b"x" * 10_000_001)


@contextlib.asynccontextmanager
async def _embedded(project: str) -> AsyncIterator[World]:
    async with PubSub() as pubsub, connected(pubsub.address) as clients:
        yield World(*clients, project)
