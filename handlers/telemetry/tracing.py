"""Spans, by OpenTelemetry's API. While traces are off (otlp.py is not loaded), its no-op tracer makes none.

    the producer's span ─► process archive-job-failed ─┬► look, token ─► secret, refresh
                                                       ├► claim, retry, record
                                                       └► publish ─► the consumer's span

Names and kinds: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. Our own attributes have the
names that they have in the log line. No span holds a token, and no text of an exception but a StepError's.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handlers.domain.outcomes import StepError

_tracer = trace.get_tracer("archive-job-retry")
_started = threading.Event()
_w3c = TraceContextTextMapPropagator()
_GOOGLE_PREFIX = "googclient_"  # of the attributes in which Google's Pub/Sub clients carry the trace context
_MAX_TRACESTATE = 512  # characters: what https://www.w3.org/TR/trace-context/#tracestate-limits asks to pass on


def start(provider: trace.TracerProvider) -> None:
    """Make spans with this provider, in the whole process."""
    trace.set_tracer_provider(provider)
    _started.set()


def span(name: str, **attributes: Any) -> AbstractContextManager[Span]:
    """The current span meanwhile. What is raised in it is its status."""
    return _span(name, attributes) if _started.is_set() else _NO_SPAN


@contextmanager
def _span(name: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
    kind = SpanKind.PRODUCER if name == "publish" else SpanKind.CLIENT
    with _tracer.start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(StatusCode.ERROR, str(error) if isinstance(error, StepError) else type(error).__name__)
            raise


_NO_SPAN = nullcontext(trace.INVALID_SPAN)  # four times cheaper than a span of the no-op tracer


def delivery_span(
    topic: str, attributes: Mapping[str, str], headers: Mapping[str, str]
) -> AbstractContextManager[Span]:
    """The span of one delivery, below the producer's, or the request's where the message carries none.

    While traces are off it is that very span, as the no-op tracer would have it.
    """
    request = _w3c.extract(headers)
    parent = _carried(attributes) or request
    if not _started.is_set():
        return nullcontext(trace.get_current_span(parent))
    linked = trace.get_current_span(request).get_span_context()
    name = topic.rpartition("/")[2]
    return _tracer.start_as_current_span(
        f"process {name}",
        parent,
        kind=SpanKind.CONSUMER,
        links=[Link(linked)] if parent is not request and linked.is_valid else [],
        attributes={
            "messaging.system": "gcp_pubsub",
            "messaging.operation.type": "process",
            "messaging.destination.name": name,
        },
        record_exception=False,
        set_status_on_exception=False,
    )


def describe(fields: Mapping[str, Any], error: str = "") -> None:
    """Give the current span the fields of the log line, and its message where that is a warning."""
    current = trace.get_current_span()
    if current.is_recording():
        told = {name: value for name, value in fields.items() if isinstance(value, str | int | float)}
        current.set_attributes({name: value for name, value in told.items() if not name.startswith("logging.")})
        if error:
            current.set_status(StatusCode.ERROR, error)


def log_fields(current: Span, project: str) -> dict[str, Any]:
    """What ties a log line to the trace (https://cloud.google.com/trace/docs/trace-log-integration)."""
    context = current.get_span_context()
    if not context.is_valid:
        return {}
    return {
        "logging.googleapis.com/trace": f"projects/{project}/traces/{context.trace_id:032x}",
        "logging.googleapis.com/spanId": f"{context.span_id:016x}",
        "logging.googleapis.com/trace_sampled": context.trace_flags.sampled,
    }


def message_context() -> dict[str, str]:
    """The attributes by which a message carries the trace on, to Google's subscribers and everybody else's."""
    if not _started.is_set():
        return {}
    own: dict[str, str] = {}
    _w3c.inject(own)
    if len(own.get("tracestate", "")) > _MAX_TRACESTATE:  # an attribute may have 1,024 bytes
        del own["tracestate"]
    return own | {_GOOGLE_PREFIX + name: text for name, text in own.items()}


def _carried(attributes: Mapping[str, str]) -> Context:
    """Empty where the message carries no trace."""
    googles = {
        name.removeprefix(_GOOGLE_PREFIX): text for name, text in attributes.items() if name.startswith(_GOOGLE_PREFIX)
    }
    return _w3c.extract(googles) or _w3c.extract(attributes)
