"""The Data Portability API, and the one table of what its answers mean.

https://developers.google.com/data-portability/reference/rest/v1/archiveJobs/retry has no list of errors. The rows come
from https://developers.google.com/data-portability/user-guide/troubleshooting, .../methods and
https://google.aip.dev/193. An answer that no row names is a fault of ours: nobody is rejected without Google's word.
"""

import re
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from handlers.domain.answers import (
    AlreadyRunning,
    Answer,
    Cooldown,
    JobState,
    NewJob,
    NotSent,
    OutcomeUnknown,
    Unauthorized,
)
from handlers.domain.events import JobId, decode_fields, plain_job_id
from handlers.domain.ledger_entry import NEW_EXPORT
from handlers.domain.outcomes import Cause, Fault, Reason, Rejection, RetryLater
from handlers.google.google_error import API_DOMAIN, GoogleError, json_of, moment, parse_error, word
from handlers.google.http_client import Http, HttpResponse

_DETAILS = {
    Reason.ACCESS_DENIED: "This user's grant does not cover the job: ask for consent with the scopes that it needs.",
    Reason.JOB_NOT_FOUND: f"Google knows no such archive job: check the id. {NEW_EXPORT}",
    Reason.JOB_NOT_RETRYABLE: f"Google does not retry this job: it has not failed, or was retried. {NEW_EXPORT}",
}
_Judged = TypeVar("_Judged", Answer | Unauthorized, JobState | Answer | Unauthorized)
_SOMEBODY_ELSE = "is DATA_PORTABILITY_API_ENDPOINT or a proxy wrong?"
_ONE_TIME = Rejection(
    Reason.REAUTHORIZATION_REQUIRED,
    "The one-time grant is used up (RESOURCE_EXHAUSTED_ONE_TIME). Wait until all exports of this user have ended and "
    "are downloaded: a reset removes them. Then reset the authorization and ask for consent again.",
    Cause.ONE_TIME_GRANT_USED,
)

_ACCOUNT_STATE = Rejection(
    Reason.REAUTHORIZATION_REQUIRED,
    "Google refuses this account's access tokens (ACCOUNT_STATE_INVALID). Once the account is in order, ask the user "
    "for consent again.",
    Cause.ACCOUNT_STATE,
)

_LONGEST_BACK_OFF = timedelta(seconds=600)  # what Pub/Sub can wait by itself
_LONGEST_COOLDOWN = timedelta(days=31)  # Google speaks of 24 hours; whatever it names, it is asked again after this
_COOLDOWN = timedelta(hours=24)
_QUOTAS = {"RATE_LIMIT_EXCEEDED", "RESOURCE_QUOTA_EXCEEDED"}  # of a 403
_NOT_RETRYABLE = {400: {"FAILED_PRECONDITION", "INVALID_ARGUMENT", "OUT_OF_RANGE"}, 409: {"ALREADY_EXISTS"}}
_FRAGMENT = 8  # characters of a token that are told nowhere
_REST = re.compile(r"(?<=[.!?])\s|\s*\S*(://|\?\S)")  # from the end of the first sentence on, or from a URL
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")


class PortabilityApi:
    """Google's API at this endpoint."""

    def __init__(self, http: Http, endpoint: str) -> None:
        self._http = http
        self._endpoint = endpoint.rstrip("/")
        self._host = urlsplit(endpoint).hostname or ""

    async def retry(self, job_id: str, *, token: str, seconds: float, now: datetime) -> Answer | Unauthorized:
        """Send archiveJobs.retry once. `now`, by Google's clock, tells what a time in the answer means."""
        # The body has to be empty; without an explicit length some front ends answer 411.
        headers = {"Authorization": f"Bearer {token}", "Content-Length": "0"}
        url = f"{self._endpoint}/v1/archiveJobs/{job_id}:retry"
        response = await self._http.request("POST", url, headers=headers, body=b"", seconds=seconds)
        match response:
            case NotSent(detail):
                return NotSent(f"archiveJobs.retry was not sent to {self._host}: {detail}")
            case OutcomeUnknown(detail):
                return OutcomeUnknown(f"archiveJobs.retry was sent to {self._host}, with no answer: {detail}")
        answer = judge_retry(response.status, response.body, now, self._host)
        if isinstance(answer, OutcomeUnknown):  # whatever the body is, it is told nowhere
            return answer
        if _holds(token, response, answer):
            said = f"archiveJobs.retry was answered {response.status} by {self._host} with the access token in it"
            return OutcomeUnknown(said, ours=True) if response.status < 300 else Fault(said)
        return _with_sentence(answer, response, token)

    async def state(
        self, job_id: str, *, token: str, seconds: float, now: datetime
    ) -> JobState | Answer | Unauthorized:
        """Send getPortabilityArchiveState once. The signed URLs in its answer are the user's data: they go nowhere."""
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self._endpoint}/v1/archiveJobs/{job_id}/portabilityArchiveState"
        response = await self._http.request("GET", url, headers=headers, body=b"", seconds=seconds)
        if not isinstance(response, HttpResponse):
            return RetryLater(f"portabilityArchiveState was not answered by {self._host}: {response.detail}")
        answer = judge_state(response.status, response.body, now, self._host)
        if _holds(token, response, answer):
            return Fault(f"portabilityArchiveState was answered by {self._host} with the access token in it")
        return _with_sentence(answer, response, token)


def judge_retry(status: int, body: bytes, now: datetime, host: str = API_DOMAIN) -> Answer | Unauthorized:
    """What an answer to archiveJobs.retry means: the first row that fits."""
    if 200 <= status < 300:
        job_id = _new_job_id(body) if status == 200 else ""
        said = f"archiveJobs.retry was answered {status} by {host} without a job's id: {_SOMEBODY_ELSE}"
        return NewJob(job_id) if job_id else OutcomeUnknown(said, ours=True)
    if status >= 500 or status in (408, 499):
        return OutcomeUnknown(f"archiveJobs.retry was answered {status} by {host}")
    return judge_error(parse_error(status, body, host), now, "archiveJobs.retry")


def judge_state(status: int, body: bytes, now: datetime, host: str = API_DOMAIN) -> JobState | Answer | Unauthorized:
    """What an answer to portabilityArchiveState means. A state that is missing or not known here is one, too."""
    method = "portabilityArchiveState"
    if 200 <= status < 300:
        content = json_of(body) if status == 200 else None
        if not isinstance(content, dict):
            return Fault(f"{method} was answered {GoogleError(http_status=status, host=host)}: {_SOMEBODY_ELSE}")
        return JobState(word(content.get("state")), moment(content.get("exportTime")))
    if status >= 500 or status in (408, 499):
        return RetryLater(f"{method} was answered {status} by {host}")
    return judge_error(parse_error(status, body, host), now, method)


def _holds(token: str, response: HttpResponse, answer: Any) -> bool:
    """Whether the access token stands in the body, or a part of it in what was read: JSON can write it with escapes."""
    read = f"{getattr(answer, 'job_id', '')} {getattr(answer, 'detail', '')} {getattr(answer, 'state', '')}"
    return token.encode() in response.body or _shares(read, token)


def _shares(text: str, token: str) -> bool:
    return any(text[at : at + _FRAGMENT] in token for at in range(len(text) - _FRAGMENT + 1))


def _with_sentence(answer: _Judged, response: HttpResponse, token: str) -> _Judged | Fault:
    """A fault of ours with Google's own first sentence, if nothing of that stands in the access token."""
    if not isinstance(answer, Fault):
        return answer
    message = parse_error(response.status, response.body).message
    sentence = _REST.split(message[:200], maxsplit=1)[0]
    may_be_told = sentence and sentence.isprintable() and not _shares(sentence, token)
    return Fault(f"{answer.detail}: {sentence}") if may_be_told else answer


def judge_error(error: GoogleError, now: datetime, method: str) -> Answer | Unauthorized:
    """What an error of less than 500 means, of any method of the API."""
    status, words = error.http_status, {error.reason, error.code}
    job_id = _job_id(error.metadata.get("job_id"))
    cooldown = error.reason == "RESOURCE_EXHAUSTED_TIME_BASED" or "timestamp_after_24hrs" in error.metadata
    kinds = error.kinds & {"ErrorInfo", "PreconditionFailure", "QuotaFailure"}
    may_be_front_ends = kinds or "unregistered callers" in error.message.lower()
    is_apis_own = "ACCESS_TOKEN_SCOPE_INSUFFICIENT" in words or error.domain == API_DOMAIN
    match status:
        case 429 if not error.is_googles:
            return RetryLater(f"{method} is held back: {error}")
        case _ if not error.is_googles:
            return Fault(f"{method} was answered {error}: {_SOMEBODY_ELSE}")
        case 401:
            # a grant that is gone shows at the next refresh, so only the account itself is a verdict
            again = RetryLater(f"{method}: Google refuses new access tokens too (401)")
            return Unauthorized(_ACCOUNT_STATE if error.reason == "ACCOUNT_STATE_INVALID" else again)
        case 429 | 400 if error.reason == "RESOURCE_EXHAUSTED_ONE_TIME":
            return _ONE_TIME
        case 429 | 400 if cooldown:
            until = _cooldown_end(error, now)
            if until <= now:
                return RetryLater(f"{method} is held back, until a time that has passed: {error}")
            return Cooldown(min(until, now + _LONGEST_COOLDOWN))
        case _ if status == 429 or (status == 403 and words & _QUOTAS) or (status == 409 and error.code == "ABORTED"):
            if error.retry_delay > _LONGEST_BACK_OFF:
                return Cooldown(now + min(error.retry_delay, _LONGEST_COOLDOWN))
            return RetryLater(f"{method} is held back: {error}")
        case 409 if job_id and any(code.startswith("ALREADY_EXISTS") for code in words):
            return AlreadyRunning(job_id)
        case 403 if is_apis_own or not may_be_front_ends:
            return _rejection(Reason.ACCESS_DENIED, error)
        case 404 if error.is_apis:
            return _rejection(Reason.JOB_NOT_FOUND, error)
        case 400 | 409 if error.is_apis and error.code in _NOT_RETRYABLE[status]:
            return _rejection(Reason.JOB_NOT_RETRYABLE, error)
    return Fault(f"{method} was answered {error}")


def _rejection(reason: Reason, error: GoogleError) -> Rejection:
    return Rejection(reason, f"{_DETAILS[reason]} ({error})")


def _cooldown_end(error: GoogleError, now: datetime) -> datetime:
    """The named time, another one in the metadata or in the message, a delay, or a day from now."""
    if named := moment(error.metadata.get("timestamp_after_24hrs")):
        return named
    texts = [text for _, text in sorted(error.metadata.items(), key=lambda item: str(item[0]))]
    moments = list(filter(None, map(moment, [*texts, *_RFC3339.findall(error.message)])))
    ahead = [one for one in moments if one > now]  # beside it may stand when the last export was
    return next(iter([*ahead, *moments]), now + min(error.retry_delay or _COOLDOWN, _LONGEST_COOLDOWN))


def _job_id(value: Any) -> str:
    try:
        return plain_job_id(msgspec.convert(value, JobId))
    except msgspec.ValidationError:
        return ""


def _new_job_id(body: bytes) -> str:
    """Read from this one field: whatever stands beside it, the id must not be lost."""
    try:
        return plain_job_id(msgspec.json.decode(decode_fields(body)["archiveJobId"], type=JobId))
    except (KeyError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
