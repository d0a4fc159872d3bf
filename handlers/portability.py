"""`archiveJobs.retry`, and the one table of what its answers mean.

https://developers.google.com/data-portability/reference/rest/v1/archiveJobs/retry has no list of errors. The rows come
from https://developers.google.com/data-portability/user-guide/troubleshooting and https://google.aip.dev/193.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

import msgspec

from handlers.events import JobId, plain_job_id
from handlers.outcomes import Misconfigured, Reason, Refused, Unavailable
from handlers.ports import Answer, Cooldown, Http, NeverSent, NewJob, NoAnswer, NotSent, TokenRefused, Unknown


class _Kind(Enum):
    NEW_JOB = auto()
    ADOPT = auto()
    NOT_YET = auto()
    TOKEN_REFUSED = auto()
    OURS = auto()
    UNKNOWN = auto()


# What says that the request itself is wrong (405, 411, 413, 414, 431) is a fault of ours, and of no job.
# (HTTP status, ErrorInfo.reason or error.status) → what it is; the first that is found of
# (status, reason), (status, error.status), (status, ""); nothing found: by the status's first digit, and else UNKNOWN
TABLE: dict[tuple[int, str], _Kind | Reason] = {
    (200, ""): _Kind.NEW_JOB,
    (400, "FAILED_PRECONDITION"): _Kind.NOT_YET,
    (401, ""): _Kind.TOKEN_REFUSED,
    (403, ""): Reason.ACCESS_DENIED,
    (403, "BILLING_DISABLED"): _Kind.OURS,
    (403, "CONSUMER_INVALID"): _Kind.OURS,
    (403, "CONSUMER_SUSPENDED"): _Kind.OURS,
    (403, "RATE_LIMIT_EXCEEDED"): _Kind.NOT_YET,
    (403, "RESOURCE_QUOTA_EXCEEDED"): _Kind.NOT_YET,
    (403, "LOCATION_ORG_POLICY_VIOLATED"): _Kind.OURS,
    (403, "LOCATION_POLICY_VIOLATED"): _Kind.OURS,
    (403, "ORG_RESTRICTION_VIOLATION"): _Kind.OURS,
    (403, "RESOURCE_PROJECT_INVALID"): _Kind.OURS,
    (403, "RESOURCE_USAGE_RESTRICTION_VIOLATED"): _Kind.OURS,
    (403, "SECURITY_POLICY_VIOLATED"): _Kind.OURS,
    (403, "SERVICE_DISABLED"): _Kind.OURS,
    (403, "USER_PROJECT_DENIED"): _Kind.OURS,
    (404, ""): Reason.JOB_NOT_FOUND,
    (405, ""): _Kind.OURS,
    (408, ""): _Kind.UNKNOWN,
    (409, "ABORTED"): _Kind.NOT_YET,
    (409, "ALREADY_EXISTS"): _Kind.ADOPT,
    (409, "ALREADY_EXISTS_ONE_TIME"): _Kind.ADOPT,
    (409, "ALREADY_EXISTS_TIME_BASED"): _Kind.ADOPT,
    (411, ""): _Kind.OURS,
    (413, ""): _Kind.OURS,
    (414, ""): _Kind.OURS,
    (429, ""): _Kind.NOT_YET,
    (431, ""): _Kind.OURS,
    (499, ""): _Kind.UNKNOWN,
}

_DEFAULTS: dict[int, _Kind | Reason] = {3: _Kind.OURS, 4: Reason.JOB_NOT_RETRYABLE}  # a redirect is not Google's

DETAILS = {
    Reason.ACCESS_DENIED: (
        "This user's grant does not cover the job: ask for consent with the scopes that it needs, then redrive this "
        "rejection, which is final until then."
    ),
    Reason.JOB_NOT_FOUND: "Google knows no such archive job: check the id, or start a new export.",
    Reason.JOB_NOT_RETRYABLE: "Google will not retry this job (not failed, or already retried): start a new export.",
}

_LONGEST_BACK_OFF = timedelta(seconds=600)  # what Pub/Sub can wait by itself
_LONGEST_COOLDOWN = timedelta(days=31)  # Google speaks of 24 hours; whatever is named, it is asked again after this
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class PortabilityApi:
    """Google's Data Portability API, as far as this program needs it."""

    def __init__(self, http: Http, endpoint: str, now: Callable[[], datetime]) -> None:
        self._http = http
        self._endpoint = endpoint.rstrip("/")
        self._now = now

    async def retry(self, job_id: str, *, token: str, seconds: float) -> Answer:
        """Send the call once. All that can come of it is a value: an exception would hide whether it was sent."""
        # The body has to be empty; without an explicit length some front ends answer 411.
        headers = {"Authorization": f"Bearer {token}", "Content-Length": "0"}
        url = f"{self._endpoint}/v1/archiveJobs/{job_id}:retry"
        try:
            status, body = await self._http.post(url, headers=headers, body=b"", seconds=seconds)
        except NotSent as error:
            return NeverSent(f"archiveJobs.retry was not sent: {error}")
        except NoAnswer as error:
            return Unknown(f"archiveJobs.retry was sent, with no answer: {error}")
        return answer_of(status, body, self._now())


def answer_of(status: int, body: bytes, now: datetime) -> Answer:
    """What Google's answer means. Any status and any body has exactly one meaning."""
    content = _json(body)
    error = _mapping(content, "error")
    info = _detail(error, "google.rpc.ErrorInfo")
    metadata = _mapping(info, "metadata")
    code, reason = _word(error.get("status")), _word(info.get("reason"))
    default = _DEFAULTS.get(status // 100, _Kind.UNKNOWN)
    words = [word for word in (reason, code) if word]
    kind = next((TABLE[status, word] for word in (*words, "") if (status, word) in TABLE), default)
    said = " ".join(filter(None, (str(status), code, reason if reason != code else "")))
    match kind:
        case _Kind.NEW_JOB | _Kind.ADOPT:
            job_id = _job_id(content.get("archiveJobId") if kind is _Kind.NEW_JOB else metadata.get("job_id"))
            if job_id:
                return NewJob(job_id)
            if kind is _Kind.NEW_JOB:
                return Unknown("archiveJobs.retry was answered without a job's id")
            kind = Reason.JOB_NOT_RETRYABLE
        case _Kind.NOT_YET:
            until = _moment(metadata.get("timestamp_after_24hrs"))
            delay = _duration(_detail(error, "google.rpc.RetryInfo").get("retryDelay"))
            if until is None and delay > _LONGEST_BACK_OFF:
                until = now + delay
            if until is not None and until > now:
                return Cooldown(min(until, now + _LONGEST_COOLDOWN))
            if status != 400 or until is not None:
                return Unavailable(f"archiveJobs.retry is held back by Google: {said}")
            kind = Reason.JOB_NOT_RETRYABLE
        case _Kind.TOKEN_REFUSED:
            return TokenRefused()
        case _Kind.OURS if status < 400:
            return Misconfigured(f"archiveJobs.retry was redirected, DATA_PORTABILITY_API_ENDPOINT is wrong: {said}")
        case _Kind.OURS:
            return Misconfigured(f"archiveJobs.retry is not open to this project: {said}")
        case _Kind.UNKNOWN:
            return Unknown(f"archiveJobs.retry was answered with {said}")
    return Refused(kind, f"{DETAILS[kind]} ({said})")


def _json(body: bytes) -> dict[str, Any]:
    """The object in the body; {} where there is none: a proxy's HTML, nothing, rubbish."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _mapping(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _detail(error: dict[str, Any], kind: str) -> dict[str, Any]:
    """The error's detail of this type; their order is not promised (https://google.aip.dev/193)."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith(kind):
            return detail
    return {}


def _word(value: Any) -> str:
    """A code to tell people, and nothing else that may stand in its place."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def _job_id(value: Any) -> str:
    try:
        return plain_job_id(msgspec.convert(value, JobId))
    except msgspec.ValidationError:
        return ""


def _moment(value: Any) -> datetime | None:
    """A time as RFC 3339 or in seconds since 1970: which of them Google uses is not documented."""
    try:
        moment = msgspec.convert(value, datetime, strict=False)
    except (msgspec.ValidationError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _duration(value: Any) -> timedelta:
    """A protobuf duration in JSON, `"3.5s"`; 0 for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?s", value):
        return timedelta(seconds=float(value[:-1]))
    return timedelta()
