"""Inputs of every kind: sound ones, rubbish, and what lies between them."""

import json
import string
from datetime import timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from handlers.portability import TABLE
from local.google_apis import MARK

bad = 0  # inputs so far that were refused, and rightly so


def refused() -> None:
    """Count one more."""
    global bad  # noqa: PLW0603, the one figure of a process
    bad += 1


QUOTED = "not-to-be-quoted"  # stands in what comes in from outside, and must not come out in our own words

_LETTERS = string.ascii_letters + string.digits + "_-"
user_ids = st.text(_LETTERS, min_size=1, max_size=128)
TOKEN = f"{MARK}-token"

job_ids = st.text(_LETTERS + ".~", min_size=1, max_size=256)
_offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=_offsets)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    _scalars | st.text(max_size=20) | st.just(QUOTED),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)

events = st.fixed_dictionaries(
    {
        "archiveJobId": st.sampled_from(("", "archiveJobs/")).flatmap(lambda at: job_ids.map(lambda job: at + job)),
        "userId": user_ids,
    },
    optional={
        "credentialId": user_ids,
        "rootArchiveJobId": job_ids,
        "attempt": st.integers(min_value=0),
        "failedAt": moments.map(lambda moment: moment.isoformat()),
        "theirs": anything,
    },
)


@st.composite
def nearly(draw: st.DrawFn, sound: st.SearchStrategy[Any]) -> bytes:
    """A sound message as JSON in which something is another value, missing, cut off, or not the byte that it was."""
    content = draw(sound)
    if isinstance(content, dict) and content and draw(st.booleans()):
        content = {**content, draw(st.sampled_from(sorted(content))): draw(anything)}
    data = json.dumps(content).encode()
    place = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(("whole", "cut", "byte", "more"))):
        case "cut":
            data = data[:place]
        case "byte":
            data = data[:place] + draw(st.binary(min_size=1, max_size=2)) + data[place + 1 :]
        case "more":
            data += draw(st.binary(max_size=3))
    return data


_CODES = sorted({word for _, word in TABLE} | {"INTERNAL", "UNAVAILABLE", "INVALID_ARGUMENT", "PERMISSION_DENIED", "X"})
_info = st.fixed_dictionaries(
    {"@type": st.just("type.googleapis.com/google.rpc.ErrorInfo"), "reason": st.sampled_from(_CODES) | anything},
    optional={
        "metadata": anything
        | st.fixed_dictionaries(
            {},
            optional={
                "job_id": job_ids | anything,
                "timestamp_after_24hrs": moments.map(str) | st.floats() | st.integers() | anything,
            },
        )
    },
)
_retry_info = st.fixed_dictionaries(
    {
        "@type": st.just("type.googleapis.com/google.rpc.RetryInfo"),
        "retryDelay": anything | st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,12})?s", fullmatch=True),
    }
)
details = st.lists(_info | _retry_info | anything, max_size=3, unique_by=str)
google_errors = st.fixed_dictionaries(
    {
        "error": st.fixed_dictionaries(
            {"status": st.sampled_from(_CODES) | anything, "message": st.just(QUOTED), "details": details}
        )
    }
)
google_bodies = (
    st.binary(max_size=60)
    | google_errors.map(lambda content: json.dumps(content).encode())
    | nearly(google_errors)
    | st.fixed_dictionaries({"archiveJobId": job_ids | anything}).map(lambda content: json.dumps(content).encode())
    | anything.map(lambda content: json.dumps(content).encode())
)
statuses = st.sampled_from(sorted({status for status, _ in TABLE} | {302, 400, 500, 502, 503, 504})) | st.integers(
    100, 599
)

oauth_bodies = st.binary(max_size=60) | nearly(
    st.fixed_dictionaries(
        {},
        optional={
            "access_token": st.just(TOKEN) | anything,
            "expires_in": st.integers() | st.floats() | anything,
            "scope": st.text() | st.just("https://www.googleapis.com/auth/dataportability.x email") | anything,
            "refresh_token": st.just(TOKEN),
            "error": st.sampled_from(("invalid_grant", "invalid_client", "invalid_scope", "y")) | anything,
            "error_description": st.just(TOKEN),
        },
    )
)
