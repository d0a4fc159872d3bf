"""What a waiting message is read as, which of them are meant, and what goes back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.pubsub_v1.types import PubsubMessage
from handlers.outcomes import Reason
from hypothesis import given
from hypothesis import strategies as st

from ops.letters import UNDELIVERED, UNREADABLE, Letter, Wanted, dead_letter_reader, read_rejection
from tests.ops.desk import failed, rejection

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


def dead(data: bytes, **attributes: str) -> Letter:
    return dead_letter_reader(NOW, timedelta(days=14))(message(data, **ADDED, **attributes))


@given(
    st.binary(), st.dictionaries(st.sampled_from(["own", "cloud", "eventType", "googclient_traceparent"]), st.text())
)
def test_a_dead_letter_goes_back_with_its_data_and_its_own_attributes(data: bytes, own: dict[str, str]) -> None:
    letter = dead(data, **own)
    assert (data, own) == (letter.data, letter.attributes)


@given(st.binary())
def test_of_a_rejection_the_events_data_goes_back_as_it_came(data: bytes) -> None:
    letter = read_rejection(message(rejection(data, NOW), eventType="archive-job-retry-rejected"))
    assert (data, {}) == (letter.data, letter.attributes)


def test_a_dead_letter_tells_who_gave_it_up_and_after_how_many_deliveries() -> None:
    letter = dead(failed("job", "alice"))
    assert ("archive-job-failed-push", 10, "job", "alice") == (
        letter.source,
        letter.deliveries,
        letter.job_id,
        letter.user_id,
    )


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
def test_a_dead_letters_reason_is_what_its_data_says(data: bytes, reason: str) -> None:
    assert reason == dead(data).reason


def test_a_malformed_dead_letter_is_still_found_by_what_is_sound_in_it() -> None:
    letter = dead(failed("job", "alice", attempt="many"))
    assert ("job", "alice") == (letter.job_id, letter.user_id)


@pytest.mark.parametrize("count", ["", "ten", "-1"])
def test_a_delivery_count_that_is_none_is_not_believed(count: str) -> None:
    odd = message(failed(), CloudPubSubDeadLetterSourceDeliveryCount=count)
    assert 0 == dead_letter_reader(NOW, timedelta(days=14))(odd).deliveries


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish \xff",
        b"[" * 100_000,
        b"{}",
        b'{"reason": 5}',
        rejection(b"\xff", NOW).replace(b'"/w=="', b'"/w"'),
        rejection(b"\xff", NOW).replace(b'"/w=="', '"é"'.encode()),
    ],
)
def test_what_is_no_rejection_is_never_put_back(data: bytes) -> None:
    letter = read_rejection(message(data))
    assert UNREADABLE == letter.reason
    assert not Wanted()(letter, NOW)
    assert not Wanted(reasons=frozenset({UNREADABLE}))(letter, NOW)


@pytest.mark.parametrize("reason", [UNDELIVERED, *Reason])
def test_everything_is_meant_but_what_is_malformed_parked_or_used_up(reason: str) -> None:
    meant = Wanted()(Letter(message_id="1", arrived_at=NOW, reason=reason), NOW)
    by_name = (Reason.MALFORMED_EVENT, Reason.OUTCOME_UNKNOWN, Reason.RETRY_BUDGET_EXHAUSTED)
    assert (reason not in by_name) == meant


@pytest.mark.parametrize(
    ("wanted", "meant"),
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
def test_a_letter_is_meant_if_all_that_is_asked_for_fits(wanted: dict[str, Any], meant: str) -> None:
    hour_ago = NOW - timedelta(hours=1)
    letters = [
        Letter(message_id="1", arrived_at=NOW, reason="MALFORMED_EVENT", job_id="malformed"),
        Letter(message_id="2", arrived_at=NOW, reason="ACCESS_DENIED", job_id="denied", user_id="alice"),
        Letter(message_id="3", arrived_at=hour_ago, reason="JOB_NOT_FOUND", job_id="unknown", user_id="bob"),
    ]
    parts: Any = {name: frozenset(value) if isinstance(value, set) else value for name, value in wanted.items()}
    asked = Wanted(**parts)
    assert meant == " ".join(letter.job_id for letter in letters if asked(letter, NOW))


@pytest.mark.parametrize("reason", list(Reason))
def test_closed_are_the_rejections_that_the_ledger_would_only_repeat(reason: str) -> None:
    """As tests/unit/test_ledger.py has it; a malformed event never came to the ledger."""
    closed = {"ACCESS_DENIED", "JOB_NOT_FOUND", "JOB_NOT_RETRYABLE", "OUTCOME_UNKNOWN", "RETRY_BUDGET_EXHAUSTED"}
    assert (reason in closed) == read_rejection(message(rejection(b"", NOW, reason))).closed
    assert not dead(failed()).closed
