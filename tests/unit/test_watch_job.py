"""The watch: when it looks, what it makes of Google's answer, and what duplicates, faults and deaths leave behind."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.domain.outcomes import Ended, Fault, Outcome, Rejected, Resumed, RetryLater, Watching
from local.foreign_answers import TO_LOOK
from local.grants import MARK
from local.stage import WATCH
from local.state_answers import SIGNED_URL
from tests.unit.fakes import (
    START,
    TOKEN_URI,
    Answer,
    PublishesAs,
    Step,
    cooldown,
    detail,
    die,
    error_info,
    google_error,
    grpc_error,
)
from tests.unit.instance import Instance, LogLines, failed, later, push

STARTED, ENDED, FAILED, REJECTED = (
    "archive-job-started",
    "archive-job-ended",
    "archive-job-failed",
    "archive-job-retry-rejected",
)
INTERVAL, HOUR, DAY = 300.0, 3600.0, 86_400.0
INVALID_GRANT: Answer = (400, {"error": "invalid_grant"})
AT_START = "2026-11-23T18:00:00.000Z"


def started(job: str = "job", *, ago: float = 0.0, **fields: Any) -> dict[str, Any]:
    """A started event. `ago`: so many seconds before START it says that the job was started."""
    moment = {"startedAt": later(-ago).isoformat().replace("+00:00", "Z")} if ago else {}
    return {"archiveJobId": job, "userId": "alice"} | moment | fields


def says(state: str, **more: Any) -> Answer:
    """Google's word on a job, with signed URLs in any case."""
    return 200, {"name": "archiveJobs/job/portabilityArchiveState", "state": state, "urls": [SIGNED_URL], **more}


async def put_back(instance: Instance) -> Outcome:
    """One run of the schedule, and the delivery of the one message that it put back."""
    assert Resumed(1) == await instance.resume()
    topic, message = instance.topics.messages[-1]
    assert STARTED == topic
    known = {"attributes": dict(message.attributes), "published_at": instance.clock()}
    return await instance.watch(message.data, **known)


async def first_look(instance: Instance, *answers: Step, ago: float = 0.0, **fields: Any) -> Outcome:
    """What comes of the first look at a job that was started so many seconds before."""
    instance.http.state_scripts["job"] = list(answers)
    await instance.watch(started(ago=ago, **fields))
    instance.clock.wait(INTERVAL)
    return await put_back(instance)


async def kept(instance: Instance) -> dict[str, Any]:
    """The event in the watch's collection."""
    entry = await instance.watched()
    assert entry
    found: dict[str, Any] = json.loads(entry.event)
    return found


def told(instance: Instance) -> list[dict[str, Any]]:
    """The ended events."""
    return instance.published(ENDED)


def came_out(instance: Instance) -> list[str]:
    """The topics of the messages to the product and to the retries."""
    return [topic for topic, _ in instance.topics.messages if topic != STARTED]


# when it looks


async def test_started_event_is_kept_and_nobody_is_asked(instance: Instance) -> None:
    assert Watching(later(INTERVAL)) == await instance.watch(started())
    assert ([], []) == (instance.http.requests, instance.topics.messages)


async def test_first_look_is_put_back_after_the_interval_and_not_before(instance: Instance) -> None:
    await instance.watch(started(theirs=1), attributes={"own": "attribute"})
    instance.clock.wait(INTERVAL - 1)
    assert Resumed(0) == await instance.resume()
    instance.clock.wait(1)
    assert Resumed(1) == await instance.resume()
    assert [started(theirs=1, startedAt=AT_START)] == instance.published(STARTED)
    assert [{"own": "attribute"}] == instance.attributes(STARTED)


async def test_interval_counts_from_the_publish_time(instance: Instance) -> None:
    instance.clock.wait(200)
    assert Watching(later(INTERVAL)) == await instance.watch(started())


@pytest.mark.parametrize(
    ("age", "wait"), [(300, 300), (599, 300), (602, 301), (2000, 1000), (2 * HOUR, 3000), (10 * DAY, 3000)]
)
async def test_next_look_comes_after_half_of_the_age_within_bounds(instance: Instance, age: float, wait: float) -> None:
    outcome = await first_look(instance, says("IN_PROGRESS"), ago=age - INTERVAL)
    assert Watching(later(INTERVAL + wait)) == outcome
    assert ["job"] == instance.http.looks


@pytest.mark.parametrize(("interval", "wait"), [(10.0, 150.0), (4000.0, 4000.0)])
async def test_interval_is_the_least_wait_whatever_the_age(interval: float, wait: float) -> None:
    instance = Instance(WATCH_INTERVAL_SECONDS=str(interval))
    await instance.watch(started(ago=300 - interval if interval < 300 else 0))
    instance.clock.wait(interval)
    assert Watching(later(interval + wait)) == await put_back(instance)


async def test_looks_at_a_job_of_two_days_are_as_many_as_the_formula_gives(instance: Instance) -> None:
    await instance.watch(started())
    while instance.clock() < later(2 * DAY):
        entry = await instance.watched()
        assert entry
        assert entry.not_before
        instance.clock.now = entry.not_before
        await put_back(instance)
    assert 64 == len(instance.http.looks)  # 300, 600, 900, 1350 … s, and then every 50 minutes
    assert [] == came_out(instance)


# what is kept


@pytest.mark.parametrize(
    ("fields", "moment"),
    [
        ({"startedAt": "2026-11-23T17:00:00Z"}, "2026-11-23T17:00:00Z"),
        ({"startedAt": "2026-11-23T17:00:00Z", "retriedAt": "2026-11-23T16:00:00Z"}, "2026-11-23T17:00:00Z"),
        ({"retriedAt": "2026-11-23T16:00:00.000Z"}, "2026-11-23T16:00:00.000Z"),
        ({"startedAt": None}, AT_START),
        ({}, AT_START),
    ],
)
async def test_kept_event_tells_when_the_job_was_started(
    instance: Instance, fields: dict[str, Any], moment: str
) -> None:
    await instance.watch(started(**fields))
    assert moment == (await kept(instance))["startedAt"]
    instance.clock.wait(DAY)
    await put_back(instance)
    assert moment == (await kept(instance))["startedAt"]


@pytest.mark.parametrize("name", ["startedAt", "retriedAt"])
@pytest.mark.parametrize("time", ["2026-11-23T18:00:01Z", "2999-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_time_after_the_first_publish_counts_as_that(instance: Instance, name: str, time: str) -> None:
    await instance.watch(started() | {name: time})
    for wait in (300, 300, 450):
        assert AT_START == (await kept(instance))["startedAt"]
        instance.clock.wait(wait)
        await put_back(instance)
    instance.clock.wait(15 * DAY)
    assert Ended("UNKNOWN") == await put_back(instance)


async def test_event_without_any_time_is_as_old_as_its_first_delivery(instance: Instance) -> None:
    await instance.watch(started(), published_at=None)
    instance.clock.wait(INTERVAL)
    await put_back(instance)
    assert started(startedAt=AT_START) == await kept(instance)


async def test_publish_time_far_ahead_puts_no_look_off(instance: Instance) -> None:
    """Only who invokes the function by hand can say such a time."""
    ahead = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert Watching(later(HOUR + INTERVAL)) == await instance.watch(started(), published_at=ahead)


async def test_event_too_large_for_the_collection_is_kept_without_what_nobody_reads(instance: Instance) -> None:
    await instance.watch(started(theirs="x" * 950_000, attempt=1, rootArchiveJobId="first"))
    expected = started(credentialId="alice", attempt=1, rootArchiveJobId="first", startedAt=AT_START)
    assert expected == await kept(instance)


async def test_follow_up_is_a_started_event(instance: Instance) -> None:
    await instance.deliver()
    [follow_up] = instance.published("archive-job-retried")
    assert Watching(later(INTERVAL)) == await instance.watch(follow_up)
    instance.http.state_scripts["job-again"] = [says("FAILED")]
    instance.clock.wait(INTERVAL)
    assert Ended("FAILED") == await put_back(instance)
    expected = {"archiveJobId": "job-again", "userId": "alice", "credentialId": "alice"}
    assert [expected | {"rootArchiveJobId": "job", "attempt": 1}] == instance.published(FAILED)


async def test_watch_has_a_collection_of_its_own() -> None:
    instance = Instance(RETRY_LEDGER="firestore", RETRY_LEDGER_COLLECTION="retries")
    await instance.watch(started())
    await instance.deliver(failed())
    documents = sorted("/".join(name.split("/")[-2:]) for name in instance.documents.documents)
    assert ["retries/job", "retries/job-again", "retriesWatch/job"] == documents


@pytest.mark.parametrize(("watch", "collections"), [("on", ["retries", "retriesWatch"]), ("off", ["retries"])])
async def test_schedule_asks_for_looks_only_with_the_watch_on(watch: str, collections: list[str]) -> None:
    instance = Instance(RETRY_LEDGER="firestore", RETRY_LEDGER_COLLECTION="retries", WATCH=watch)
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    assert Resumed(len(collections) - 1) == await instance.resume()
    assert collections == sorted(set(instance.documents.queried))


# what Google says


@pytest.mark.parametrize("state", ["COMPLETE", "CANCELLED"])
async def test_end_is_told_with_all_fields(instance: Instance, state: str) -> None:
    outcome = await first_look(instance, says(state, exportTime="2026-11-23T18:03:00.5Z"))
    assert Ended(state) == outcome
    assert [
        {
            "archiveJobId": "job",
            "rootArchiveJobId": "job",
            "userId": "alice",
            "credentialId": "alice",
            "attempt": 0,
            "state": state,
            "cause": "",
            "endedAt": "2026-11-23T18:03:00.500Z",
        }
    ] == told(instance)
    assert [
        {"eventType": "archive-job-ended", "state": state, "userId": "alice", "dedupKey": "job"}
    ] == instance.attributes(ENDED)
    assert [ENDED] == came_out(instance)
    instance.clock.wait(DAY)
    assert Resumed(0) == await instance.resume()


@pytest.mark.parametrize("time", [{}, {"exportTime": "yesterday"}, {"exportTime": 5}])
async def test_end_without_a_time_is_that_of_the_look(instance: Instance, time: dict[str, Any]) -> None:
    await first_look(instance, says("COMPLETE", **time))
    assert ["2026-11-23T18:05:00.000Z"] == [event["endedAt"] for event in told(instance)]


async def test_end_names_chain_and_credential_as_they_came(instance: Instance) -> None:
    instance.grant("second", f"{MARK}-refresh-second")
    await first_look(instance, says("COMPLETE"), rootArchiveJobId="first", attempt=2, credentialId="second")
    [event] = told(instance)
    assert ("first", 2, "second") == (event["rootArchiveJobId"], event["attempt"], event["credentialId"])


@pytest.mark.parametrize("chain", [{}, {"rootArchiveJobId": "first", "attempt": 2}])
async def test_failed_job_becomes_a_failed_event(instance: Instance, chain: dict[str, Any]) -> None:
    assert Ended("FAILED") == await first_look(instance, says("FAILED"), **chain)
    expected = {"archiveJobId": "job", "userId": "alice", "credentialId": "alice", "attempt": 0}
    assert [expected | chain] == instance.published(FAILED)
    assert [FAILED] == came_out(instance)


@pytest.mark.parametrize(
    "state", ["IN_PROGRESS", "STATE_UNSPECIFIED", "A_NEW_STATE", "UNKNOWN", "", None, 7, "FAILED too"]
)
async def test_any_other_state_is_looked_at_again(instance: Instance, state: Any) -> None:
    assert Watching(later(2 * INTERVAL)) == await first_look(instance, says(state))
    assert [] == came_out(instance)


REFUSALS = [
    (google_error(403, "PERMISSION_DENIED"), "ACCESS_DENIED"),
    (google_error(404, "NOT_FOUND"), "JOB_NOT_FOUND"),
    (google_error(400, "INVALID_ARGUMENT"), "JOB_NOT_RETRYABLE"),
    (google_error(401, "UNAUTHENTICATED", error_info("ACCOUNT_STATE_INVALID")), "ACCOUNT_STATE"),
    (google_error(429, "RESOURCE_EXHAUSTED", error_info("RESOURCE_EXHAUSTED_ONE_TIME")), "ONE_TIME_GRANT_USED"),
]


@pytest.mark.parametrize(("answer", "cause"), REFUSALS)
async def test_refusal_ends_the_watch_only_after_the_first_hour(instance: Instance, answer: Answer, cause: str) -> None:
    assert isinstance(await first_look(instance, answer, ago=HOUR - INTERVAL - 1), Watching)
    assert [] == came_out(instance)
    instance.clock.wait(HOUR)
    assert Ended("UNKNOWN", cause) == await put_back(instance)
    assert [("UNKNOWN", cause, "2026-11-23T19:05:00.000Z")] == [
        (event["state"], event["cause"], event["endedAt"]) for event in told(instance)
    ]
    assert ["UNKNOWN"] == [attributes["state"] for attributes in instance.attributes(ENDED)]


async def test_refusal_at_the_end_of_the_first_hour_ends_the_watch(instance: Instance) -> None:
    outcome = await first_look(instance, google_error(404, "NOT_FOUND"), ago=HOUR - INTERVAL)
    assert Ended("UNKNOWN", "JOB_NOT_FOUND") == outcome


async def test_job_that_is_not_there_at_first_is_looked_at_until_it_ends(instance: Instance) -> None:
    await first_look(instance, google_error(404, "NOT_FOUND"), says("IN_PROGRESS"), says("COMPLETE"))
    for outcome in (Watching(later(900)), Ended("COMPLETE")):
        instance.clock.wait(INTERVAL)
        assert outcome == await put_back(instance)


@pytest.mark.parametrize(
    ("secret", "tokens", "cause"),
    [
        (None, [], "NO_SECRET"),
        (b"", [], "NO_REFRESH_TOKEN"),
        (grpc_error("FAILED_PRECONDITION", "is in DISABLED state"), [], "SECRET_DISABLED"),
        (f"{MARK}-refresh", [INVALID_GRANT], "INVALID_GRANT"),
        (f"{MARK}-refresh", [(400, {"error": "admin_policy_enforced"})], "ADMIN_POLICY"),
    ],
)
async def test_withdrawn_consent_ends_the_watch_after_the_first_hour(
    instance: Instance, secret: Any, tokens: list[Step], cause: str
) -> None:
    instance.secrets.secrets.pop("dataportability-refresh-token-alice")
    if secret is not None:
        instance.replace_secret("alice", secret)
    instance.http.token_script = tokens
    assert isinstance(await first_look(instance, says("COMPLETE")), Watching)
    instance.clock.wait(HOUR)
    assert Ended("UNKNOWN", cause) == await put_back(instance)
    assert [] == instance.http.looks


@pytest.mark.parametrize(("age", "outcome"), [(15 * DAY - 1, Watching), (15 * DAY, Ended)])
async def test_job_without_an_end_is_given_up_after_fifteen_days(instance: Instance, age: float, outcome: type) -> None:
    assert outcome is type(await first_look(instance, says("IN_PROGRESS"), ago=age - INTERVAL))
    assert [("UNKNOWN", "")] * (outcome is Ended) == [(event["state"], event["cause"]) for event in told(instance)]


@pytest.mark.parametrize("state", ["COMPLETE", "FAILED"])
async def test_end_counts_after_fifteen_days_too(instance: Instance, state: str) -> None:
    assert Ended(state) == await first_look(instance, says(state), ago=20 * DAY)


async def test_refused_access_token_is_replaced_once(instance: Instance) -> None:
    assert Ended("COMPLETE") == await first_look(instance, google_error(401, "UNAUTHENTICATED"), says("COMPLETE"))
    assert 2 == len(instance.http.token_forms)


async def test_consent_that_is_gone_shows_at_the_refresh_after_a_401(instance: Instance) -> None:
    instance.http.token_script = [(200, {"access_token": f"{MARK}-access", "expires_in": 3599}), INVALID_GRANT]
    outcome = await first_look(instance, google_error(401, "UNAUTHENTICATED"), ago=HOUR)
    assert Ended("UNKNOWN", "INVALID_GRANT") == outcome


NOT_NOW: list[Step] = [
    google_error(401, "UNAUTHENTICATED"),
    google_error(429, "RESOURCE_EXHAUSTED", error_info("RATE_LIMIT_EXCEEDED")),
    google_error(500, "INTERNAL"),
    google_error(503, "UNAVAILABLE"),
    (504, b"<html>"),
]


@pytest.mark.parametrize("answer", NOT_NOW)
async def test_transient_answer_is_asked_again_and_says_nothing_of_the_job(instance: Instance, answer: Step) -> None:
    calls = 2 if answer[0] == 401 else 1  # type: ignore[index]
    instance.http.state_scripts["job"] = [*[answer] * calls, says("COMPLETE")]
    await instance.watch(started(ago=20 * DAY))
    instance.clock.wait(INTERVAL)
    assert isinstance(await put_back(instance), RetryLater)
    assert ("state", []) == (instance.line["failedStep"], came_out(instance))
    assert Ended("COMPLETE") == await instance.watch(started(ago=20 * DAY))


@pytest.mark.parametrize("row", TO_LOOK, ids=lambda row: row.name)
async def test_foreign_answer_ends_no_watch(instance: Instance, row: Any) -> None:
    answer = row.make("job", START)
    body = answer.body.encode() if isinstance(answer.body, str) else answer.body
    outcome = await first_look(instance, (answer.status, body), ago=20 * DAY)
    assert {"fault": Fault, "not_now": RetryLater}[row.verdict.outcome] is type(outcome)
    assert ("state", []) == (instance.line["failedStep"], came_out(instance))


async def test_look_that_google_holds_back_is_made_when_it_says(instance: Instance) -> None:
    assert Watching(later(DAY)) == await first_look(instance, cooldown(later(DAY)), says("COMPLETE"))
    instance.clock.wait(DAY)
    assert Ended("COMPLETE") == await put_back(instance)


@pytest.mark.parametrize(("days", "outcome"), [(14, Watching(later(DAY + INTERVAL))), (15, Ended("UNKNOWN"))])
async def test_cooldown_puts_off_no_end_beyond_fifteen_days(instance: Instance, days: int, outcome: Outcome) -> None:
    assert outcome == await first_look(instance, cooldown(later(30 * DAY)), ago=days * DAY - INTERVAL)


async def test_long_delay_of_a_look_is_waited_for(instance: Instance) -> None:
    delay = detail("RetryInfo", retryDelay="7200s")
    outcome = await first_look(instance, google_error(429, "RESOURCE_EXHAUSTED", delay))
    assert Watching(later(INTERVAL + 7200)) == outcome


# once is enough, and twice does no harm


async def test_duplicate_before_the_first_look_changes_nothing(instance: Instance) -> None:
    await instance.watch(started())
    instance.clock.wait(10)
    assert Watching(later(INTERVAL)) == await instance.watch(started(), published_at=later(10))
    instance.clock.wait(INTERVAL)
    assert isinstance(await put_back(instance), Watching)
    assert Resumed(0) == await instance.resume()


async def test_event_of_another_credential_replaces_the_kept_one(instance: Instance) -> None:
    instance.grant("second", f"{MARK}-refresh-second")
    await instance.watch(started())
    event = started(credentialId="second")
    assert Watching(later(INTERVAL)) == await instance.watch(event)
    assert "second" == (await kept(instance))["credentialId"]
    instance.clock.wait(INTERVAL)
    instance.http.state_scripts["job"] = [says("COMPLETE")]
    assert Ended("COMPLETE") == await put_back(instance)
    assert ["second"] == [message["credentialId"] for message in told(instance)]


async def test_of_first_events_of_two_credentials_at_once_the_one_that_waited_is_kept() -> None:
    instance = Instance(RETRY_LEDGER="firestore")
    first, second = started(), started(credentialId="second")
    await asyncio.gather(instance.watch(first), instance.watch(second))
    assert "second" == (await kept(instance))["credentialId"]


@pytest.mark.parametrize("state", ["IN_PROGRESS", ""])
async def test_event_of_another_credential_stays_though_the_look_of_the_first_ends_later(state: str) -> None:
    """The first one's look goes on, or tells an UNKNOWN: the other one's event is kept, and nothing else has it."""
    instance = Instance(RETRY_LEDGER="firestore")
    instance.grant("second", f"{MARK}-refresh-second")
    await instance.watch(started(ago=HOUR))
    instance.clock.wait(INTERVAL)
    asked, over = asyncio.Event(), asyncio.Event()

    async def slow() -> Answer:
        asked.set()
        await over.wait()
        return says(state) if state else google_error(404, "NOT_FOUND")

    instance.http.state_scripts["job"] = [slow, says("IN_PROGRESS")]
    first = asyncio.create_task(put_back(instance))
    await asked.wait()
    await instance.watch(started(ago=HOUR, credentialId="second"))
    over.set()
    assert isinstance(await first, Watching if state else Ended)
    assert "second" == (await kept(instance))["credentialId"]


async def test_first_events_at_once_are_kept_as_one(instance: Instance) -> None:
    outcomes = await asyncio.gather(*(instance.watch(started()) for _ in range(3)))
    assert [Watching(later(INTERVAL))] * 3 == outcomes
    instance.clock.wait(INTERVAL)
    assert Resumed(1) == await instance.resume()


@pytest.mark.parametrize("state", ["COMPLETE", "CANCELLED", "FAILED"])
async def test_duplicate_after_the_end_is_told_nothing_and_asks_nobody(instance: Instance, state: str) -> None:
    await first_look(instance, says(state))
    out = len(came_out(instance))
    instance.http.state_scripts["job"] = [says("CANCELLED" if state == "COMPLETE" else "COMPLETE")]
    for moment in (START, later(DAY)):
        assert Ended(state) == await instance.watch(started(), published_at=moment)
    assert (["job"], out) == (instance.http.looks, len(came_out(instance)))


async def test_message_that_ended_a_watch_as_unknown_and_comes_again_is_told_nothing(instance: Instance) -> None:
    await first_look(instance, google_error(404, "NOT_FOUND"), ago=HOUR - INTERVAL - 1)
    instance.clock.wait(HOUR)
    assert Ended("UNKNOWN", "JOB_NOT_FOUND") == await put_back(instance)
    _, message = instance.topics.messages[-2]
    looks, out = list(instance.http.looks), len(came_out(instance))
    assert Ended("UNKNOWN", "JOB_NOT_FOUND") == await instance.watch(message.data, published_at=instance.clock())
    assert (looks, out) == (instance.http.looks, len(came_out(instance)))


@pytest.mark.parametrize("state", ["COMPLETE", "FAILED", "IN_PROGRESS"])
async def test_two_looks_at_once_are_harmless(instance: Instance, state: str) -> None:
    instance.http.state_scripts["job"] = [says(state)]
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    first, second = await asyncio.gather(instance.watch(started()), instance.watch(started()))
    assert first == second
    assert len({message.data for _, message in instance.topics.messages}) == (state != "IN_PROGRESS")
    entry = await instance.watched()
    assert entry
    assert ("deferred" if state == "IN_PROGRESS" else "ended") == entry.state


@pytest.mark.parametrize("state", ["COMPLETE", "FAILED"])
@pytest.mark.parametrize("out", [True, False])
async def test_death_around_the_publish_is_told_the_same_again(instance: Instance, state: str, out: bool) -> None:
    exported = "2026-11-23T18:01:00Z"
    instance.http.state_scripts["job"] = [says(state, exportTime=exported)]
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    topics, instance.clients.topics = instance.topics, PublishesAs(die, out=out)
    with pytest.raises(asyncio.CancelledError):
        await instance.watch(started())
    before, instance.clients.topics = instance.clients.topics.messages, topics
    instance.clock.wait(60)
    assert Ended(state) == await instance.watch(started())
    assert (topics.messages if out else []) == before
    assert 1 == len(topics.messages)


async def test_death_between_put_back_and_look_leaves_the_event_with_pubsub(instance: Instance) -> None:
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    assert Resumed(1) == await instance.resume()
    event = instance.published(STARTED)[0]
    instance.clock.wait(60)
    assert isinstance(await instance.watch(event, published_at=later(INTERVAL)), Watching)
    assert event == await kept(instance)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "PERMISSION_DENIED"])
async def test_end_that_cannot_be_published_stays_with_pubsub(instance: Instance, code: str) -> None:
    instance.topics.failures[ENDED] = grpc_error(code)
    outcome = await first_look(instance, says("COMPLETE"))
    assert isinstance(outcome, RetryLater if code == "UNAVAILABLE" else Fault)
    assert "publish" == instance.line["failedStep"]
    instance.topics.failures.clear()
    assert Ended("COMPLETE") == await instance.watch(instance.published(STARTED)[0])
    assert 1 == len(told(instance))


async def test_end_may_follow_an_unknown_after_a_later_event(instance: Instance) -> None:
    answers = google_error(404, "NOT_FOUND"), says("COMPLETE")
    assert Ended("UNKNOWN", "JOB_NOT_FOUND") == await first_look(instance, *answers, ago=HOUR)
    instance.clock.wait(60)
    assert Ended("UNKNOWN", "JOB_NOT_FOUND") == await instance.watch(started())  # the same event once more
    outcome = await instance.watch(started(ago=HOUR), published_at=instance.clock())
    assert Ended("COMPLETE") == outcome
    assert ["UNKNOWN", "COMPLETE"] == [event["state"] for event in told(instance)]


async def test_unknown_of_another_credential_is_told_once(instance: Instance) -> None:
    await first_look(instance, google_error(404, "NOT_FOUND"), ago=HOUR)
    instance.grant("second", f"{MARK}-refresh-second")
    event = started(ago=HOUR, credentialId="second")
    for _ in range(2):
        assert Ended("UNKNOWN", "JOB_NOT_FOUND") == await instance.watch(event)
    assert ["alice", "second"] == [message["credentialId"] for message in told(instance)]


async def test_event_after_an_unknown_is_kept_though_a_write_was_lost() -> None:
    instance = Instance(RETRY_LEDGER="firestore")
    await first_look(instance, google_error(404, "NOT_FOUND"), says("IN_PROGRESS"), ago=HOUR)
    instance.clock.wait(60)
    instance.documents.faults = [None, grpc_error("UNAVAILABLE")]  # the read is answered, the write is not made
    assert isinstance(await instance.watch(started(ago=HOUR), published_at=instance.clock()), Watching)
    instance.clock.wait(HOUR)
    assert isinstance(await put_back(instance), Watching)


@pytest.mark.parametrize("look_is_first", [True, False])
async def test_event_is_kept_though_the_schedule_writes_at_the_same_time(look_is_first: bool) -> None:
    """The look's write meets the one that ends the put-back."""
    instance = Instance(RETRY_LEDGER="firestore")
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    asked, over, looks = asyncio.Event(), asyncio.Event(), []

    async def slow() -> Answer:
        asked.set()
        await over.wait()
        return says("IN_PROGRESS")

    async def deliver_at_once(request: Any) -> None:
        looks.append(asyncio.create_task(instance.watch(started(), published_at=instance.clock())))
        await (looks[0] if look_is_first else asked.wait())

    if not look_is_first:
        instance.http.state_scripts["job"] = [slow]
    instance.clients.topics = PublishesAs(deliver_at_once, out=True)
    assert Resumed(1) == await instance.resume()
    over.set()
    outcome = await looks[0]
    assert isinstance(outcome, Watching)
    entry = await instance.watched()
    assert entry
    assert ("deferred", outcome.until) == (entry.state, entry.not_before)


async def test_look_before_the_schedule_leaves_nothing_due(instance: Instance) -> None:
    instance.http.state_scripts["job"] = [says("COMPLETE")]
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    assert Ended("COMPLETE") == await instance.watch(started())
    assert Resumed(0) == await instance.resume()
    entry = await instance.watched()
    assert entry
    assert (b"", "") == (entry.event, entry.attributes)


# what it does not tell


@pytest.mark.parametrize(
    "event", [b"not an event", {"archiveJobId": "job"}, started(startedAt="yesterday"), started(retriedAt=5)]
)
async def test_malformed_event_is_rejected_and_names_its_source(instance: Instance, event: Any) -> None:
    outcome = await instance.watch(event)
    assert isinstance(outcome, Rejected)
    [rejection], [attributes] = instance.published(REJECTED), instance.attributes(REJECTED)
    text = event.decode() if isinstance(event, bytes) else json.dumps(event)
    assert ("MALFORMED_EVENT", text) == (rejection["reason"], rejection["event"])
    assert ("archive-job-started", "MALFORMED_EVENT") == (attributes["source"], attributes["reason"])
    assert [REJECTED] == came_out(instance)
    assert Resumed(0) == await instance.resume()


@pytest.mark.parametrize("name", ["startedAt", "retriedAt"])
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"])
async def test_time_that_is_none_in_utc_is_malformed(instance: Instance, name: str, time: str) -> None:
    assert isinstance(await instance.watch(started() | {name: time}), Rejected)


async def test_export_time_that_is_none_in_utc_is_that_of_the_look(instance: Instance) -> None:
    assert Ended("COMPLETE") == await first_look(instance, says("COMPLETE", exportTime="0001-01-01T00:00:00+10:00"))
    assert ["2026-11-23T18:05:00.000Z"] == [event["endedAt"] for event in told(instance)]


async def test_failed_at_of_a_started_event_is_nobodys_business(instance: Instance) -> None:
    assert Watching(later(INTERVAL)) == await instance.watch(started(failedAt="yesterday"))


@pytest.mark.parametrize("state", ["COMPLETE", "FAILED", "CANCELLED", "IN_PROGRESS", SIGNED_URL])
async def test_signed_url_is_told_nowhere(instance: Instance, logged: LogLines, state: str) -> None:
    more = {"urls": [SIGNED_URL] * 3, "exportTime": SIGNED_URL, "name": SIGNED_URL}
    instance.http.state_scripts["job"] = [(200, {"state": state, **more})]
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    assert 204 == (await instance.post(push(started()), entry_point=WATCH)).status_code
    await instance.watched()
    assert ["job"] == instance.http.looks
    assert "storage.googleapis.com" not in logged.stream.getvalue() + str(instance.topics.messages)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("COMPLETE", "ended"), ("CANCELLED", "ended"), ("FAILED", "failed"), ("IN_PROGRESS", "watching")],
)
async def test_log_line_names_outcome_and_job(instance: Instance, logged: LogLines, state: str, outcome: str) -> None:
    instance.http.state_scripts["job"] = [says(state)]
    await instance.watch(started())
    instance.clock.wait(INTERVAL)
    await instance.post(push(started(attempt=1, rootArchiveJobId="first")), entry_point=WATCH)
    line = logged.lines[-1]
    assert (outcome, "job", "alice", "first", 1) == (
        line["outcome"],
        line["archiveJobId"],
        line["userId"],
        line["rootArchiveJobId"],
        line["attempt"],
    )
    assert ("" if outcome == "watching" else state) == line.get("state", "")


async def test_look_asks_google_once_and_changes_nothing_there(instance: Instance) -> None:
    await first_look(instance, says("COMPLETE"))
    asked = [(method, url.rpartition("/v1/")[2], body) for method, url, _, body in instance.http.requests[1:]]
    assert [("GET", "archiveJobs/job/portabilityArchiveState", b"")] == asked
    assert ("POST", TOKEN_URI) == instance.http.requests[0][:2]
