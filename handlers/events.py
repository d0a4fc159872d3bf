"""The messages: the failed job that comes in, the follow-up and the rejection that go out (README.md, "Feed it")."""

import base64
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from handlers.entries import Entry
from handlers.outcomes import Reason

JobId = Annotated[str, Meta(pattern=r"^(archiveJobs/)?[A-Za-z0-9._~-]{1,256}\Z")]
UserId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]

_LARGEST_MESSAGE = 9_900_000  # bytes of an event within one of ten million (https://cloud.google.com/pubsub/quotas)
_LARGE = _LARGEST_MESSAGE / 6
_LARGEST_ATTEMPT = 2**31 - 1  # beyond any budget, and still an integer to every consumer


class MalformedEvent(ValueError):
    """The data is no `archive job failed` event. `known`: its sound fields, as far as a rejection tells them."""

    def __init__(self, detail: str, known: dict[str, Any]) -> None:
        super().__init__(detail)
        self.known = known


class ArchiveJobFailed(Struct, frozen=True, kw_only=True):
    """A failed archive job. `root_job_id` is "" and `attempt` 0 where the event does not say."""

    job_id: str
    user_id: str
    credential_id: str
    root_job_id: str = ""
    attempt: int = 0
    failed_at: datetime | None = None

    def encoded(self) -> bytes:
        """The event as a message's data, with the fields that are read and no others."""
        return encode(
            _Wire(
                archive_job_id=self.job_id,
                user_id=self.user_id,
                credential_id=self.credential_id,
                root_archive_job_id=self.root_job_id or UNSET,
                attempt=self.attempt,
                failed_at=self.failed_at or UNSET,
            )
        )


class _Wire(Struct, rename="camel"):
    archive_job_id: JobId
    user_id: UserId
    credential_id: UserId | UnsetType = UNSET
    root_archive_job_id: JobId | UnsetType = UNSET
    attempt: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    failed_at: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Wire).decode
encode = msgspec.json.Encoder().encode


def plain_job_id(name: str) -> str:
    """The id of a job that may be given as a resource name, `archiveJobs/ID`."""
    return name.removeprefix("archiveJobs/")


def parse_failed(data: bytes) -> ArchiveJobFailed:
    """Read the data of one message. Raises MalformedEvent, whose text never quotes the data."""
    try:
        event = _read(data.decode())
    except UnicodeDecodeError:
        raise MalformedEvent("The event is not UTF-8.", {}) from None
    except RecursionError:
        raise MalformedEvent("The event is nested too deeply.", {}) from None
    except msgspec.ValidationError as error:
        raise MalformedEvent(f"The event is malformed: {error}.", _sound_fields(data)) from None
    except ValueError:
        raise MalformedEvent("The event is not JSON.", {}) from None
    return ArchiveJobFailed(
        job_id=plain_job_id(event.archive_job_id),
        user_id=event.user_id,
        credential_id=event.credential_id or event.user_id,
        root_job_id=plain_job_id(event.root_archive_job_id or ""),
        attempt=min(event.attempt or 0, _LARGEST_ATTEMPT),
        failed_at=event.failed_at or None,
    )


def _read(text: str) -> _Wire:
    try:
        return _decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(_loose(text), _Wire)


def _loose(text: str) -> Any:
    """Any JSON, with halves of surrogate pairs too, which msgspec refuses, and producers write that cut text."""
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _sound_fields(data: bytes) -> dict[str, Any]:
    """What a malformed event still says, so that its rejection can be matched to a job and a user."""
    sound: dict[str, Any] = {}
    try:
        loose = _loose(data.decode())
    except (ValueError, RecursionError):
        return sound
    for field in msgspec.structs.fields(_Wire):
        try:
            sound[field.name] = msgspec.convert(loose[field.encode_name], field.type)
        except (KeyError, TypeError, msgspec.ValidationError):
            continue
    sound.pop("failed_at", None)  # a rejection does not tell it
    for name in sound.keys() & {"archive_job_id", "root_archive_job_id"}:
        sound[name] = plain_job_id(sound[name])
    if "attempt" in sound:
        sound["attempt"] = min(sound["attempt"], _LARGEST_ATTEMPT)
    return sound


class ArchiveJobRetried(Struct, frozen=True, kw_only=True, rename="camel"):
    """The follow-up. Itself a valid failed event, for when the new job fails too."""

    archive_job_id: str
    retried_archive_job_id: str
    root_archive_job_id: str
    user_id: str
    credential_id: str
    attempt: int
    retried_at: str

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Of a job that was retried. The same at every delivery, as the ledger has it."""
        return cls(
            archive_job_id=entry.new_job_id,
            retried_archive_job_id=entry.job_id,
            root_archive_job_id=entry.root_job_id,
            user_id=entry.user_id,
            credential_id=entry.credential_id,
            attempt=entry.used,
            retried_at=timestamp(entry.updated_at),
        )

    def attributes(self) -> dict[str, str]:
        return {
            "eventType": "archive-job-retried",
            "userId": self.user_id,
            "dedupKey": self.retried_archive_job_id,
        }


class RetryRejected(Struct, frozen=True, kw_only=True, rename="camel"):
    """The rejection. `event` is the delivery's data, whole."""

    reason: str
    detail: str
    archive_job_id: str = ""
    root_archive_job_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    attempt: int = 0
    rejected_at: str
    event: str
    event_encoding: str

    @classmethod
    def of(cls, entry: Entry, data: bytes) -> Self:
        """Of a job that was rejected, for the delivery with this data."""
        event, encoding = as_text(data)
        return cls(
            reason=entry.reason,
            detail=entry.detail,
            archive_job_id=entry.job_id,
            root_archive_job_id=entry.root_job_id,
            user_id=entry.user_id,
            credential_id=entry.credential_id,
            attempt=entry.used,
            rejected_at=timestamp(entry.updated_at),
            event=event,
            event_encoding=encoding,
        )

    @classmethod
    def of_malformed(cls, error: MalformedEvent, data: bytes, now: datetime) -> Self:
        """With those fields of the event that are sound."""
        event, encoding = as_text(data)
        at, reason = timestamp(now), Reason.MALFORMED_EVENT
        return cls(
            reason=reason, detail=str(error), rejected_at=at, event=event, event_encoding=encoding, **error.known
        )

    def attributes(self, message_id: str) -> dict[str, str]:
        attributes = {
            "eventType": "archive-job-retry-rejected",
            "reason": self.reason,
            "dedupKey": self.archive_job_id or message_id,
        }
        return attributes | {"userId": self.user_id} if self.user_id else attributes


def as_text(data: bytes) -> tuple[str, str]:
    """The data and its `eventEncoding`: as it is where it is UTF-8, else in base64.

    In base64 too where its text would be too large for a message of Pub/Sub's: JSON writes a control character in six.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        pass
    else:
        if len(data) < _LARGE or len(encode(text)) < max(_LARGEST_MESSAGE, len(data) * 4 / 3):
            return text, "text"
    return base64.b64encode(data).decode(), "base64"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as in `2026-11-23T18:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
