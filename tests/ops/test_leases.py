"""What a real Pub/Sub may do at any time and an emulator hardly ever does, by a client that does it on purpose."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from google.api_core.exceptions import DeadlineExceeded, PermissionDenied, ServiceUnavailable
from google.pubsub_v1.types import PubsubMessage, PullResponse, ReceivedMessage

from handlers.domain.outcomes import Misconfigured, Transient
from ops.leases import LEASE_SECONDS, Leases
from ops.messages import PendingMessage
from ops.redrive import Discard

Delivery = tuple[str, str]  # message id and ack id
NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
PATIENCE = 0.3
LATE: Exception = DeadlineExceeded("nothing")  # type: ignore[no-untyped-call]
DENIED: Exception = PermissionDenied("no")  # type: ignore[no-untyped-call]
DOWN: Exception = ServiceUnavailable("later")  # type: ignore[no-untyped-call]


class FakeSubscriber:
    """Hands out what it is told to, pull by pull, and keeps what it is answered."""

    def __init__(self, *pulls: list[Delivery] | Exception) -> None:
        self.pulls = list(pulls)
        self.acknowledged: list[str] = []
        self.deadlines: list[tuple[int, list[str]]] = []
        self.failure: Exception | None = None
        self.acknowledging = asyncio.Event()  # it has begun
        self.answering = asyncio.Event()  # it may end
        self.answering.set()

    async def pull(self, request: Any, *, timeout: float, **_: Any) -> PullResponse:  # noqa: ASYNC109 Google's own
        if not self.pulls:
            await asyncio.sleep(timeout)
            raise LATE
        pulled = self.pulls.pop(0)
        if isinstance(pulled, Exception):
            raise pulled
        received = [ReceivedMessage(ack_id=ack, message=PubsubMessage(message_id=name)) for name, ack in pulled]
        return PullResponse(received_messages=received)

    async def acknowledge(self, *, ack_ids: list[str], **_: Any) -> None:
        self.acknowledging.set()
        await self.answering.wait()
        self.acknowledged += ack_ids

    async def modify_ack_deadline(self, *, ack_ids: list[str], ack_deadline_seconds: int, **_: Any) -> None:
        if self.failure:
            raise self.failure
        self.deadlines.append((ack_deadline_seconds, ack_ids))


def leases(client: Any, **settings: Any) -> Leases:
    async def connected() -> Any:
        return client

    return Leases(connected, "a-project", "a-subscription", **settings)


async def pulled(held: Leases) -> list[str]:
    return [message.message_id for message in await held.pull(PATIENCE)]


async def test_message_twice_in_one_pull_is_one_message() -> None:
    client = FakeSubscriber([("1", "first"), ("1", "second")])
    async with leases(client) as held:
        assert ["1"] == await pulled(held)
        await held.acknowledge(["1"])
    assert ["second"] == client.acknowledged


async def test_message_handed_out_twice_is_answered_by_its_latest_delivery() -> None:
    client = FakeSubscriber([("1", "first")], [("1", "second"), ("2", "other")], [("2", "latest")])
    async with leases(client) as held:
        assert [["1"], ["2"], []] == [await pulled(held) for _ in range(3)]
        await held.acknowledge(["1"])
        await held.release(["2"])
    assert (["second"], [(0, ["latest"])]) == (
        client.acknowledged,
        [answer for answer in client.deadlines if answer[0] == 0],
    )


async def test_redelivery_after_acknowledgement_is_acknowledged_again() -> None:
    client = FakeSubscriber([("1", "first")])
    async with leases(client) as held:
        await pulled(held)
        await held.acknowledge(["1"])
        client.pulls.append([("1", "again")])
        assert [] == await pulled(held)
    assert ["first", "again"] == client.acknowledged


async def test_discard_that_is_stopped_counts_the_acknowledgement_under_way() -> None:
    client = FakeSubscriber([("1", "ack")])
    client.answering.clear()
    async with leases(client) as held:
        work = Discard(held)
        messages = [PendingMessage(message_id=name, arrived_at=NOW, reason="") for name in await pulled(held)]
        running = asyncio.create_task(work.run(messages, lambda _: None))
        await client.acknowledging.wait()
        running.cancel()
        asyncio.get_running_loop().call_soon(client.answering.set)
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (["ack"], messages) == (client.acknowledged, work.handled)
    assert [] == [answer for answer in client.deadlines if answer[0] == 0]


async def test_pulled_message_is_leased_and_its_lease_renewed() -> None:
    client = FakeSubscriber([("1", "ack")])
    async with leases(client, renewed_every=0.05) as held:
        await pulled(held)
        assert (LEASE_SECONDS, ["ack"]) == client.deadlines[0]
        await asyncio.sleep(0.2)
    assert client.deadlines.count((LEASE_SECONDS, ["ack"])) >= 2
    assert (0, ["ack"]) == client.deadlines[-1]


async def test_failed_renewal_ends_nothing() -> None:
    client = FakeSubscriber([("1", "ack")])
    async with leases(client, renewed_every=0.05) as held:
        await pulled(held)
        client.failure = DENIED
        await asyncio.sleep(0.1)
        await held.acknowledge(["1"])
    assert ["ack"] == client.acknowledged


async def test_failed_release_is_tried_again_on_leaving() -> None:
    client = FakeSubscriber([("1", "ack")])
    async with leases(client) as held:
        await pulled(held)
        client.failure = DENIED
        with pytest.raises(Misconfigured):
            await held.release(["1"])
        client.failure = None
    assert (0, ["ack"]) == client.deadlines[-1]


async def test_empty_pull_is_repeated_within_the_patience() -> None:
    async with leases(FakeSubscriber([], [("1", "ack")])) as held:
        assert ["1"] == await pulled(held)


@pytest.mark.parametrize(("error", "fault"), [(DENIED, Misconfigured), (DOWN, Transient)])
async def test_refused_pull_is_a_fault_that_names_the_subscription(error: Exception, fault: type[Exception]) -> None:
    async with leases(FakeSubscriber(error)) as held:
        with pytest.raises(fault, match="reading projects/a-project/subscriptions/a-subscription"):
            await pulled(held)
