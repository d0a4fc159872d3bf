"""Logs that Cloud Logging reads: one JSON object a line, and one line that tells how a delivery ended (docs/logs.md).

https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields
"""

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from handlers.telemetry import tracing

# Lets Error Reporting count a fault, with a stack trace or without one
# (https://cloud.google.com/error-reporting/docs/formatting-error-messages).
_REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"

# Not from logging.getLogger: under LOG_EXECUTION_ID, which the Cloud Functions API sets, the framework configures
# logging once it has imported this program, and that disables every logger which is registered by then.
log = logging.Logger("handlers")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "severity": record.levelname,
            "message": record.getMessage(),
            "time": datetime.fromtimestamp(record.created, UTC),
            **getattr(record, "fields", {}),
        }
        if record.levelno >= logging.ERROR:
            line["@type"] = _REPORTED
            if record.exc_info:
                line["stack_trace"] = self.formatException(record.exc_info)
            else:
                # What has no stack trace is grouped by function and the first three words
                # (https://cloud.google.com/error-reporting/docs/grouping-errors).
                function = line.get("failedStep", record.funcName)
                place = {"filePath": record.filename, "lineNumber": record.lineno, "functionName": function}
                line["context"] = {"reportLocation": place}
        return msgspec.json.encode(line).decode()


def configure_logs(level: str, stream: TextIO = sys.stderr) -> None:
    """Log to one stream, once, whatever the framework has made of the root logger."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines())
    handler.setLevel(level)  # not the logger's: it remembers what was enabled, and only the root's loggers forget it
    log.handlers[:] = [handler]
    # Google's clients log requests and answers, refresh tokens among them, where a variable or an inherited level asks
    # for it (https://googleapis.dev/python/google-api-core/latest/client_logging.html)
    logging.getLogger("google").setLevel(logging.WARNING)
    # OpenTelemetry's API quotes what it cannot read of a message's tracestate, line breaks too, and nobody handles its
    # warnings but Python's last resort: a producer could write any line into the log
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)


class LogLine:
    """What the log line of one delivery, or of one run, will say: its fields, and the milliseconds of its steps."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self._steps: dict[str, float] = {}
        self._begun = time.perf_counter()

    def bind(self, **fields: Any) -> None:
        self.fields |= fields

    def count(self, field: str, number: int) -> None:
        self.fields[field] = self.fields.get(field, 0) + number

    def took(self, step: str, begun: float) -> None:
        """A step that began then, by time.perf_counter, is over."""
        self._steps[step] = round(self._steps.get(step, 0.0) + _milliseconds_since(begun), 1)

    def failed(self, step: str) -> None:
        self.fields["failedStep"] = step

    def write(self, level: int, message: str, *, exc_info: bool = False, **fields: Any) -> None:
        """The one line of this delivery, and what its span says."""
        self.bind(stepsMs=self._steps, latencyMs=_milliseconds_since(self._begun), **fields)
        log.log(level, message, extra={"fields": self.fields}, exc_info=exc_info)
        tracing.describe(self.fields, message if level >= logging.WARNING else "")


def _milliseconds_since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 1)
