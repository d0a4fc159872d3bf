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

from examples import consume_outcomes, consume_rejections, poll_exports, start_export, store_consent
from handlers.domain.outcomes import Cause, Reason
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
    await asyncio.to_thread(store_consent.publish_again, pubsub_v1.PublisherClient(), rejection, stage.project)
    await stage.until(lambda: stage.follow_ups)


_START = "start a new export for user; where the answer is 409, publish the job in its metadata.job_id as started"
_LOOK = "look at the state of job: it runs: publish it as started; COMPLETE: download it; else a new export"


@pytest.mark.parametrize(
    ("rejection", "says"),
    [
        ({"reason": "ACCESS_DENIED"}, "ask user for consent (ACCESS_DENIED)"),
        ({"reason": "REAUTHORIZATION_REQUIRED"}, "ask user for consent (REAUTHORIZATION_REQUIRED)"),
        ({"reason": "REAUTHORIZATION_REQUIRED", "cause": "INVALID_GRANT"}, "ask user for consent (INVALID_GRANT)"),
        ({"reason": "REAUTHORIZATION_REQUIRED", "cause": "ADMIN_POLICY"}, "ask the administrator of user"),
        ({"reason": "REAUTHORIZATION_REQUIRED", "cause": "NEW"}, "a person looks at NEW: why"),
        ({"reason": "MALFORMED_EVENT"}, "correct the producer: why"),
        ({"reason": "JOB_NOT_RETRYABLE", "cause": ""}, _LOOK),
        ({"reason": "OUTCOME_UNKNOWN"}, "a person looks at OUTCOME_UNKNOWN: why"),
        ({"reason": "RETRY_BUDGET_EXHAUSTED", "callsInDoubt": 2}, _START),
        ({"reason": "NEW"}, "a person looks at NEW: why"),
    ],
)
def test_rejection_says_what_to_do(rejection: dict[str, Any], says: str) -> None:
    assert says == consume_rejections.what_to_do({"archiveJobId": "job", "userId": "user", "detail": "why"} | rejection)


def test_every_reason_and_cause_has_something_to_do_but_what_a_person_decides() -> None:
    assert {*Reason, *Cause} - {Reason.OUTCOME_UNKNOWN} == consume_rejections.WHAT_TO_DO.keys()


class Delivered:
    """A message as the subscriber's client hands it over."""

    def __init__(self, event: dict[str, Any], **attributes: str) -> None:
        self.attributes = attributes
        self.data = json.dumps(event).encode()
        self.acked = False

    def ack(self) -> None:
        self.acked = True


def test_consumer_reads_each_outcome_once(capsys: pytest.CaptureFixture[str]) -> None:
    follow_up = {"archiveJobId": "new", "retriedArchiveJobId": "old", "attempt": 1, "userId": "user"}
    ended = {
        "archiveJobId": "new",
        "userId": "user",
        "state": "COMPLETE",
        "cause": "",
        "endedAt": "2026-11-23T18:00:00Z",
    }
    unknown = ended | {"state": "UNKNOWN", "cause": "INVALID_GRANT"}
    later = unknown | {"cause": "NO_SCOPE", "endedAt": "2026-11-24T18:00:00Z"}
    latest = unknown | {"endedAt": "2026-11-25T18:00:00Z"}
    messages = [Delivered(follow_up, eventType="archive-job-retried", dedupKey="old") for _ in range(2)]
    messages += [
        Delivered(event, eventType="archive-job-ended", dedupKey="new", state=event["state"])
        for event in (unknown, later, ended, ended | {"endedAt": "2026-11-24T18:00:00Z"}, unknown, later, latest)
    ]
    for message in messages:
        consume_outcomes.handle(message)
    said = (
        "old goes on as new, retry 1",
        "new of user has ended: UNKNOWN INVALID_GRANT",
        "new of user has ended: UNKNOWN NO_SCOPE",
        "new of user has ended: COMPLETE",
    )
    assert list(said) == capsys.readouterr().out.splitlines()
    assert all(message.acked for message in messages)


def _rejected(job_id: str, cause: str, rejected_at: str, **other: str) -> Delivered:
    known = {"archiveJobId": job_id, "userId": "user", "reason": "REAUTHORIZATION_REQUIRED", "detail": "why"}
    event = known | {"cause": cause, "rejectedAt": rejected_at} | other
    return Delivered(event, eventType="archive-job-retry-rejected", dedupKey=job_id)


def test_later_rejection_counts_and_copies_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (f"2026-11-2{day}T18:00:00.000Z" for day in (3, 4, 5))
    in_order_of_arrival = ("NO_SECRET", first), ("INVALID_GRANT", third), ("NO_SCOPE", second)
    for cause, rejected_at in in_order_of_arrival * 2:
        message = _rejected("old", cause, rejected_at)
        consume_rejections.handle(message)
        assert message.acked
    said = [f"old: ask user for consent ({cause})" for cause in ("NO_SECRET", "INVALID_GRANT")]
    assert said == capsys.readouterr().out.splitlines()


def test_malformed_event_leaves_other_rejections_of_its_job(capsys: pytest.CaptureFixture[str]) -> None:
    consume_rejections.handle(_rejected("job", "", "2026-11-27T18:00:00.000Z", reason="MALFORMED_EVENT"))
    consume_rejections.handle(_rejected("job", "NO_SECRET", "2026-11-26T18:00:00.000Z"))
    said = ["job: correct the producer: why", "job: ask user for consent (NO_SECRET)"]
    assert said == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("consumer", [consume_outcomes, consume_rejections])
def test_schema_probe_is_acknowledged_and_not_read(consumer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe = Delivered({"archiveJobId": "", "attempt": 0}, eventType="schema-probe", userId="deployment-smoke-test")
    consumer.handle(probe)
    assert (True, "") == (probe.acked, capsys.readouterr().out)
