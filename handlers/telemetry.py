"""Logs that Cloud Logging reads: one JSON object a line.

https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields
"""

import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

log = logging.getLogger("handlers")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": datetime.fromtimestamp(record.created, UTC),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["message"] += "\n" + self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logs(level: str, stream: TextIO = sys.stderr) -> None:
    """Log to one stream, once, whatever the framework has made of the root logger."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(level)


_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


def trace_fields(
    headers: Mapping[str, str], project: str, attributes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ties a log line to a trace (https://www.w3.org/TR/trace-context/#traceparent-header).

    That of the event's producer where its message (`attributes`) carries one, whether we make spans or not: each
    delivery is a request with a trace of its own, which would lead to that one request and its time, and the line says
    as much. The producer's trace leads from the event to every delivery of it, and stands in the producer's own logs.
    """
    carried = attributes or {}
    for text in (carried.get("googclient_traceparent"), carried.get("traceparent"), headers.get("traceparent")):
        match = _TRACEPARENT.fullmatch(text or "")
        if match:
            trace, span, flags = match.groups()
            return {
                "logging.googleapis.com/trace": f"projects/{project}/traces/{trace}",
                "logging.googleapis.com/spanId": span,
                "logging.googleapis.com/trace_sampled": bool(int(flags, 16) & 1),
            }
    return {}


class Journal:
    """What one delivery's log line will say: fields bound as they become known, and what each step took."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self._steps: dict[str, float] = {}
        self._begun = time.perf_counter()
        self.calls = 0  # of archiveJobs.retry that were sent

    def bind(self, **fields: Any) -> None:
        self.fields |= fields

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._steps[name] = self._steps.get(name, 0.0) + _milliseconds_since(begun)

    def write(self, level: int, message: str, *, exc_info: bool = False, **fields: Any) -> None:
        """The one line of this delivery."""
        self.bind(calls=self.calls, stepsMs=self._steps, latencyMs=_milliseconds_since(self._begun), **fields)
        log.log(level, message, extra={"fields": self.fields}, exc_info=exc_info)


def _milliseconds_since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 1)
