"""Every documented answer of `archiveJobs.retry`, with and without each piece of metadata, and its verdict.

The verdicts are those of the program's contract, the shapes and reasons Google's:
https://developers.google.com/data-portability/user-guide/troubleshooting, https://google.aip.dev/193,
https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from local import foreign_answers
from local.answer_rows import FAULT, FAULT_IN_DOUBT, IN_DOUBT, NOT_NOW, Row, Verdict, in_both_forms, rejected, row
from local.google_errors import (
    access_denied,
    bad_request,
    debug_info,
    error,
    error_info,
    help_links,
    precondition_failure,
    quota_failure,
    retry_info,
    unauthenticated,
    unregistered_caller,
)
from local.scripted import Answer

HOURS, DAYS = 3600.0, 86400.0
ACCESS_DENIED, NOT_FOUND = rejected("ACCESS_DENIED"), rejected("JOB_NOT_FOUND")
NOT_RETRYABLE = rejected("JOB_NOT_RETRYABLE")
ONE_TIME_USED = rejected("REAUTHORIZATION_REQUIRED", "ONE_TIME_GRANT_USED")
_API = "dataportability.googleapis.com"


def deferred(seconds: float) -> Verdict:
    """Until so many seconds from now."""
    return Verdict("deferred", seconds=seconds)


def _new(job: Any, **more: Any) -> Answer:
    return Answer(200, {"archiveJobId": job, **more})


def _successes() -> Iterator[Row]:
    yield row("new job", _new("new-job"), Verdict("retried", new_job="new-job"))
    yield row("new job, more fields", _new("new-job-2", state=["x"]), Verdict("retried", new_job="new-job-2"))
    yield row("own id", lambda job, _: _new(job), NOT_RETRYABLE)
    for name, job in {"no": "", "null": None, "number": 7, "path": "a/b", "blank": "a b", "long": "x" * 257}.items():
        yield row(f"{name} id", _new(job), FAULT_IN_DOUBT)
    yield row("error in a 200", Answer(200, {"error": {"code": 200, "message": ""}}), FAULT_IN_DOUBT)
    yield row("new job in a list", Answer(200, [{"archiveJobId": "new-job"}]), FAULT_IN_DOUBT)
    yield row("new job in a 202", Answer(202, {"archiveJobId": "new-job"}), FAULT_IN_DOUBT)


def _doubts() -> Iterator[Row]:
    codes = {408: "", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}
    for code, status in (codes | {504: "DEADLINE_EXCEEDED"}).items():
        yield row(f"{code} {status}".strip(), error(code, status, "Not now."), IN_DOUBT)
    disabled = error_info("SERVICE_DISABLED", "googleapis.com")
    yield row("503 with an ErrorInfo", error(503, "UNAVAILABLE", "Not now.", disabled, retry_info(3600)), IN_DOUBT)
    yield row("500 UNKNOWN", error(500, "UNKNOWN", "Unknown error.", debug_info("a stack")), IN_DOUBT)


def _unauthenticated() -> Iterator[Row]:
    twice = replace(NOT_NOW, calls=2)
    for reason in ("ACCESS_TOKEN_EXPIRED", "CREDENTIALS_MISSING", "ACCESS_TOKEN_TYPE_UNSUPPORTED"):
        yield row(f"401 {reason}", unauthenticated(reason), twice)
    gone = rejected("REAUTHORIZATION_REQUIRED", "ACCOUNT_STATE", calls=2)
    yield row("401 ACCOUNT_STATE_INVALID", unauthenticated("ACCOUNT_STATE_INVALID"), gone)
    yield row("401, no details", error(401, "UNAUTHENTICATED", "Invalid credentials."), twice)


def _exhausted(code: int, reason: str, *details: Any, message: str = "Already exported.", **metadata: str) -> Answer:
    status = "RESOURCE_EXHAUSTED" if code == 429 else "FAILED_PRECONDITION"
    return error(code, status, message, *details, error_info(reason, **metadata))


def _at(seconds: float, make: Callable[[str], Answer]) -> Callable[[str, datetime], Answer]:
    """An answer that names the time in so many seconds."""
    return lambda _job, now: make(_rfc3339(now + timedelta(seconds=seconds)))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _cooldowns(code: int) -> Iterator[Row]:
    one, based = "RESOURCE_EXHAUSTED_ONE_TIME", "RESOURCE_EXHAUSTED_TIME_BASED"

    def timed(name: str, seconds: float, make: Callable[[str], Answer], verdict: Verdict | None = None) -> Row:
        return row(f"{code} {name}", _at(seconds, make), verdict or deferred(seconds))

    yield row(f"{code} one-time", _exhausted(code, one, previous_job_ids="a,b"), ONE_TIME_USED)
    yield row(f"{code} one-time, no metadata", _exhausted(code, one), ONE_TIME_USED)
    stamped = timed("one-time with a time", HOURS, lambda at: _exhausted(code, one, timestamp_after_24hrs=at))
    yield replace(stamped, verdict=ONE_TIME_USED)
    yield timed(
        "time-based",
        5 * HOURS,
        lambda at: _exhausted(code, based, previous_job_ids="a,b", timestamp_after_24hrs=at),
    )
    yield timed("time-based, time alone", 5 * HOURS, lambda at: _exhausted(code, based, timestamp_after_24hrs=at))
    yield timed("time-based, other key", 4 * HOURS, lambda at: _exhausted(code, based, available_after=at))
    yield timed(
        "time-based, unreadable time and other key",
        4 * HOURS,
        lambda at: _exhausted(code, based, timestamp_after_24hrs="tomorrow", available_after=at),
    )
    yield timed(
        "time-based, time in the message",
        3 * HOURS,
        lambda at: _exhausted(code, based, message=f"Already exported. Try again after {at}."),
    )
    yield timed(
        "time-based, time in metadata and message",
        2 * HOURS,
        lambda at: _exhausted(code, based, message="Not before 2099-01-01T00:00:00Z.", timestamp_after_24hrs=at),
    )
    delayed = _exhausted(code, based, retry_info(2 * HOURS), previous_job_ids="a")
    yield row(f"{code} time-based, RetryInfo", delayed, deferred(2 * HOURS))
    yield row(f"{code} time-based, ids alone", _exhausted(code, based, previous_job_ids="a"), deferred(DAYS))
    yield row(f"{code} time-based, no metadata", _exhausted(code, based), deferred(DAYS))
    yield timed("time-based, passed", -60, lambda at: _exhausted(code, based, timestamp_after_24hrs=at), NOT_NOW)
    yield timed(
        "time-based, in 60 days",
        60 * DAYS,
        lambda at: _exhausted(code, based, timestamp_after_24hrs=at),
        deferred(31 * DAYS),
    )
    yield timed("time alone", HOURS, lambda at: _exhausted(code, "A_NEW_REASON", timestamp_after_24hrs=at))


def _rates() -> Iterator[Row]:
    quota = quota_failure("Requests per minute")
    for code, status in ((429, "RESOURCE_EXHAUSTED"), (403, "PERMISSION_DENIED")):
        for reason in ("RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"):
            info = error_info(
                reason, "googleapis.com", quota_limit="RequestsPerMinutePerProject", consumer="projects/1"
            )
            for seconds, verdict in ((30, NOT_NOW), (600, NOT_NOW), (1800, deferred(1800))):
                name, answer = f"{code} {reason}, {seconds} s", error(code, status, "Quota.", retry_info(seconds), info)
                yield row(name, answer, verdict)
            yield row(f"{code} {reason}", error(code, status, "Quota.", info, quota), NOT_NOW)
    yield row("429, no details", error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted."), NOT_NOW)
    yield row("429 QuotaFailure", error(429, "RESOURCE_EXHAUSTED", "Quota.", quota), NOT_NOW)
    yield row("429 RetryInfo", error(429, "RESOURCE_EXHAUSTED", "Quota.", retry_info(2 * HOURS)), deferred(2 * HOURS))


def _exists(*details: dict[str, Any]) -> Answer:
    return error(409, "ALREADY_EXISTS", "An identical job exists.", *details)


def _conflicts() -> Iterator[Row]:
    for access in ("ONE_TIME", "TIME_BASED"):
        reason = f"ALREADY_EXISTS_{access}"
        adopted = Verdict("retried", new_job="running-job")
        yield row(f"409 {access}", _exists(debug_info("x"), error_info(reason, job_id="running-job")), adopted)
        yield row(f"409 {access}, own id", lambda job, _, r=reason: _exists(error_info(r, job_id=job)), NOT_RETRYABLE)  # type: ignore[misc]
        yield row(f"409 {access}, no id", _exists(error_info(reason)), NOT_RETRYABLE)
    yield row("409 ALREADY_EXISTS", _exists(), NOT_RETRYABLE)
    yield row("409 ALREADY_EXISTS, foreign", _exists(error_info("X", "googleapis.com")), FAULT)
    yield row("409 ABORTED", error(409, "ABORTED", "Try again."), NOT_NOW)
    yield row("409 ABORTED, 2 h", error(409, "ABORTED", "Later.", retry_info(2 * HOURS)), deferred(2 * HOURS))


# Not one of them is about the user: error_reason.proto's words for a project, its services, keys and policies.
_PROJECT_REASONS = (
    "SERVICE_DISABLED",
    "BILLING_DISABLED",
    "CONSUMER_SUSPENDED",
    "CONSUMER_INVALID",
    "USER_PROJECT_DENIED",
    "API_KEY_SERVICE_BLOCKED",
    "API_KEY_HTTP_REFERRER_BLOCKED",
    "SECURITY_POLICY_VIOLATED",
    "LOCATION_TAX_POLICY_VIOLATED",
    "ORG_RESTRICTION_VIOLATION",
    "RESOURCE_USAGE_RESTRICTION_VIOLATED",
    "IAM_PERMISSION_DENIED",
    "SERVICE_NOT_VISIBLE",
    "GCP_SUSPENDED",
    "TLS_CIPHER_RESTRICTED",
    "A_REASON_NOBODY_HAS_LISTED",
)


def _denials() -> Iterator[Row]:
    def denied(*details: dict[str, Any], message: str = "The caller does not have permission") -> Answer:
        return error(403, "PERMISSION_DENIED", message, *details)

    yield row("403 DebugInfo", access_denied(), ACCESS_DENIED)
    yield row("403, no details", denied(), ACCESS_DENIED)
    yield row("403 of the API", denied(error_info("ANY_REASON", _API)), ACCESS_DENIED)
    scopes = error_info(
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", service=_API, method="RetryPortabilityArchive"
    )
    yield row("403 scopes", denied(scopes, message="Request had insufficient authentication scopes."), ACCESS_DENIED)
    yield row("403 unregistered caller", unregistered_caller(), FAULT)
    yield row("403 PreconditionFailure", denied(precondition_failure("TOS")), FAULT)
    yield row("403 QuotaFailure", denied(quota_failure("a day")), FAULT)
    for reason in _PROJECT_REASONS:
        info = error_info(reason, "googleapis.com", service=_API, consumer="projects/123456789")
        yield row(f"403 {reason}", denied(help_links(), info), FAULT)
        yield row(f"403 {reason}, bare", denied(error_info(reason, "googleapis.com")), FAULT)


def _requests() -> Iterator[Row]:
    for code, status, verdict in (
        (404, "NOT_FOUND", NOT_FOUND),
        (400, "FAILED_PRECONDITION", NOT_RETRYABLE),
        (400, "INVALID_ARGUMENT", NOT_RETRYABLE),
        (400, "OUT_OF_RANGE", NOT_RETRYABLE),
    ):
        name = f"{code} {status}"
        yield row(name, error(code, status, "It says no."), verdict)
        yield row(f"{name}, BadRequest", error(code, status, "No.", bad_request("name")), verdict)
        yield row(f"{name} of the API", error(code, status, "No.", error_info("ANY_REASON", _API)), verdict)
        yield row(
            f"{name}, foreign", error(code, status, "No.", error_info("API_KEY_INVALID", "googleapis.com")), FAULT
        )
    for code, status in ((400, "A_NEW_STATUS"), (405, ""), (409, "A_NEW_STATUS"), (411, ""), (412, ""), (413, "")):
        yield row(f"{code} {status}".strip(), error(code, status, "No."), FAULT)


_OWN = (
    *_doubts(),
    *_unauthenticated(),
    *_cooldowns(429),
    *_cooldowns(400),
    *_rates(),
    *_conflicts(),
    *_denials(),
    *_requests(),
)
RETRY: tuple[Row, ...] = (*_successes(), *in_both_forms(_OWN), *foreign_answers.TO_RETRY)
