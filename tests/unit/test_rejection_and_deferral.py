"""Rejections answer for one question and no other; deferrals wait in the ledger with their event."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.domain.events import timestamp
from handlers.domain.outcomes import Deferred, Outcome, Rejected, Resumed, Retried, RetryLater
from local.google_apis import MARK
from tests.unit.fakes import SECRET_PREFIX, START, Answer, cooldown, google_error, grpc_error
from tests.unit.instance import Instance, failed, later

NEW: Answer = (200, {"archiveJobId": "new"})
DENIED = google_error(403, "PERMISSION_DENIED")
INVALID_GRANT: Answer = (400, {"error": "invalid_grant"})
HOUR = 3600.0


# rejections


async def test_rejection_says_all_that_is_known(instance: Instance) -> None:
    instance.script("job", google_error(404, "NOT_FOUND"))
    event = json.dumps(failed(attempt=1, rootArchiveJobId="first"))
    await instance.deliver(event.encode())
    [message] = instance.rejected
    assert message.pop("detail").startswith("Google knows no such archive job")
    assert message == {
        "reason": "JOB_NOT_FOUND",
        "cause": "",
        "archiveJobId": "job",
        "rootArchiveJobId": "first",
        "userId": "alice",
        "credentialId": "alice",
        "attempt": 1,
        "callsInDoubt": 0,
        "rejectedAt": "2026-11-23T18:00:00.000Z",
        "event": event,
        "eventEncoding": "text",
    }
    assert instance.attributes("archive-job-retry-rejected") == [
        {"eventType": "archive-job-retry-rejected", "reason": "JOB_NOT_FOUND", "userId": "alice", "dedupKey": "job"}
    ]


@pytest.mark.parametrize("delivery", [{}, {"published_at": datetime(9999, 1, 1, tzinfo=UTC)}], ids=["event", "publish"])
async def test_failure_far_in_the_future_counts_from_the_publish(instance: Instance, delivery: Any) -> None:
    """It would never be too long ago, and be put back after each cooldown for ever."""
    instance.script("job", cooldown(later(3600)))
    await instance.deliver(failed(failedAt="2999-01-01T00:00:00Z"), **delivery)
    instance.clock.wait(3600)
    await instance.resume()
    [event] = instance.published("archive-job-failed")
    assert event["failedAt"] == timestamp(START)
    instance.clock.wait(15 * 86_400)
    assert "EVENT_EXPIRED" == await instance.reason(event)
    assert "EVENT_EXPIRED" == await instance.reason(failed("other", failedAt="2999-01-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("event", "told", "key"),
    [
        (b"not an event", {"archiveJobId": "", "userId": "", "credentialId": "", "attempt": 0}, "message-1"),
        ({"userId": "a/b"}, {"archiveJobId": "", "userId": ""}, "message-1"),
        ({"archiveJobId": "archiveJobs/job", "userId": 5}, {"archiveJobId": "job", "userId": ""}, "job"),
        (failed(attempt="one", credentialId="c"), {"userId": "alice", "credentialId": "c", "attempt": 0}, "job"),
        (failed(failedAt="yesterday", credentialId=None), {"userId": "alice", "credentialId": "alice"}, "job"),
        (failed(credentialId="a/b"), {"userId": "alice", "credentialId": ""}, "job"),
        (failed("", attempt=10**30, rootArchiveJobId="archiveJobs/r"), {"rootArchiveJobId": "r"}, "message-1"),
    ],
)
async def test_malformed_event_tells_its_sound_fields(
    instance: Instance, event: Any, told: dict[str, Any], key: str
) -> None:
    await instance.deliver(event)
    assert told == {name: instance.rejected[0][name] for name in told}
    [attributes] = instance.attributes("archive-job-retry-rejected")
    assert (key, instance.rejected[0]["userId"]) == (attributes["dedupKey"], attributes.get("userId", ""))
    assert (told.get("archiveJobId", instance.line["archiveJobId"])) == instance.line["archiveJobId"]


@pytest.mark.parametrize(
    ("data", "kept", "encoding"),
    [
        ('{"ü": 1}'.encode(), '{"ü": 1}'.encode(), "text"),
        (b"\xff\x00", b"\xff\x00", "base64"),
        (b"x" * (1 << 20), b"x" * (1 << 20), "text"),
        (b"\xff" * ((1 << 20) + 1), b"\xff" * (64 << 10), "truncated"),
        (b"x" * 10_000_000, b"x" * (64 << 10), "truncated"),
    ],
    ids=["text", "no text", "1 MiB", "above 1 MiB", "10 MB"],
)
async def test_rejection_keeps_the_event(instance: Instance, data: bytes, kept: bytes, encoding: str) -> None:
    assert "MALFORMED_EVENT" == await instance.reason(data)
    [message] = instance.rejected
    event = message["event"].encode() if encoding == "text" else base64.b64decode(message["event"])
    assert (encoding, kept) == (message["eventEncoding"], event)


async def test_event_above_1_mib_is_malformed_though_it_is_sound(instance: Instance) -> None:
    assert "MALFORMED_EVENT" == await instance.reason(failed(theirs="x" * (1 << 20)))


async def rejected(instance: Instance) -> None:
    """Alice's job is rejected a minute after START."""
    instance.script("job", DENIED, NEW)
    instance.grant("work", f"{MARK}-refresh-work")
    instance.clock.wait(60)
    assert "ACCESS_DENIED" == await instance.reason()


@pytest.mark.parametrize(
    ("event", "published", "outcome"),
    [
        ({}, 0, Rejected),
        ({}, 59, Rejected),
        ({}, 60, Rejected),
        ({}, 61, Retried),
        ({"credentialId": "work"}, 0, Retried),
        ({"userId": "bob", "credentialId": "alice"}, 0, Retried),
        ({"credentialId": "alice", "attempt": 1}, 0, Rejected),
    ],
)
@pytest.mark.parametrize("attempt", [1, 2])
async def test_rejection_answers_for_earlier_events_of_its_credential(
    instance: Instance, event: dict[str, Any], published: float, outcome: type, attempt: int
) -> None:
    await rejected(instance)
    instance.clock.wait(HOUR)
    assert outcome is type(await instance.deliver(failed(**event), published_at=later(published), attempt=attempt))
    assert (2 if outcome is Retried else 1) == len(instance.http.retries)
    assert outcome is Rejected or 1 == instance.retried[0]["attempt"]


async def test_rejection_answers_where_no_publish_time_is_known(instance: Instance) -> None:
    await rejected(instance)
    assert isinstance(await instance.deliver(published_at=None), Rejected)


async def test_rejection_for_consent_answers_a_redelivery_without_a_token(instance: Instance) -> None:
    instance.http.token_script = [INVALID_GRANT, (200, {"access_token": f"{MARK}-access"})]
    assert "REAUTHORIZATION_REQUIRED/INVALID_GRANT" == await instance.reason(attempt=1)
    assert "REAUTHORIZATION_REQUIRED/INVALID_GRANT" == await instance.reason(attempt=2)
    assert 1 == len(instance.http.token_forms)
    instance.clock.wait(60)
    assert Retried("job-again") == await instance.deliver(published_at=later(30))


async def test_rejection_that_was_deferred_before_keeps_its_time(instance: Instance) -> None:
    """What is deferred once is written again when its outcome is published, here an hour after it was decided."""
    instance.script("job", cooldown(later(HOUR)), DENIED, NEW)
    await instance.deliver()
    instance.clock.wait(HOUR)
    instance.topics.failures["archive-job-retry-rejected"] = grpc_error("UNAVAILABLE")
    assert isinstance(await instance.deliver(), RetryLater)
    instance.topics.failures.clear()
    instance.clock.wait(HOUR)
    assert "ACCESS_DENIED" == await instance.reason(attempt=2)
    assert "ACCESS_DENIED" == await instance.reason(published_at=later(HOUR - 1), attempt=2)
    assert isinstance(await instance.deliver(published_at=later(HOUR + 1), attempt=2), Retried)


# deferrals


async def test_deferral_is_not_called_before_its_time(instance: Instance) -> None:
    until = later(20 * HOUR)
    instance.script("job", cooldown(until), NEW)
    for attempt in (1, 1, 2):
        assert Deferred(until) == await instance.deliver(attempt=attempt)
    assert (["job"], []) == (instance.http.retries, instance.topics.messages)
    instance.clock.wait(20 * HOUR)
    assert Retried("new") == await instance.deliver()
    assert 1 == instance.retried[0]["attempt"]
    assert "delaySeconds" not in instance.line


@pytest.mark.parametrize(
    ("data", "published", "kept"),
    [
        (
            b' {"userId":"alice", "archiveJobId":"job","theirs":[1,{}]} \n',
            START,
            b' {"userId":"alice", "archiveJobId":"job","theirs":[1,{}],"failedAt":"2026-11-23T18:00:00.000Z"}',
        ),
        (
            b'{"archiveJobId":"job","userId":"alice","failedAt":null}',
            None,
            b'{"archiveJobId":"job","userId":"alice","failedAt":null,"failedAt":"2026-11-23T18:00:00.000Z"}',
        ),
        (
            b'{"archiveJobId":"job","userId":"alice","failedAt":"2026-11-20T00:00:00+01:00"}',
            START,
            b'{"archiveJobId":"job","userId":"alice","failedAt":"2026-11-20T00:00:00+01:00"}',
        ),
    ],
)
async def test_deferral_keeps_the_event_with_failed_at(
    instance: Instance, data: bytes, published: datetime | None, kept: bytes
) -> None:
    instance.script("job", cooldown(later(HOUR)))
    await instance.deliver(data, published_at=published, attributes={"own": "attribute"})
    entry = await instance.entry()
    assert entry
    assert (kept, '{"own":"attribute"}') == (entry.event, entry.attributes)


async def test_deferral_of_a_large_event_keeps_the_known_fields(instance: Instance) -> None:
    instance.script("job", cooldown(later(HOUR)))
    fields: dict[str, Any] = {"attempt": 1, "rootArchiveJobId": "root", "credentialId": "alice"}
    await instance.deliver(failed(**fields, theirs="x" * 950_000), attributes={"own": "attribute"})
    entry = await instance.entry()
    assert entry
    assert failed(**fields, failedAt="2026-11-23T18:00:00.000Z") == json.loads(entry.event)
    assert "{}" == entry.attributes


async def test_deferral_is_replaced_by_another_credentials_event(instance: Instance) -> None:
    instance.script("job", cooldown(later(HOUR)), NEW)
    instance.grant("work", f"{MARK}-refresh-work")
    await instance.deliver()
    event = failed(credentialId="work", theirs=1)
    assert isinstance(await instance.deliver(event), Deferred)
    entry = await instance.entry()
    assert entry
    assert ("deferred", "work") == (entry.state, entry.credential_id)
    instance.clock.wait(HOUR)
    await instance.resume()
    [put_back] = instance.published("archive-job-failed")
    assert event == {name: put_back[name] for name in event}
    await instance.deliver(put_back)
    assert ("work", f"{MARK}-refresh-work") == (
        instance.retried[0]["credentialId"],
        instance.http.token_forms[-1]["refresh_token"],
    )


async def test_deferral_for_the_same_credential_stays(instance: Instance) -> None:
    instance.script("job", cooldown(later(HOUR)))
    await instance.deliver(failed(theirs="first"))
    await instance.deliver(failed(theirs="second"))
    entry = await instance.entry()
    assert entry
    assert b'"theirs": "first"' in entry.event


async def test_deferred_job_learns_of_more_retries_and_keeps_its_event(instance: Instance) -> None:
    """Of two events of one job the larger attempt counts, and the one that was acknowledged first comes back."""
    instance.script("job", cooldown(later(HOUR)), NEW)
    await instance.deliver(failed(theirs="first"))
    assert isinstance(await instance.deliver(failed(attempt=2, rootArchiveJobId="root")), Deferred)
    instance.clock.wait(HOUR)
    await instance.resume()
    [put_back] = instance.published("archive-job-failed")
    await instance.deliver(put_back)
    [follow_up] = instance.retried
    assert ("first", 3, "root") == (put_back["theirs"], follow_up["attempt"], follow_up["rootArchiveJobId"])


async def test_parked_doubt_of_a_deferred_job_comes_before_an_events_attempt() -> None:
    instance = Instance()
    instance.script("job", (502, b"<html>Bad Gateway"), cooldown(later(HOUR)))
    await instance.deliver()
    instance.clock.wait(121)
    assert isinstance(await instance.deliver(), Deferred)
    parking = Instance(store=instance.container.store, clock=instance.clock, AMBIGUOUS_RETRY="park")
    assert "OUTCOME_UNKNOWN" == await parking.reason(failed(attempt=3))


async def test_rejection_of_an_event_of_a_deferred_job_has_its_own_time(instance: Instance) -> None:
    instance.script("job", cooldown(later(HOUR)))
    await instance.deliver()
    for _ in range(2):
        instance.clock.wait(60)
        await instance.deliver(failed(attempt=3), attempt=2)
    assert ["2026-11-23T18:01:00.000Z", "2026-11-23T18:02:00.000Z"] == [one["rejectedAt"] for one in instance.rejected]


async def test_rejection_for_one_credential_leaves_anothers_deferral_due(instance: Instance) -> None:
    instance.script("job", cooldown(later(HOUR)), NEW)
    await instance.deliver(failed())
    instance.clock.wait(HOUR)
    assert isinstance(await instance.deliver(failed(credentialId="gone")), Rejected)
    assert Resumed(1) == await instance.resume()
    [put_back] = instance.published("archive-job-failed")
    assert Retried("new") == await instance.deliver(put_back)
    assert Resumed(0) == await instance.resume()


async def test_daily_deferral_expires(instance: Instance) -> None:
    """Each put-back is a new publish, and the first time counts all the same."""
    event: dict[str, Any] = failed()
    published, outcome, days = START, None, 0
    while not isinstance(outcome, Rejected) and days < 60:
        instance.script("job", cooldown(instance.clock() + timedelta(days=1)))
        outcome: Outcome | None = await instance.deliver(event, published_at=published)  # type: ignore[no-redef]
        days += 1
        instance.clock.wait(24 * HOUR)
        await instance.resume()
        if put_back := instance.published("archive-job-failed"):
            event, published = put_back[-1], instance.clock()
    assert ("EVENT_EXPIRED", 15) == (instance.rejected[-1]["reason"], len(instance.http.retries))


# grants


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "NO_SECRET"),
        (grpc_error("FAILED_PRECONDITION", "Secret Version [x/1] is in DISABLED state."), "SECRET_DISABLED"),
        (b"", "NO_REFRESH_TOKEN"),
    ],
)
async def test_right_that_ends_counts_at_the_next_access_token(instance: Instance, content: Any, cause: str) -> None:
    instance.http.token_script = [(200, {"access_token": f"{MARK}-access", "expires_in": 0})]
    assert isinstance(await instance.deliver(failed("before")), Retried)
    if content is None:
        instance.secrets.secrets.pop(SECRET_PREFIX + "alice")
    else:
        instance.replace_secret("alice", content)
    assert f"REAUTHORIZATION_REQUIRED/{cause}" == await instance.reason()
    assert (["before"], cause) == (instance.http.retries, instance.rejected[0]["cause"])
