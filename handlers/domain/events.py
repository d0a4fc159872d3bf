"""The messages that come in: failed and started archive jobs, parsed and checked."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, field
from msgspec.structs import replace

JOB_ID, USER_ID = r"[A-Za-z0-9._~-]{1,256}", r"[A-Za-z0-9_-]{1,128}"  # regular expressions
JobId = Annotated[str, Meta(pattern=rf"^(archiveJobs/)?{JOB_ID}\Z")]
UserId = Annotated[str, Meta(pattern=rf"^{USER_ID}\Z")]

ATTEMPT_MAX = 2**31 - 1  # the largest int of Avro, and beyond any budget
EVENT_BYTES_MAX = 1 << 20  # larger data is not parsed
_MOMENT_MAX = 64  # characters
_Moment = Annotated[datetime, Meta(tz=True)]
_LEAP_SECOND = re.compile(r"(\d\d:\d\d):60")

encode = msgspec.json.Encoder().encode
_decode_job_id = msgspec.json.Decoder(JobId).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class Delivery(Struct, frozen=True, kw_only=True):
    """One Pub/Sub message as it was delivered. `delivery_attempt` is Pub/Sub's count of this message's deliveries, 0
    where it does not count. `published_at` is the time of the first publish, by Pub/Sub's clock.
    """

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    message_id: str = ""
    published_at: datetime | None = None
    delivery_attempt: int = 0


class MalformedEvent(ValueError):
    """The data is no event. `known`: its sound fields by name, as far as a rejection publishes them."""

    def __init__(self, detail: str, known: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.known = known or {}


class JobEvent(Struct, frozen=True, kw_only=True):
    """A failed or started archive job, as its event tells: `root_job_id` is "", `retries_before` 0 where it does not.

    `published_at` is when the event was first published, by Pub/Sub's clock; `failed_at`, of a failed event, and
    `started_at`, of a started one, are that too where the event does not say. None: not known.
    """

    job_id: str
    user_id: str
    credential_id: str
    root_job_id: str = ""
    retries_before: int = 0
    failed_at: datetime | None = None
    published_at: datetime | None = None
    started_at: datetime | None = None
    tells_time: bool = True  # whether that time stands in the event


def parse_failed(data: bytes, published_at: datetime | None = None) -> JobEvent:
    """Read the data of a message. Raises MalformedEvent, whose text never quotes the data."""
    fields = _read(data, _FAILED)
    failed_at = fields.get("failedAt")
    return replace(_job(fields, published_at), failed_at=failed_at or published_at, tells_time=bool(failed_at))


def parse_started(data: bytes, published_at: datetime | None = None) -> JobEvent:
    """Read the data of a started event, or of a follow-up, which is a valid one. Raises MalformedEvent."""
    fields = _read(data, _STARTED)
    started_at = fields.get("startedAt")
    known = started_at or fields.get("retriedAt") or published_at
    return replace(_job(fields, published_at), started_at=known, tells_time=bool(started_at))


def _job(fields: Mapping[str, Any], published_at: datetime | None) -> JobEvent:
    return JobEvent(
        job_id=fields["archiveJobId"],
        user_id=fields["userId"],
        credential_id=fields["credentialId"],
        root_job_id=fields.get("rootArchiveJobId") or "",
        retries_before=fields.get("attempt") or 0,
        published_at=published_at,
    )


def with_time(data: bytes, name: str, moment: datetime) -> bytes:
    """An event that was parsed, with this field added as its last one, which is the one that counts."""
    return data[: data.rindex(b"}")] + b',"%b":"%b"}' % (name.encode(), timestamp(moment).encode())


def known_fields(job: JobEvent, time_name: str = "", moment: datetime | None = None) -> bytes:
    """The event with the fields that are read and no others."""
    fields: dict[str, Any] = {"archiveJobId": job.job_id, "userId": job.user_id, "credentialId": job.credential_id}
    fields |= {"rootArchiveJobId": job.root_job_id} if job.root_job_id else {}
    fields |= {"attempt": job.retries_before}
    return encode(fields | {time_name: timestamp(moment)} if moment else fields)


def plain_job_id(name: str) -> str:
    """The id of a job that may be given as a resource name, `archiveJobs/ID`."""
    return name.removeprefix("archiveJobs/")


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as in `2026-11-23T18:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(raw: Raw | str) -> datetime:
    """An RFC 3339 time, in UTC; a leap second is read as the one before. Raises ValidationError."""
    text = raw if isinstance(raw, str) else msgspec.json.decode(raw, type=str)
    if len(text) > _MOMENT_MAX:
        raise msgspec.ValidationError("Expected a time as RFC 3339 has it")
    moment: datetime = msgspec.convert(_LEAP_SECOND.sub(r"\1:59", text), _Moment)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise msgspec.ValidationError("Expected a time that UTC has, too") from None


def _job_id(raw: Raw) -> str:
    return plain_job_id(_decode_job_id(raw))


def _retries(raw: Raw) -> int:
    """`1.0` is the integer 1, `-0` is 0. A larger number than any that can be meant is capped."""
    text = bytes(raw)
    number = float(text) if text[:1] in b"-0123456789" else -1.0
    if number < 0 or (number < ATTEMPT_MAX and number % 1):
        raise msgspec.ValidationError("Expected an integer from 0")
    return int(min(number, ATTEMPT_MAX))


_user_id = msgspec.json.Decoder(UserId).decode

# name → (whether it is required, how to read it); null in an optional field counts as absent
_Fields = Mapping[str, tuple[bool, Callable[[Raw], Any]]]
_JOB: _Fields = {
    "archiveJobId": (True, _job_id),
    "userId": (True, _user_id),
    "credentialId": (False, _user_id),
    "rootArchiveJobId": (False, _job_id),
    "attempt": (False, _retries),
}
_FAILED: _Fields = {**_JOB, "failedAt": (False, moment_of)}
_STARTED: _Fields = {**_JOB, "startedAt": (False, moment_of), "retriedAt": (False, moment_of)}


def _read(data: bytes, known: _Fields) -> dict[str, Any]:
    """The event's known fields. Only those are parsed: what a producer adds costs no memory."""
    raw = _raw_fields(data)
    read: dict[str, Any] = {}
    problems = []
    for name, (required, decode) in known.items():
        value = raw.get(name)
        if value is None or (not required and bytes(value) == b"null"):
            problems += [f"the field {name} is missing"] * required
            if name == "credentialId" and "userId" in read:
                read[name] = read["userId"]
            continue
        try:
            read[name] = decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, msgspec.ValidationError) else "it cannot be read"
            problems.append(f"{name}: {said}")
    if problems:
        raise MalformedEvent(f"The event is malformed: {'; '.join(problems)}.", read)
    return read


def _raw_fields(data: bytes) -> dict[str, Raw]:
    if len(data) > EVENT_BYTES_MAX:
        raise MalformedEvent("The event is larger than 1 MiB.")
    try:
        data.decode()
        return decode_fields(data)
    except UnicodeDecodeError:
        said = "not UTF-8"
    except msgspec.ValidationError:
        said = "not a JSON object"
    except msgspec.DecodeError:
        said = "not JSON"
    except RecursionError:
        said = "nested too deeply"
    raise MalformedEvent(f"The event is {said}.")


def decode_fields(data: bytes) -> dict[str, Raw]:
    """The fields of a JSON object, none of them parsed. Raises DecodeError, ValidationError or RecursionError."""
    try:
        return _decode_fields(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _decode_fields(_ESCAPES.sub(_without_half_pairs, data))


# A pair of surrogates, half a pair, any other escape. Producers that cut a text leave half a pair; msgspec refuses it.
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


def _without_half_pairs(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] else match[0]
