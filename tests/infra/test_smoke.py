"""The smoke test: against Google's emulator and the real function, and against a double of Pub/Sub that misbehaves."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from google.pubsub_v1 import PublisherAsyncClient, PubsubMessage, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from grpc.aio import insecure_channel

from infra.delivery import smoke
from local.stage import Stage
from tests.infra.pubsub import PubSub, received
from tests.infra.terraform import ROOT, Plan

Clients = tuple[PublisherAsyncClient, SubscriberAsyncClient]


def _smoke(project: str, emulator: str, seconds: float) -> tuple[int, str]:
    """Run the script as the pipeline does, without any package; gives its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-IS", ROOT / "infra" / "delivery" / "smoke.py", f"--seconds={seconds}"],
        env={**os.environ, "PROJECT_ID": project, "BUILD_ID": "build-1", "PUBSUB_EMULATOR_HOST": emulator},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
async def clients(pubsub_emulator: str) -> AsyncIterator[Clients]:
    async with insecure_channel(pubsub_emulator) as channel:
        yield (
            PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel)),
            SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel)),
        )


async def test_a_function_that_works_passes_and_others_rejections_are_left_alone(
    pubsub_emulator: str, firestore_emulator: str, clients: Clients
) -> None:
    """Google's emulator does not filter, so what is somebody else's really does come along here."""
    async with Stage(pubsub=pubsub_emulator, firestore=firestore_emulator) as stage:
        topic = f"projects/{stage.project}/topics/archive-job-retry-rejected"
        subscription = f"projects/{stage.project}/subscriptions/{smoke.SUBSCRIPTION}"
        await clients[1].create_subscription(name=subscription, topic=topic, timeout=10)
        theirs = PubsubMessage(data=b'{"archiveJobId": "theirs"}', attributes={"userId": "somebody"})
        await clients[0].publish(topic=topic, messages=[theirs], timeout=10)
        stage.add_user(smoke.CANARY, consents=False)
        await stage.start_function()
        code, printed = await asyncio.to_thread(_smoke, stage.project, stage.environment["PUBSUB_EMULATOR_HOST"], 30)
        left = await clients[1].pull(subscription=subscription, max_messages=10, timeout=10)
    assert [json.loads(received.message.data)["archiveJobId"] for received in left.received_messages] == ["theirs"]
    assert "smoke-test-build-1-" in printed
    assert code == 0, printed
    assert "REAUTHORIZATION_REQUIRED INVALID_GRANT after" in printed


_RIGHT = {"reason": "REAUTHORIZATION_REQUIRED", "cause": "INVALID_GRANT"}


def test_the_answer_that_google_gives_to_the_canary_passes(pubsub: PubSub) -> None:
    pubsub.rejection = _RIGHT
    code, printed = _smoke("p", pubsub.address, 20)
    assert code == 0, printed
    event = json.loads(base64.b64decode(pubsub.calls[0][1]["messages"][0]["data"]))
    assert (event["userId"], event["credentialId"]) == (smoke.CANARY, smoke.CANARY)
    assert pubsub.calls[-1] == ("/v1/projects/p/subscriptions/archive-job-retry-smoke:acknowledge", {"ackIds": ["a"]})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"reason": "EVENT_EXPIRED", "cause": "", "detail": "Too old."}, "EVENT_EXPIRED, not REAUTHORIZATION_REQUIRED"),
        ({**_RIGHT, "cause": "NO_SECRET"}, "REAUTHORIZATION_REQUIRED NO_SECRET, not"),
    ],
)
def test_another_answer_fails(answer: dict[str, object], said: str, pubsub: PubSub) -> None:
    pubsub.rejection = answer
    code, printed = _smoke("p", pubsub.address, 20)
    assert (code, said in printed) == (1, True)


def test_no_answer_fails_in_time_and_says_where_to_look(pubsub: PubSub) -> None:
    code, printed = _smoke("p", pubsub.address, 1)
    assert code == 1
    assert "No answer" in printed
    assert "gcloud logging read" in printed
    assert "make ops ARGS='check --project p" in printed


def test_rights_that_are_minutes_old_are_waited_for(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    pubsub.rejection, pubsub.refusals = _RIGHT, 3
    assert "as it should be" in smoke.check("p", "build-1", 20)
    assert ["publish"] * 4 == [path.rpartition(":")[2] for path, _ in pubsub.calls[:4]]


def test_rights_that_never_come_fail_with_pub_subs_words(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    pubsub.refusals = 1_000_000
    with pytest.raises(smoke.Failed, match="not authorized"):
        smoke.check("p", "build-1", 0.3)


@pytest.mark.parametrize("fault", ["disconnected", "reset", "cut off", "no JSON"])
def test_a_call_that_breaks_off_is_made_again(fault: str, pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    pubsub.rejection, pubsub.faults = _RIGHT, {"pull": [fault, fault]}
    assert "as it should be" in smoke.check("p", "build-1", 20)
    assert ["pull"] * 3 == [path.rpartition(":")[2] for path, _ in pubsub.calls[1:4]]


def test_an_answer_that_is_there_counts_though_its_acknowledgement_breaks_off(
    pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been carried out, and then the answer does not come again."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    pubsub.rejection, pubsub.faults = _RIGHT, {"acknowledge": ["disconnected"]}
    assert "as it should be" in smoke.check("p", "build-1", 20)
    assert 3 == len(pubsub.calls)


def test_what_another_smoke_test_waits_for_goes_back_and_what_nobody_waits_for_does_not(
    pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    pubsub.rejection = _RIGHT
    answer = base64.b64encode(b'{"archiveJobId": "smoke-test-of-another"}').decode()
    pubsub.others = [
        received("another's", answer, userId=smoke.CANARY),
        received("given up", answer, hours_ago=1.1, userId=smoke.CANARY),
        received("probe", answer, userId=smoke.CANARY, eventType="schema-probe"),
        received("no test's", base64.b64encode(b"no JSON").decode(), hours_ago=100, userId="somebody"),
    ]
    assert "as it should be" in smoke.check("p", "build-1", 20)
    (back, given_back), (gone, acknowledged) = pubsub.calls[2:]
    assert (back.rpartition(":")[2], gone.rpartition(":")[2]) == ("modifyAckDeadline", "acknowledge")
    assert given_back == {"ackIds": ["another's", "no test's"], "ackDeadlineSeconds": 0}
    assert acknowledged == {"ackIds": ["given up", "probe", "a"]}


def test_it_uses_the_credential_the_topic_and_the_subscription_that_are_made(plan: Plan) -> None:
    assert smoke.CANARY == plan.function()["environment_variables"]["CANARY_CREDENTIAL"]
    assert smoke.TOPIC == plan.one("pubsub_subscription", "archive-job-failed-push")["topic"]
    own = plan.one("pubsub_subscription", smoke.SUBSCRIPTION)
    assert own["filter"] == f'attributes.userId = "{smoke.CANARY}"'
    assert plan.one("pubsub_subscription", "archive-job-retry-rejected")["filter"] == f"NOT {own['filter']}"
