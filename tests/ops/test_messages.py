"""What a waiting message is read as, which of them match, and what goes back."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.pubsub_v1.types import PubsubMessage
from hypothesis import given
from hypothesis import strategies as st

from handlers.domain.events import EVENT_BYTES_MAX
from handlers.domain.outcomes import Reason
from ops.messages import UNDELIVERED, UNREADABLE, Filter, PendingMessage, dead_letter_reader, read_rejection
from tests.ops.desk import POLICY, failed, rejection

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
ADDED = {
    "CloudPubSubDeadLetterSourceDeliveryCount": "10",
    "CloudPubSubDeadLetterSourceSubscription": "archive-job-failed-push",
    "CloudPubSubDeadLetterSourceSubscriptionProject": "a-project",
    "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-23T17:00:00.000+00:00",
    "googclient_schemaencoding": "JSON",
}


def message(data: bytes, **attributes: str) -> PubsubMessage:
    return PubsubMessage(data=data, attributes=attributes, message_id="1", publish_time=NOW)


def dead(data: bytes, **attributes: str) -> PendingMessage:
    return dead_letter_reader(NOW, POLICY)(message(data, **ADDED, **attributes))


def rejected(**fields: Any) -> PendingMessage:
    """A rejection with these fields, None for those that are not there."""
    content = json.loads(rejection(failed(), NOW)) | fields
    return read_rejection(
        message(json.dumps({name: value for name, value in content.items() if value is not None}).encode())
    )


@given(
    st.binary(), st.dictionaries(st.sampled_from(["own", "cloud", "eventType", "googclient_traceparent"]), st.text())
)
def test_dead_letter_keeps_data_and_own_attributes(data: bytes, own: dict[str, str]) -> None:
    read = dead(data, **own)
    assert (data, own) == (read.data, read.attributes)


@pytest.mark.parametrize("source", ["archive-job-started-watch", "archive-job-retried-watch"])
def test_dead_letter_of_the_watch_is_no_failed_job(source: str) -> None:
    given_up = message(failed(), **ADDED | {"CloudPubSubDeadLetterSourceSubscription": source})
    assert "publish it to archive-job-started" in dead_letter_reader(NOW, POLICY)(given_up).obstacle
    assert "" == dead(failed()).obstacle


@given(st.binary())
def test_rejection_keeps_its_event_byte_for_byte(data: bytes) -> None:
    read = read_rejection(message(rejection(data, NOW, Reason.MALFORMED_EVENT)))
    assert (data, {}) == (read.data, read.attributes)


def test_dead_letter_names_source_deliveries_and_credential() -> None:
    read = dead(failed("job", "alice", credentialId="work"))
    assert ("archive-job-failed-push", 10) == (read.source, read.deliveries)
    assert ("job", "alice", "work") == (read.job_id, read.user_id, read.credential_id)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (failed(), UNDELIVERED),
        (failed(failedAt="2026-11-20T00:00:00Z"), UNDELIVERED),
        (failed(failedAt="2026-11-01T00:00:00Z"), Reason.EVENT_EXPIRED),
        (b"rubbish", Reason.MALFORMED_EVENT),
        (b"", Reason.MALFORMED_EVENT),
    ],
)
def test_dead_letter_reason_is_what_its_data_says(data: bytes, reason: str) -> None:
    assert reason == dead(data).reason


def test_malformed_dead_letter_is_found_by_its_sound_fields() -> None:
    read = dead(failed("job", "alice", attempt="many"))
    assert ("job", "alice") == (read.job_id, read.user_id)


@pytest.mark.parametrize("count", ["", "ten", "-1"])
def test_delivery_count_that_is_no_number_is_zero(count: str) -> None:
    odd = message(failed(), CloudPubSubDeadLetterSourceDeliveryCount=count)
    assert 0 == dead_letter_reader(NOW, POLICY)(odd).deliveries


def test_rejection_of_the_last_release_is_read() -> None:
    read = rejected(cause=None, callsInDoubt=None)
    assert (Reason.ACCESS_DENIED, "", "job", "") == (read.reason, read.cause, read.job_id, read.obstacle)


def test_rejection_of_an_unknown_reason_is_read() -> None:
    assert "A_NEW_ONE" == rejected(reason="A_NEW_ONE").reason


def test_truncated_event_cannot_be_put_back() -> None:
    read = read_rejection(
        message(rejection(b"{" * (EVENT_BYTES_MAX + 1), NOW, Reason.MALFORMED_EVENT, job="", user=""))
    )
    assert (Reason.MALFORMED_EVENT, True) == (read.reason, "only the beginning" in read.obstacle)


def test_event_of_the_watch_cannot_be_put_back() -> None:
    read = read_rejection(message(rejection(b"", NOW, Reason.MALFORMED_EVENT), source="archive-job-started"))
    assert "it came from archive-job-started" in read.obstacle


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish \xff",
        b"[" * 100_000,
        b"{}",
        b'{"reason": 5}',
        rejection(b"\xff", NOW, Reason.MALFORMED_EVENT).replace(b'"/w=="', b'"/w"'),
        rejection(b"\xff", NOW, Reason.MALFORMED_EVENT).replace(b'"/w=="', '"é"'.encode()),
    ],
)
def test_what_is_no_rejection_is_unreadable(data: bytes) -> None:
    assert UNREADABLE == read_rejection(message(data)).reason


@pytest.mark.parametrize(
    "fields",
    [
        {"archiveJobId": ""},
        {"archiveJobId": "a/b"},
        {"archiveJobId": "another"},
        {"archiveJobId": 7},
        {"userId": "a b"},
        {"credentialId": "../x"},
        {"reason": "<b>"},
        {"rejectedAt": "\x1b[2J"},
        {"eventEncoding": "rot13"},
        {"event": "{}"},
    ],
)
def test_rejection_with_a_field_of_wrong_form_is_unreadable(fields: dict[str, Any]) -> None:
    assert UNREADABLE == rejected(**fields).reason


@pytest.mark.parametrize("reason", [UNDELIVERED, UNREADABLE, *Reason])
def test_default_filter_matches_all_but_what_needs_a_name(reason: str) -> None:
    futile = {UNREADABLE, Reason.MALFORMED_EVENT, Reason.EVENT_EXPIRED}
    by_name = futile | {Reason.OUTCOME_UNKNOWN, Reason.RETRY_BUDGET_EXHAUSTED}
    pending = PendingMessage(message_id="1", arrived_at=NOW, reason=reason)
    assert (reason not in by_name) == Filter().matches(pending, NOW)
    assert Filter().fits(pending, NOW)
    assert Filter(reasons=frozenset({reason})).matches(pending, NOW)


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        ({"reasons": {"MALFORMED_EVENT"}}, "malformed"),
        ({"reasons": {"ACCESS_DENIED"}}, "denied"),
        ({"reasons": {"ACCESS_DENIED", "JOB_NOT_FOUND"}}, "denied unknown"),
        ({"users": {"bob"}}, "unknown"),
        ({"jobs": {"denied", "unknown"}, "users": {"alice"}}, "denied"),
        ({"older_than": timedelta(hours=1)}, "unknown"),
        ({"newer_than": timedelta(minutes=59)}, "denied"),
        ({"older_than": timedelta(hours=1), "newer_than": timedelta(hours=1)}, "unknown"),
        ({"older_than": timedelta(minutes=1), "newer_than": timedelta(minutes=59)}, ""),
    ],
)
def test_message_matches_if_every_part_of_the_filter_fits(wanted: dict[str, Any], matching: str) -> None:
    hour_ago = NOW - timedelta(hours=1)
    messages = [
        PendingMessage(message_id="1", arrived_at=NOW, reason="MALFORMED_EVENT", job_id="malformed"),
        PendingMessage(message_id="2", arrived_at=NOW, reason="ACCESS_DENIED", job_id="denied", user_id="alice"),
        PendingMessage(message_id="3", arrived_at=hour_ago, reason="JOB_NOT_FOUND", job_id="unknown", user_id="bob"),
    ]
    parts: Any = {name: frozenset(value) if isinstance(value, set) else value for name, value in wanted.items()}
    assert matching == " ".join(one.job_id for one in messages if Filter(**parts).matches(one, NOW))


@pytest.mark.parametrize("reason", list(Reason))
def test_only_parked_or_used_up_jobs_are_reopened(reason: str) -> None:
    """A later event is a new question to every other rejection (contract, section 3)."""
    assert (reason in {"OUTCOME_UNKNOWN", "RETRY_BUDGET_EXHAUSTED"}) == rejected(reason=str(reason)).reopens
    assert not dead(failed()).reopens
