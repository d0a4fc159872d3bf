"""Every row of the table of Google's answers, and whatever stands in no row."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from handlers.outcomes import Misconfigured, Reason, Refused, Unavailable
from handlers.portability import answer_of
from handlers.ports import Cooldown, NewJob, TokenRefused, Unknown
from tests.unit.world import NOW, error_info, google_error

LATER = NOW + timedelta(hours=24)
BAD_REQUEST = {"@type": "type.googleapis.com/google.rpc.BadRequest"}
DEBUG_INFO = {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": "internals"}
QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure"}


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def body_of(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ((200, {"archiveJobId": "new"}), NewJob("new")),
        ((200, {"archiveJobId": "archiveJobs/new", "more": 1}), NewJob("new")),
        (google_error(409, "ALREADY_EXISTS", error_info("ALREADY_EXISTS_ONE_TIME", job_id="old")), NewJob("old")),
        (google_error(409, "ALREADY_EXISTS", error_info("ALREADY_EXISTS_TIME_BASED", job_id="old")), NewJob("old")),
        (
            google_error(
                429,
                "RESOURCE_EXHAUSTED",
                QUOTA,
                error_info("RESOURCE_EXHAUSTED_ONE_TIME", timestamp_after_24hrs=LATER.isoformat()),
            ),
            Cooldown(LATER),
        ),
        (
            google_error(
                400, "FAILED_PRECONDITION", error_info("X", timestamp_after_24hrs=str(int(LATER.timestamp())))
            ),
            Cooldown(LATER),
        ),
        (google_error(429, "RESOURCE_EXHAUSTED", retry_info("3600s")), Cooldown(NOW + timedelta(hours=1))),
        (google_error(429, "RESOURCE_EXHAUSTED", retry_info("601s")), Cooldown(NOW + timedelta(seconds=601))),
        (google_error(401, "UNAUTHENTICATED", error_info("ACCESS_TOKEN_EXPIRED")), TokenRefused()),
        ((401, b""), TokenRefused()),
    ],
)
def test_an_answer_with_a_result_is_that_result(answer: Any, meaning: Any) -> None:
    assert meaning == answer_of(answer[0], body_of(answer[1]), NOW)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (google_error(403, "PERMISSION_DENIED", DEBUG_INFO), Reason.ACCESS_DENIED),
        (google_error(403, "PERMISSION_DENIED", error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")), Reason.ACCESS_DENIED),
        ((403, b"<html>"), Reason.ACCESS_DENIED),
        (google_error(404, "NOT_FOUND"), Reason.JOB_NOT_FOUND),
        (google_error(400, "FAILED_PRECONDITION"), Reason.JOB_NOT_RETRYABLE),
        (google_error(400, "INVALID_ARGUMENT", BAD_REQUEST), Reason.JOB_NOT_RETRYABLE),
        (google_error(400, "OUT_OF_RANGE"), Reason.JOB_NOT_RETRYABLE),
        (google_error(409, "ALREADY_EXISTS"), Reason.JOB_NOT_RETRYABLE),
        (google_error(409, "ALREADY_EXISTS", error_info("X", job_id="../../etc")), Reason.JOB_NOT_RETRYABLE),
        ((410, b""), Reason.JOB_NOT_RETRYABLE),
        ((418, b"\xff"), Reason.JOB_NOT_RETRYABLE),
    ],
)
def test_a_definite_refusal_has_its_reason(answer: Any, reason: Reason) -> None:
    meaning = answer_of(answer[0], body_of(answer[1]), NOW)
    assert isinstance(meaning, Refused)
    assert reason == meaning.reason


@pytest.mark.parametrize(
    "answer",
    [
        google_error(429, "RESOURCE_EXHAUSTED", error_info("RATE_LIMIT_EXCEEDED"), QUOTA, retry_info("30s")),
        google_error(429, "RESOURCE_EXHAUSTED"),
        google_error(429, "RESOURCE_EXHAUSTED", retry_info("600s")),
        google_error(403, "PERMISSION_DENIED", error_info("RATE_LIMIT_EXCEEDED")),
        google_error(403, "PERMISSION_DENIED", error_info("RESOURCE_QUOTA_EXCEEDED")),
        google_error(409, "ABORTED"),
        (429, b"<html>slow down</html>"),
        google_error(429, "RESOURCE_EXHAUSTED", error_info("X", timestamp_after_24hrs=NOW.isoformat())),
        google_error(429, "RESOURCE_EXHAUSTED", error_info("X", timestamp_after_24hrs="tomorrow")),
    ],
)
def test_what_passes_within_the_back_off_of_pubsub_is_unavailable(answer: Any) -> None:
    assert isinstance(answer_of(answer[0], body_of(answer[1]), NOW), Unavailable)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 405, 411, 413, 414, 431])
def test_a_request_that_is_wrong_in_itself_or_goes_to_the_wrong_place_is_our_fault(status: int) -> None:
    assert isinstance(answer_of(status, b"<!DOCTYPE html>", NOW), Misconfigured)


@pytest.mark.parametrize(
    "reason",
    [
        "SERVICE_DISABLED",
        "BILLING_DISABLED",
        "CONSUMER_SUSPENDED",
        "CONSUMER_INVALID",
        "USER_PROJECT_DENIED",
        "SECURITY_POLICY_VIOLATED",
        "RESOURCE_USAGE_RESTRICTION_VIOLATED",
        "LOCATION_POLICY_VIOLATED",
        "RESOURCE_PROJECT_INVALID",
    ],
)
def test_a_fault_of_our_project_is_never_blamed_on_the_user(reason: str) -> None:
    status, content = google_error(403, "PERMISSION_DENIED", DEBUG_INFO, error_info(reason))
    assert isinstance(answer_of(status, body_of(content), NOW), Misconfigured)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b""),
        (200, {"archiveJobId": ""}),
        (200, {"archiveJobId": "a/b"}),
        (204, b""),
        (408, b""),
        (499, b""),
        google_error(500, "INTERNAL"),
        (502, b"<html>Bad Gateway</html>"),
        google_error(503, "UNAVAILABLE"),
        google_error(504, "DEADLINE_EXCEEDED"),
        (500, b"[" * 100_000),
    ],
)
def test_an_answer_that_may_hide_a_carried_out_call_is_unknown(answer: Any) -> None:
    assert isinstance(answer_of(answer[0], body_of(answer[1]), NOW), Unknown)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 500])
@pytest.mark.parametrize(
    "content",
    [None, [], "words", {"error": []}, {"error": {"details": {}}}, {"error": {"details": [None, {"@type": 1}]}}],
)
def test_a_body_of_any_shape_breaks_nothing(status: int, content: Any) -> None:
    answer_of(status, body_of(content), datetime.now(UTC))


def test_words_of_google_are_told_only_where_they_are_codes() -> None:
    status, content = google_error(404, "Bearer ya29.secret", error_info("a refresh token"))
    assert "(404)" in str(answer_of(status, body_of(content), NOW))


def test_no_cooldown_is_longer_than_a_month_whatever_google_names() -> None:
    status, content = google_error(429, "", error_info("X", timestamp_after_24hrs="9999-12-31T23:59:59Z"))
    assert Cooldown(NOW + timedelta(days=31)) == answer_of(status, body_of(content), NOW)
