"""Sends spans away, over OTLP. Loaded only while traces are on (tracing.py).

A thread sends them in batches, every five seconds or when there are many (OTEL_BSP_*): no delivery waits for it. While
no request is served, Cloud Run leaves the instance without CPU, so the last spans wait for the next request or for the
end: at SIGTERM the CPU is back, and they are sent when the server is done, at the exit of the process
(https://cloud.google.com/run/docs/container-contract#lifecycle). To send after each delivery instead would make it
wait, for one request each; all that is at stake is the last few spans of an instance that is killed.
"""

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import google.auth
import opentelemetry.exporter.otlp.proto.http.trace_exporter as otlp
from google.auth.transport.requests import AuthorizedSession
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from handlers.settings import Settings
from handlers.spans import Spans
from handlers.telemetry import log

_SCOPE = "https://www.googleapis.com/auth/trace.append"
_AT_THE_END = 3.0  # seconds for the last spans; the deliveries in hand have had up to nine of the ten before them
_COMPLAINTS = 60.0  # seconds between two log lines about lost spans


def spans(settings: Settings) -> Spans:
    """Tracing as the OTEL_* variables say. Raises what the SDK raises where they are wrong. Starts a thread."""
    logging.getLogger("opentelemetry").handlers[:] = [_Complaints(logging.WARNING)]
    logging.getLogger("opentelemetry").propagate = False
    known = Resource(
        {
            "service.name": os.environ.get("K_SERVICE", "archive-job-retry"),
            "service.version": os.environ.get("K_REVISION", ""),
            # Google files spans by it (https://cloud.google.com/trace/docs/migrate-to-otlp-endpoints)
            "gcp.project_id": settings.google_cloud_project,
        }
    )
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word
    provider = TracerProvider(resource=known.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(_Batches(_Exporter()))
    _exit_after_sigterm()
    tracer = provider.get_tracer("archive-job-retry")
    return Spans(tracer, project=settings.google_cloud_project, topic=settings.failed_topic)


def _exit_after_sigterm() -> None:
    """Let the process exit when the server is done. uvicorn raises SIGTERM anew then, for its default handler to kill
    the process, with the spans that are still here; blocked, the signal stays pending, and never comes.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # no other thread may listen for signals
    server = signal.getsignal(signal.SIGTERM)
    if not callable(server):
        return

    def handle(number: int, frame: Any) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        server(number, frame)

    signal.signal(signal.SIGTERM, handle)


class _Batches(BatchSpanProcessor):
    """Its own shutdown, at the exit of the process, would wait half a minute for an endpoint that does not answer."""

    def shutdown(self) -> None:
        self._batch_processor.shutdown(timeout_millis=int(_AT_THE_END * 1000))


class _Exporter(SpanExporter):
    """Made at the first batch, in the thread: what that takes, or fails at, is no delivery's business."""

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


class _Complaints(logging.Handler):
    """What OpenTelemetry has to say, among our own lines and seldom: spans are lost, and no event.

    An exception is told by its type, for its text may hold the endpoint with a key in it; a variable's value by its
    name, for it may be a misplaced secret; and of a header in OTEL_EXPORTER_OTLP_HEADERS that cannot be read only that.
    """

    _silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() < self._silent_until:
            return
        self._silent_until = time.monotonic() + _COMPLAINTS
        if record.name == "opentelemetry.util.re":
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
