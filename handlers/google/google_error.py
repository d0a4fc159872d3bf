"""An error of a Google API, read from the body of an answer: https://google.aip.dev/193."""

import re
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from handlers.domain.events import moment_of

API_DOMAIN = "dataportability.googleapis.com"  # of an ErrorInfo of the API itself, and not of Google's front end
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_MESSAGE_MAX, _METADATA_MAX = 4096, 32  # characters and fields that are looked at; Google's have a tenth of that


class GoogleError(Struct, frozen=True, kw_only=True):
    """An error as https://google.aip.dev/193 has it. Words that are no codes are left out."""

    http_status: int
    host: str = ""  # that was asked
    is_googles: bool = False  # whether the body is Google's own at all
    code: str = ""  # error.status
    reason: str = ""
    domain: str = ""
    metadata: dict[str, Any] = {}
    message: str = ""
    kinds: frozenset[str] = frozenset()  # of its details
    retry_delay: timedelta = timedelta()

    @property
    def is_apis(self) -> bool:
        """Whether it is about the request itself: no ErrorInfo, or one of the API's own domain."""
        return "ErrorInfo" not in self.kinds or self.domain == API_DOMAIN

    def __str__(self) -> str:
        """For a log line: enough to add a row to the table, and nothing of the values."""
        if not self.is_googles:
            return f"{self.http_status} by {self.host}, with a body that is not Google's"
        said = [str(self.http_status), self.code, self.reason if self.reason != self.code else "", self.domain]
        keys = ",".join(sorted(key for key in self.metadata if _CODE.fullmatch(key)))
        return " ".join(filter(None, [*said, f"metadata:{keys}" if keys else ""]))


def parse_error(status: int, body: bytes, host: str = API_DOMAIN) -> GoogleError:
    """Any status and any body. Google's own is JSON with an `error` object whose `code` is the status."""
    content = json_of(body)
    if isinstance(content, list) and content:
        content = content[0]
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict) or error.get("code") != status or isinstance(error.get("code"), bool):
        return GoogleError(http_status=status, host=host)
    listed = error.get("details")
    details: dict[str, dict[str, Any]] = {}  # by type: each is there at most once, in no promised order
    for detail in listed if isinstance(listed, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("@type"), str):
            details.setdefault(detail["@type"].rpartition(".")[2], detail)
    info = details.get("ErrorInfo", {})
    metadata, message = info.get("metadata"), error.get("message")
    return GoogleError(
        http_status=status,
        host=host,
        is_googles=True,
        code=word(error.get("status")),
        reason=word(info.get("reason")),
        domain=word(info.get("domain")),
        metadata=dict(islice(metadata.items(), _METADATA_MAX)) if isinstance(metadata, dict) else {},
        message=message[:_MESSAGE_MAX] if isinstance(message, str) else "",
        kinds=frozenset(details),
        retry_delay=_duration(details.get("RetryInfo", {}).get("retryDelay")),
    )


def json_of(body: bytes) -> Any:
    """What the body holds; None for what is no JSON: a proxy's HTML, nothing, rubbish."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def word(value: Any) -> str:
    """A code to show to people, and nothing else that may stand in its place."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def moment(text: Any) -> datetime | None:
    try:
        return moment_of(text) if isinstance(text, str) else None
    except msgspec.ValidationError:
        return None


def _duration(value: Any) -> timedelta:
    """A protobuf duration in JSON, `"3.5s"`; 0 for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}(\.\d{1,9})?s", value):
        return timedelta(seconds=float(value[:-1]))
    return timedelta()
