"""Contract, section 9, archiveJobs.retry: every row, and what stands in none."""

from typing import Any

import pytest

from handlers.domain.answers import NotSent, OutcomeUnknown
from local.google_apis import MARK
from tests.unit.fakes import START, Answer, detail, error_info, google_error
from tests.unit.instance import Instance, LogLines, later, push, verdict

DAY, HOUR = 86_400, 3600
LATER = later(DAY).isoformat()
FOREIGN = "googleapis.com"  # the domain of Google's front end
TIME_BASED, ONE_TIME = "RESOURCE_EXHAUSTED_TIME_BASED", "RESOURCE_EXHAUSTED_ONE_TIME"


def retry_info(delay: Any) -> dict[str, Any]:
    return detail("RetryInfo", retryDelay=delay)


def exhausted(*details: Any, status: int = 429, message: str = "words") -> Answer:
    code = "RESOURCE_EXHAUSTED" if status == 429 else "FAILED_PRECONDITION"
    return google_error(status, code, *details, message=message)


def exists(reason: str = "ALREADY_EXISTS_ONE_TIME", domain: str = FOREIGN, **metadata: Any) -> Answer:
    return google_error(409, "ALREADY_EXISTS", error_info(reason, domain, **metadata))


OWN: list[tuple[Answer, str]] = [  # Google's own answers
    # 401, twice
    (google_error(401, "UNAUTHENTICATED"), "transient"),
    (google_error(401, "UNAUTHENTICATED", error_info("ACCESS_TOKEN_EXPIRED", FOREIGN)), "transient"),
    (
        google_error(401, "UNAUTHENTICATED", error_info("ACCOUNT_STATE_INVALID", FOREIGN)),
        "REAUTHORIZATION_REQUIRED ACCOUNT_STATE",
    ),
    # a one-time grant
    (exhausted(error_info(ONE_TIME)), "REAUTHORIZATION_REQUIRED ONE_TIME_GRANT_USED"),
    (exhausted(error_info(ONE_TIME, FOREIGN), status=400), "REAUTHORIZATION_REQUIRED ONE_TIME_GRANT_USED"),
    (exhausted(error_info(ONE_TIME, timestamp_after_24hrs=LATER)), "REAUTHORIZATION_REQUIRED ONE_TIME_GRANT_USED"),
    # a cooldown, and where its time is to be found
    (exhausted(error_info(TIME_BASED, timestamp_after_24hrs=LATER)), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED, timestamp_after_24hrs=LATER), status=400), f"deferred for {DAY} s"),
    (exhausted(error_info("X", FOREIGN, timestamp_after_24hrs=LATER)), f"deferred for {DAY} s"),
    (exhausted(error_info("X", timestamp_after_24hrs=LATER), status=400), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED, timestamp_after_24hrs="2026-11-24t18:00:00z")), f"deferred for {DAY} s"),
    (
        exhausted(error_info(TIME_BASED, another="x", next_time=LATER), retry_info("60s"), message="or 2026-12-01"),
        f"deferred for {DAY} s",
    ),
    (
        exhausted(error_info(TIME_BASED, timestamp_after_24hrs="soon", next_time=LATER), message=later(5).isoformat()),
        f"deferred for {DAY} s",
    ),
    (
        exhausted(error_info(TIME_BASED), retry_info("60s"), message="You can export again at 2026-11-24T18:00:00Z."),
        f"deferred for {DAY} s",
    ),
    (exhausted(error_info(TIME_BASED), message="again after 2026-11-24T19:00:00.5+01:00"), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED), retry_info("60s")), "deferred for 60 s"),
    (exhausted(error_info(TIME_BASED)), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED), status=400), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED, timestamp_after_24hrs=1764000000)), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED, previous_job_ids="one two")), f"deferred for {DAY} s"),
    (exhausted(error_info(TIME_BASED, timestamp_after_24hrs="9999-12-31T23:59:59Z")), f"deferred for {31 * DAY} s"),
    (exhausted(error_info(TIME_BASED), retry_info("999999999s")), f"deferred for {31 * DAY} s"),
    (exhausted(retry_info("315576000000s")), f"deferred for {31 * DAY} s"),
    (exhausted(error_info(TIME_BASED, timestamp_after_24hrs=START.isoformat())), "transient"),
    (exhausted(error_info("X", timestamp_after_24hrs="2026-11-01T00:00:00Z"), status=400), "transient"),
    # any other quota
    (exhausted(), "transient"),
    (exhausted(detail("QuotaFailure"), retry_info("30s")), "transient"),
    (exhausted(retry_info("600s")), "transient"),
    (exhausted(retry_info("601s")), "deferred for 601 s"),
    (exhausted(retry_info("3600.5s")), "deferred for 3600 s"),
    (exhausted(retry_info("soon")), "transient"),
    (exhausted(error_info("RATE_LIMIT_EXCEEDED", FOREIGN)), "transient"),
    (google_error(403, "PERMISSION_DENIED", error_info("RATE_LIMIT_EXCEEDED", FOREIGN)), "transient"),
    (google_error(403, "PERMISSION_DENIED", error_info("RESOURCE_QUOTA_EXCEEDED", FOREIGN)), "transient"),
    (
        google_error(403, "PERMISSION_DENIED", error_info("RATE_LIMIT_EXCEEDED"), retry_info(f"{HOUR}s")),
        f"deferred for {HOUR} s",
    ),
    (google_error(409, "ABORTED"), "transient"),
    (google_error(409, "ABORTED", retry_info(f"{HOUR}s")), f"deferred for {HOUR} s"),
    # an export that runs already
    (exists(job_id="running"), "retried as running"),
    (exists("ALREADY_EXISTS_TIME_BASED", job_id="archiveJobs/running"), "retried as running"),
    (google_error(409, "X", error_info("ALREADY_EXISTS_ONE_TIME", job_id="running")), "retried as running"),
    (exists("X", job_id="running"), "retried as running"),
    (exists(job_id="job"), "JOB_NOT_RETRYABLE"),
    (google_error(409, "ALREADY_EXISTS"), "JOB_NOT_RETRYABLE"),
    (exists("X", "dataportability.googleapis.com"), "JOB_NOT_RETRYABLE"),
    (exists("X", "dataportability.googleapis.com", job_id="../../etc"), "JOB_NOT_RETRYABLE"),
    (exists("X"), "fault"),
    # a grant that does not cover the job
    (google_error(403, "PERMISSION_DENIED"), "ACCESS_DENIED"),
    (google_error(403, "PERMISSION_DENIED", detail("DebugInfo", detail="internals")), "ACCESS_DENIED"),
    (google_error(403, "PERMISSION_DENIED", error_info("X")), "ACCESS_DENIED"),
    (google_error(403, "PERMISSION_DENIED", error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", FOREIGN)), "ACCESS_DENIED"),
    (google_error(403, "PERMISSION_DENIED", detail("PreconditionFailure")), "fault"),
    (google_error(403, "PERMISSION_DENIED", detail("QuotaFailure")), "fault"),
    (
        google_error(
            403,
            "PERMISSION_DENIED",
            message="Method doesn't allow unregistered callers (callers without established identity).",
        ),
        "fault",
    ),
    (google_error(403, "PERMISSION_DENIED", message="Method doesn't allow Unregistered Callers"), "fault"),
    # a job that is not there, or not to be retried
    (google_error(404, "NOT_FOUND"), "JOB_NOT_FOUND"),
    (google_error(404, "NOT_FOUND", error_info("X")), "JOB_NOT_FOUND"),
    (google_error(404, "NOT_FOUND", error_info("X", FOREIGN)), "fault"),
    (google_error(400, "FAILED_PRECONDITION"), "JOB_NOT_RETRYABLE"),
    (google_error(400, "INVALID_ARGUMENT", detail("BadRequest")), "JOB_NOT_RETRYABLE"),
    (google_error(400, "OUT_OF_RANGE", error_info("X")), "JOB_NOT_RETRYABLE"),
    (google_error(400, "INVALID_ARGUMENT", error_info("API_KEY_INVALID", FOREIGN)), "fault"),
    (google_error(400, "FAILED_PRECONDITION", error_info("BILLING", FOREIGN)), "fault"),
    (google_error(400, "SOMETHING_NEW"), "fault"),
    (google_error(400), "fault"),
    # anything else
    (google_error(302, "X"), "fault"),
    (google_error(402, "X"), "fault"),
    (google_error(405, "X"), "fault"),
    (google_error(410, "X"), "fault"),
    (google_error(411, "X"), "fault"),
    (google_error(412, "FAILED_PRECONDITION"), "fault"),
    (google_error(418, "NOT_FOUND"), "fault"),
    *[
        (google_error(403, "PERMISSION_DENIED", detail("DebugInfo"), error_info(reason, FOREIGN)), "fault")
        for reason in (
            "SERVICE_DISABLED",
            "BILLING_DISABLED",
            "CONSUMER_SUSPENDED",
            "CONSUMER_INVALID",
            "GCP_SUSPENDED",
            "SERVICE_NOT_VISIBLE",
            "USER_PROJECT_DENIED",
            "SECURITY_POLICY_VIOLATED",
            "SOMETHING_NEW",
        )
    ],
]


@pytest.mark.parametrize(("answer", "expected"), OWN, ids=lambda value: str(value)[:60])
async def test_answer_of_googles_own(answer: Answer, expected: str) -> None:
    status, content = answer
    for body in (content, [content], [content, {"error": {"code": 403}}]):
        instance = Instance()
        instance.script("job", (status, body))
        assert expected == await verdict(instance)
        assert 1 + (status == 401) == len(instance.http.retries)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (NotSent("ClientConnectorError"), "transient"),
        ((200, {"archiveJobId": "new"}), "retried as new"),
        ((200, {"archiveJobId": "archiveJobs/new", "more": 1}), "retried as new"),
        ((200, {"archiveJobId": "archiveJobs/job"}), "JOB_NOT_RETRYABLE"),
        ((200, {"archiveJobId": ""}), "fault, in doubt"),
        ((200, {"archiveJobId": "a/b"}), "fault, in doubt"),
        ((200, {"archiveJobId": 5}), "fault, in doubt"),
        ((200, [{"archiveJobId": "new"}]), "fault, in doubt"),
        ((200, b""), "fault, in doubt"),
        ((200, b"<html>Sign in to the proxy"), "fault, in doubt"),
        ((201, {"archiveJobId": "new"}), "fault, in doubt"),
        ((204, b""), "fault, in doubt"),
        ((500, b""), "in doubt"),
        ((502, b"<html>Bad Gateway"), "in doubt"),
        ((599, b"["), "in doubt"),
        ((408, b""), "in doubt"),
        ((499, b""), "in doubt"),
        ((408, f"<pre>Authorization: Bearer {MARK}-access-1</pre>".encode()), "in doubt"),
        (google_error(503, "UNAVAILABLE"), "in doubt"),
        (google_error(504, "DEADLINE_EXCEEDED", error_info(TIME_BASED)), "in doubt"),
        (OutcomeUnknown("ServerDisconnectedError"), "in doubt"),
        ((429, b"<html>slow down"), "transient"),
        ((429, b""), "transient"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_answer_without_an_error_of_googles(instance: Instance, step: Any, expected: str) -> None:
    instance.script("job", step)
    assert expected == await verdict(instance)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><title>403</title>",
        b"[" * 100_000,
        [],
        [None],
        "words",
        None,
        {"error": "access_denied"},
        {"error": []},
        {"error": {}},
        {"error": {"status": "PERMISSION_DENIED"}},
        {"error": {"code": 499, "status": "PERMISSION_DENIED"}},
        {"error": {"code": "STATUS", "status": "NOT_FOUND"}},
        {"error": {"code": True, "status": "NOT_FOUND"}},
        {"code": 403, "message": "denied"},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_answer_of_somebody_elses_is_a_fault_of_ours(body: Any) -> None:
    for status in (301, 302, 307, 400, 401, 403, 404, 405, 407, 409, 410, 411, 413, 418, 431, 451):
        instance = Instance()
        content = {"error": body["error"] | {"code": str(status)}} if "STATUS" in str(body) else body
        instance.script("job", (status, content))
        assert (status, "fault") == (status, await verdict(instance))
        assert 1 == len(instance.http.retries)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({}, "JOB_NOT_FOUND"),
        ([None, 5, "x", {"@type": 1}, {}], "JOB_NOT_FOUND"),
        ([{"@type": "google.rpc.ErrorInfo"}], "fault"),  # of no domain
    ],
)
async def test_details_of_any_shape_are_read_for_their_error_info(
    instance: Instance, details: Any, expected: str
) -> None:
    status, content = google_error(404, "NOT_FOUND")
    content["error"]["details"] = details
    instance.script("job", (status, content))
    assert expected == await verdict(instance)


async def test_unlisted_answer_is_logged_so_that_it_can_be_pasted(instance: Instance, logged: LogLines) -> None:
    info = error_info("SOMETHING_NEW", FOREIGN, consumer="projects/5", service="x", **{"not a key": "x"})
    instance.script("job", google_error(403, "PERMISSION_DENIED", info, message="New here. The rest is left out"))
    await instance.post(push({"archiveJobId": "job", "userId": "alice"}))
    assert (
        "archiveJobs.retry was answered 403 PERMISSION_DENIED SOMETHING_NEW googleapis.com metadata:consumer,service"
        in logged.lines[0]["message"]
    )
    assert "The rest" not in logged.lines[0]["message"]


async def test_words_that_are_no_codes_are_not_repeated(instance: Instance) -> None:
    instance.script("job", google_error(404, "Bearer ya29.x", error_info("a refresh token")))
    await verdict(instance)
    assert instance.rejected[0]["detail"].endswith("(404 dataportability.googleapis.com)")
