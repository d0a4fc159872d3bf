"""The smoke test, against Google's emulators and the real function: whole, broken, and not there at all."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import pytest
from google.pubsub_v1 import PublisherAsyncClient, PubsubMessage, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from grpc.aio import insecure_channel

from local.stage import Stage
from tests.infra.terraform import ROOT, Plan

_SUBSCRIPTION = "archive-job-retry-smoke"


Clients = tuple[PublisherAsyncClient, SubscriberAsyncClient]


@pytest.fixture
async def clients(pubsub_emulator: str) -> AsyncIterator[Clients]:
    async with insecure_channel(pubsub_emulator) as channel:
        yield (
            PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel)),
            SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel)),
        )


@pytest.fixture
async def stage(pubsub_emulator: str, firestore_emulator: str, clients: Clients) -> AsyncIterator[Stage]:
    async with Stage(pubsub=pubsub_emulator, firestore=firestore_emulator) as stage:
        await clients[1].create_subscription(name=_subscription(stage), topic=_topic(stage), timeout=10)
        yield stage


def _topic(stage: Stage) -> str:
    return f"projects/{stage.project}/topics/archive-job-retry-rejected"


def _subscription(stage: Stage) -> str:
    return f"projects/{stage.project}/subscriptions/{_SUBSCRIPTION}"


async def _smoke(stage: Stage, seconds: float) -> tuple[int, str]:
    """Run the script as the pipeline does; gives its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        ROOT / "infra" / "delivery" / "smoke.py",
        f"--seconds={seconds}",
        env={
            **os.environ,
            "PROJECT_ID": stage.project,
            "BUILD_ID": "build-1",
            "PUBSUB_EMULATOR_HOST": stage.environment["PUBSUB_EMULATOR_HOST"],
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_a_function_that_works_passes(stage: Stage) -> None:
    await stage.start_function()
    code, printed = await _smoke(stage, seconds=30)
    assert (code, stage.google.counts.total()) == (0, 0), printed
    assert "smoke-test-build-1-" in printed
    assert "REAUTHORIZATION_REQUIRED after" in printed


async def test_a_function_that_gives_another_answer_fails(stage: Stage) -> None:
    await stage.start_function(settings={"EVENT_MAX_AGE_DAYS": "0.0000001"})
    code, printed = await _smoke(stage, seconds=30)
    assert code == 1
    assert "was answered with EVENT_EXPIRED, not REAUTHORIZATION_REQUIRED" in printed


async def test_a_function_that_gives_none_fails_in_time_and_says_where_to_look(stage: Stage) -> None:
    code, printed = await _smoke(stage, seconds=2)
    assert code == 1
    assert "No answer" in printed
    assert "gcloud logging read" in printed


async def test_the_rejections_of_real_users_are_left_alone(stage: Stage, clients: Clients) -> None:
    """Google's emulator does not filter, so what is somebody else's really does come along here."""
    theirs = PubsubMessage(data=json.dumps({"archiveJobId": "theirs"}).encode(), attributes={"userId": "somebody"})
    await clients[0].publish(topic=_topic(stage), messages=[theirs], timeout=10)
    await stage.start_function()
    code, printed = await _smoke(stage, seconds=30)
    assert code == 0, printed
    left = await clients[1].pull(subscription=_subscription(stage), max_messages=10, timeout=10)
    assert [json.loads(received.message.data)["archiveJobId"] for received in left.received_messages] == ["theirs"]


def test_it_uses_the_user_the_topic_and_the_subscription_that_infra_makes(plan: Plan) -> None:
    source = (ROOT / "infra" / "delivery" / "smoke.py").read_text()
    smoke = plan.one("pubsub_subscription", _SUBSCRIPTION)
    user = smoke["filter"].partition('"')[2].rstrip('"')
    assert f'USER = "{user}"' in source
    assert f'SUBSCRIPTION = "{_SUBSCRIPTION}"' in source
    assert plan.one("pubsub_subscription", "archive-job-retry-rejected")["filter"] == f"NOT {smoke['filter']}"
    assert f'TOPIC = "{plan.one("pubsub_subscription", "archive-job-failed-push")["topic"]}"' in source
