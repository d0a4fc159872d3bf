"""Sends spans over OTLP. Loaded only while traces are on.

A thread sends them in batches, every five seconds or when there are many (OTEL_BSP_*): no delivery waits for it. While
no request is served, Cloud Run leaves the instance without CPU, so the last spans wait for the next request or for
SIGTERM, when the CPU is back: they are sent at the exit of the process
(https://cloud.google.com/run/docs/container-contract#lifecycle).
"""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import google.auth
import opentelemetry.exporter.otlp.proto.http.trace_exporter as otlp
from google.auth.transport.requests import AuthorizedSession
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from handlers.telemetry import tracing
from handlers.telemetry.logging import log

_SCOPE = "https://www.googleapis.com/auth/trace.append"
_FLUSH_TIMEOUT = 3.0  # seconds for the last spans
_WARNING_INTERVAL = 60.0  # seconds between two log lines about lost spans


def install(project: str) -> None:
    """Make spans, as the OTEL_* variables say. Starts a thread, so not before the fork.

    Traces that cannot be made are no reason to fail a delivery.
    """
    logging.getLogger("opentelemetry").handlers[:] = [RedactingHandler(logging.WARNING)]
    logging.getLogger("opentelemetry").propagate = False
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("opentelemetry.") and isinstance(logger, logging.Logger):
            logger.disabled = False  # where the framework has configured logging since they were made: see logging.py
    try:
        tracing.start(_provider(project))
    except Exception as error:  # the SDK raises whatever it likes about its variables, and its text quotes them
        log.warning("Traces are off, some OTEL_* variable is wrong: %s", type(error).__name__)


def _provider(project: str) -> TracerProvider:
    known = Resource(
        {
            "service.name": os.environ.get("K_SERVICE", "archive-job-retry"),
            "service.version": os.environ.get("K_REVISION", ""),
            # Google files spans by it (https://cloud.google.com/trace/docs/migrate-to-otlp-endpoints)
            "gcp.project_id": project,
        }
    )
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word
    provider = TracerProvider(resource=known.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BoundedShutdownProcessor(LazyExporter()))
    return provider


class BoundedShutdownProcessor(BatchSpanProcessor):
    """Its own shutdown, at the exit of the process, would wait half a minute for an endpoint that does not answer."""

    def shutdown(self) -> None:
        self._batch_processor.shutdown(timeout_millis=int(_FLUSH_TIMEOUT * 1000))


class LazyExporter(SpanExporter):
    """Made at the first batch, in the thread: no delivery waits for it, or fails with it."""

    def __init__(self) -> None:
        self._made: SpanExporter | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._made is None:
            self._made = otlp.OTLPSpanExporter(session=session(os.environ))
        return self._made.export(spans)

    def shutdown(self) -> None:
        if self._made:
            self._made.shutdown()


def session(environment: Mapping[str, str]) -> AuthorizedSession | None:
    """To Google with the function's own account, over TLS; to nobody else with any."""
    names = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    to = urlsplit(next(filter(None, map(environment.get, names)), ""))
    if to.scheme != "https" or not (to.hostname or "").endswith(".googleapis.com"):
        return None
    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]


class RedactingHandler(logging.Handler):
    """What OpenTelemetry logs, among our own lines, once a minute, and without the values of its variables.

    They may hold an endpoint with a key in it, a header with one, or a misplaced secret. So an exception is told by its
    type, and a variable's value by its name.
    """

    _silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() < self._silent_until:
            return
        self._silent_until = time.monotonic() + _WARNING_INTERVAL
        if record.name == "opentelemetry.util.re":  # a header that cannot be read
            said = record.msg.partition(": %s")[0]
        else:
            args = record.args if isinstance(record.args, tuple) else ()
            said = record.msg % tuple(type(arg).__name__ if isinstance(arg, BaseException) else arg for arg in args)
        for name, value in os.environ.items():
            if name.startswith("OTEL_") and len(value) > 3:
                said = re.sub(re.escape(value), name, said, flags=re.IGNORECASE)
        if record.exc_info and record.exc_info[0]:
            said += f" ({record.exc_info[0].__name__})"
        log.warning("traces: %s", said)
