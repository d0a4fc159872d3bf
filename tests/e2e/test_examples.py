"""The examples, run on the stage as a product would run them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.cloud import pubsub_v1  # type: ignore[attr-defined,import-untyped,unused-ignore]
from google.oauth2.credentials import Credentials

from examples import consume_outcomes, consume_rejections, poll_exports, start_export
from local.function_server import ROOT
from local.scripted import Answer
from local.stage import RESUME, RETRY, WATCH, Stage

FILES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
async def stage(google_cloud: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", google_cloud["pubsub"])
    async with Stage(**google_cloud, tls=False, settings={"WATCH_INTERVAL_SECONDS": "0.1"}) as stage:
        yield stage


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_example_is_under_forty_lines_of_code_and_names_its_role(file: Path) -> None:
    text = file.read_text()
    code = [line for line in re.sub(r'^""".*?"""', "", text, flags=re.DOTALL).splitlines() if line.strip()]
    assert len(code) < 40
    assert "roles/" in text


async def test_started_event_of_the_example_ends_as_complete(stage: Stage) -> None:
    stage.add_user("user")
    stage.google.script_state("job", [Answer(200, {"state": "COMPLETE"})])
    await stage.start_function(target=WATCH)
    schedule = await stage.start_function(target=RESUME)
    publisher = pubsub_v1.PublisherClient()
    await asyncio.to_thread(start_export.publish_started, publisher, stage.project, "job", "user")
    async with aiohttp.ClientSession() as http:
        while not stage.ended:
            await (await http.post(schedule.url)).read()
            await asyncio.sleep(0.2)
    assert "COMPLETE" == stage.ended[0].data["state"]


async def test_failed_job_of_the_poller_is_retried_with_its_grant_and_chain(stage: Stage) -> None:
    token = stage.add_user("second-grant")
    stage.google.script_state("job", [Answer(200, {"state": "FAILED"})])
    await stage.start_function(target=RETRY)
    answer = stage.google.grants.refreshed(token)
    assert isinstance(answer.body, dict)
    user = Credentials(answer.body["access_token"])  # type: ignore[no-untyped-call]
    publisher = pubsub_v1.PublisherClient()
    event = {"archiveJobId": "job", "userId": "user", "credentialId": "second-grant", "rootArchiveJobId": "first"}
    look = poll_exports.look
    said = await asyncio.to_thread(look, publisher, stage.project, event | {"attempt": 1}, user, stage.google.url)
    assert said == "FAILED"
    await stage.until(lambda: stage.follow_ups)
    follow_up = stage.follow_ups[0].data
    assert ("second-grant", "first", 2) == tuple(
        follow_up[name] for name in ("credentialId", "rootArchiveJobId", "attempt")
    )


async def test_rejected_event_is_retried_after_new_consent(stage: Stage) -> None:
    await stage.start_function(target=RETRY)
    await stage.publish({"archiveJobId": "job", "userId": "user"})
    await stage.until(lambda: stage.rejections)
    rejection = stage.rejections[0].data
    assert "ask user for consent (NO_SECRET)" == consume_rejections.what_to_do(rejection)
    stage.add_user("user")
    await asyncio.to_thread(consume_rejections.publish_again, pubsub_v1.PublisherClient(), rejection, stage.project)
    await stage.until(lambda: stage.follow_ups)


@pytest.mark.parametrize(
    ("rejection", "says"),
    [
        ({"reason": "ACCESS_DENIED"}, "ask user for consent (ACCESS_DENIED)"),
        ({"reason": "REAUTHORIZATION_REQUIRED", "cause": "INVALID_GRANT"}, "ask user for consent (INVALID_GRANT)"),
        ({"reason": "MALFORMED_EVENT", "detail": "why"}, "correct the producer: why"),
        ({"reason": "OUTCOME_UNKNOWN"}, "look whether an export of user is running"),
        ({"reason": "RETRY_BUDGET_EXHAUSTED", "callsInDoubt": 2}, "look whether an export of user is running"),
        ({"reason": "RETRY_BUDGET_EXHAUSTED"}, "start a new export for user"),
    ],
)
def test_rejection_says_what_to_do(rejection: dict[str, Any], says: str) -> None:
    assert says == consume_rejections.what_to_do({"userId": "user", **rejection})


class Delivered:
    """A message as the subscriber's client hands it over."""

    def __init__(self, kind: str, event: dict[str, Any]) -> None:
        self.attributes = {"eventType": kind, "dedupKey": "old"}
        if "state" in event:
            self.attributes["state"] = event["state"]
        self.data = json.dumps(event).encode()
        self.acked = False

    def ack(self) -> None:
        self.acked = True


def test_consumer_reads_each_outcome_once(capsys: pytest.CaptureFixture[str]) -> None:
    follow_up = {"archiveJobId": "new", "retriedArchiveJobId": "old", "attempt": 1, "userId": "user"}
    ended = {"archiveJobId": "new", "userId": "user", "state": "COMPLETE", "cause": ""}
    unknown = ended | {"state": "UNKNOWN", "cause": "INVALID_GRANT"}
    events = ("archive-job-retried", follow_up), ("archive-job-ended", unknown), ("archive-job-ended", ended)
    messages = [Delivered(*event) for event in events * 2]
    for message in messages:
        consume_outcomes.handle(message)
    said = (
        "old goes on as new, retry 1",
        "new of user has ended: UNKNOWN INVALID_GRANT",
        "new of user has ended: COMPLETE",
    )
    assert list(said) == capsys.readouterr().out.splitlines()
    assert all(message.acked for message in messages)


def test_rejection_that_follows_new_consent_is_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"archiveJobId": "old", "userId": "user", "reason": "REAUTHORIZATION_REQUIRED"}
    for cause, at in (("NO_SECRET", "2026-11-23T18:00:00Z"), ("INVALID_GRANT", "2026-11-24T18:00:00Z")) * 2:
        message = Delivered("archive-job-retry-rejected", known | {"cause": cause, "rejectedAt": at})
        consume_rejections.handle(message)
        assert message.acked
    said = [f"old: ask user for consent ({cause})" for cause in ("NO_SECRET", "INVALID_GRANT")]
    assert said == capsys.readouterr().out.splitlines()
