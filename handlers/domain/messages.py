"""The messages that go out: follow-up, ended event and rejection. docs/messages.md tells them to their readers."""

import base64
from datetime import datetime
from typing import Self

import msgspec
from msgspec import Struct

from handlers.domain.events import EVENT_BYTES_MAX, MalformedEvent, timestamp
from handlers.domain.outcomes import Reason

_TRUNCATED_TO = 64 << 10  # bytes of data that is too large which its rejection keeps
_SIX, _TWO = bytes({*range(32)} - {*b"\b\t\n\f\r"}), b'"\\\b\t\n\f\r'  # what JSON writes as so many characters
_CONTINUED, _WIDE = bytes(range(0x80, 0xC0)), bytes(range(0xF0, 0xF8))  # bytes of UTF-8: within, and first of four


class ArchiveJobRetried(Struct, frozen=True, kw_only=True, rename="camel"):
    """The follow-up. Itself a valid failed event, for when the new job fails too."""

    archive_job_id: str
    retried_archive_job_id: str
    root_archive_job_id: str
    user_id: str
    credential_id: str
    attempt: int
    retried_at: str

    def message_attributes(self) -> dict[str, str]:
        return {"eventType": "archive-job-retried", "userId": self.user_id, "dedupKey": self.retried_archive_job_id}


class ArchiveJobEnded(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a watched job has ended: COMPLETE, CANCELLED, or UNKNOWN with its cause."""

    archive_job_id: str
    root_archive_job_id: str
    user_id: str
    credential_id: str
    attempt: int
    state: str
    cause: str
    ended_at: str

    def message_attributes(self) -> dict[str, str]:
        own = {"eventType": "archive-job-ended", "state": self.state}
        return own | {"userId": self.user_id, "dedupKey": self.archive_job_id}


class RetryRejected(Struct, frozen=True, kw_only=True, rename="camel"):
    """The rejection. `event` is the delivery's data. Readers take a missing cause or number as its default."""

    reason: str
    cause: str = ""
    detail: str
    archive_job_id: str = ""
    root_archive_job_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    attempt: int = 0
    calls_in_doubt: int = 0
    rejected_at: str
    event: str
    event_encoding: str

    @classmethod
    def of_malformed(cls, error: MalformedEvent, data: bytes, now: datetime) -> Self:
        """With those fields of the event that are sound."""
        event, encoding = as_text(data)
        said = {"reason": Reason.MALFORMED_EVENT, "detail": str(error), "rejectedAt": timestamp(now)}
        return msgspec.convert({**error.known, **said, "event": event, "eventEncoding": encoding}, cls)

    def message_attributes(self, message_id: str, source: str = "") -> dict[str, str]:
        attributes = {
            "eventType": "archive-job-retry-rejected",
            "reason": self.reason,
            "dedupKey": self.archive_job_id or message_id,
        }
        if self.user_id:
            attributes["userId"] = self.user_id
        return attributes | {"source": source} if source else attributes


def as_text(data: bytes) -> tuple[str, str]:
    """The data as `event` and `eventEncoding` hold it: text where it is UTF-8, else base64; the beginning of it, in
    base64, where it is larger than any event. Large text is base64, too, where as text it would take much more memory.
    """
    if len(data) > EVENT_BYTES_MAX:
        return base64.b64encode(data[:_TRUNCATED_TO]).decode(), "truncated"
    if len(data) > _TRUNCATED_TO and _is_costly(data):
        return base64.b64encode(data).decode(), "base64"
    try:
        return data.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"


def _is_costly(data: bytes) -> bool:
    """Whether JSON would write this text at one and a half times its length, or a str hold it at three times: it takes
    four bytes for each character, where one of them is beyond U+FFFF.
    """
    added = 5 * _count(data, _SIX) + _count(data, _TWO)
    characters = len(data) - _count(data, _CONTINUED)
    return added > len(data) / 2 or (_count(data, _WIDE) > 0 and 4 * characters > 3 * len(data))


def _count(data: bytes, among: bytes) -> int:
    return len(data) - len(data.translate(None, among))
