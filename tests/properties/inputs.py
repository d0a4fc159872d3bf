"""Inputs of every kind: sound ones, rubbish, and what lies between them."""

import json
import string
from datetime import timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from local.google_apis import MARK

bad = 0  # inputs so far that were rejected, and rightly so


def rejected() -> None:
    """Count one more."""
    global bad  # noqa: PLW0603, the one figure of a process
    bad += 1


QUOTED = "not-to-be-quoted"  # stands in what comes in from outside, and must not come out in our own words
TOKEN = f"{MARK}-token"

_LETTERS = string.ascii_letters + string.digits + "_-"
user_ids = st.text(_LETTERS, min_size=1, max_size=128)
job_ids = st.text(_LETTERS + ".~", min_size=1, max_size=256)
_offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=_offsets)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    _scalars | st.text(max_size=20) | st.just(QUOTED),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)

_job_names = st.sampled_from(("", "archiveJobs/")).flatmap(lambda at: job_ids.map(lambda job: at + job))
events = st.fixed_dictionaries(
    {
        "archiveJobId": _job_names,
        "userId": user_ids,
    },
    optional={
        "credentialId": user_ids | st.none(),
        "rootArchiveJobId": _job_names | st.none(),
        "attempt": st.integers(min_value=0) | st.integers(0, 9).map(float) | st.none(),
        "failedAt": moments.map(lambda moment: moment.isoformat()) | st.none(),
        "theirs": anything,
    },
)


_yes_or_no, _two_bytes, _few_bytes = st.booleans(), st.binary(min_size=1, max_size=2), st.binary(max_size=3)
_harms = st.sampled_from(("whole", "cut", "byte", "more"))


def spoiled(draw: st.DrawFn, content: Any) -> bytes:
    """As JSON, with something that is another value, missing, cut off, or not the byte that it was."""
    if isinstance(content, dict) and content and draw(_yes_or_no):
        content = {**content, sorted(content)[draw(_places) % len(content)]: draw(anything)}
    data = json.dumps(content).encode()
    place = draw(_places) % (len(data) + 1)
    match draw(_harms):
        case "cut":
            data = data[:place]
        case "byte":
            data = data[:place] + draw(_two_bytes) + data[place + 1 :]
        case "more":
            data += draw(_few_bytes)
    return data


_places = st.integers(0, 10_000)


@st.composite
def nearly(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> bytes:
    """A sound message, or nearly so."""
    return spoiled(draw, draw(sound))


# Google's answers. The words are those of the API's documentation, not of the program.

_CODES = (
    "ABORTED",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "X",
)
_REASONS = (
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
    "ACCOUNT_STATE_INVALID",
    "ALREADY_EXISTS_ONE_TIME",
    "SERVICE_DISABLED",
    "RESOURCE_EXHAUSTED_ONE_TIME",
    "RESOURCE_EXHAUSTED_TIME_BASED",
    "RATE_LIMIT_EXCEEDED",
    "X",
)
_metadata = anything | st.fixed_dictionaries(
    {},
    optional={
        "job_id": job_ids | anything,
        "timestamp_after_24hrs": moments.map(str) | st.floats() | st.integers() | anything,
    },
)
_info = st.fixed_dictionaries(
    {"@type": st.just("type.googleapis.com/google.rpc.ErrorInfo"), "reason": st.sampled_from(_REASONS) | anything},
    optional={
        "metadata": _metadata,
        "domain": st.sampled_from(("dataportability.googleapis.com", "googleapis.com")) | anything,
    },
)
_retry_info = st.fixed_dictionaries(
    {
        "@type": st.just("type.googleapis.com/google.rpc.RetryInfo"),
        "retryDelay": anything | st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,12})?s", fullmatch=True),
    }
)
details = st.lists(_info | _retry_info | anything, max_size=3, unique_by=str)
errors = st.fixed_dictionaries(
    {"status": st.sampled_from(_CODES) | anything, "message": st.just(QUOTED), "details": details}
)
statuses = st.sampled_from((302, 400, 401, 403, 404, 409, 429, 500, 502)) | st.integers(200, 599)


_kinds = st.sampled_from(("own", "list", "nearly", "job", "other"))
_jobs, _bytes = job_ids | anything, st.binary(max_size=60)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, bytes]:
    """A status and a body, of Google's own or nearly so."""
    status, kind = draw(statuses), draw(_kinds)
    if kind == "other":
        return status, draw(_bytes)
    if kind == "job":
        return status, json.dumps({"archiveJobId": draw(_jobs)}).encode()
    own = {"error": draw(errors) | {"code": status}}
    if kind == "nearly":
        return status, spoiled(draw, own)
    return status, json.dumps([own] if kind == "list" else own).encode()


def is_own(status: int, body: bytes) -> bool:
    """Whether a body is Google's own, as the contract says it."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False
    content = content[0] if isinstance(content, list) and content else content
    error = content.get("error") if isinstance(content, dict) else None
    return isinstance(error, dict) and error.get("code") == status


@st.composite
def foreign_answers(draw: st.DrawFn) -> tuple[int, bytes]:
    """An answer that is not Google's own: of a proxy, a front end, a wrong endpoint."""
    status, body = draw(_answers)
    if is_own(status, body):
        body = json.dumps({"error": draw(errors) | {"code": draw(_codes) % (status - 1)}}).encode()
    if status == 200 and b"archiveJobId" in body:
        body = b"<html>Welcome</html>"
    return status, body


_answers, _codes = answers(), st.integers(0, 599)
foreign = foreign_answers()

oauth_bodies = st.binary(max_size=60) | nearly(
    st.fixed_dictionaries(
        {},
        optional={
            "access_token": st.just(TOKEN) | anything,
            "expires_in": st.integers() | st.floats() | anything,
            "scope": st.text() | st.just("https://www.googleapis.com/auth/dataportability.x email") | anything,
            "refresh_token": st.just(TOKEN),
            "error": st.sampled_from(("invalid_grant", "invalid_client", "unauthorized_client", "y")) | anything,
            "error_description": st.just(TOKEN),
        },
    )
)
