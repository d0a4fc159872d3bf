"""A delivery as spans, in the trace of whoever published the event. Loaded only while traces are on (tracing.py).

    producer's span ─► process archive-job-failed ┬► claim
                                                  ├► token ─► secret, refresh
                                                  ├► retry
                                                  ├► record
                                                  └► publish ─► the consumer's span

Names and kinds: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. Our own attributes have the
names that they have in the log line. Like the log, no span holds a token; what an exception says stays out too, but
for a Fault's text, which is made to be told.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handlers.delivery import Delivery
from handlers.outcomes import Fault, Misconfigured, Refused, Unavailable
from handlers.ports import AccessToken, Answer, Http, Portability, Publisher, TokenRefused, Tokens, Unknown
from handlers.telemetry import Journal, trace_fields
from handlers.user_credentials import Secrets

_W3C = TraceContextTextMapPropagator()
_GOOGLES = "googclient_"  # what Google's Pub/Sub clients put before the names of the trace context's attributes
_KINDS = {"publish": SpanKind.PRODUCER}  # of steps; any other is a call to a service


class Spans:
    """Tracing with OpenTelemetry. `topic` is the one that the events come from."""

    def __init__(self, tracer: Tracer, *, project: str, topic: str) -> None:
        self._tracer = tracer
        self._project = project
        self._topic = topic.rpartition("/")[2]

    def journal(self, delivery: Delivery, headers: Mapping[str, str], **fields: Any) -> Journal:
        request, carried = _W3C.extract(headers, Context()), _carried(delivery.attributes)
        span = self._tracer.start_span(
            f"process {self._topic}",
            carried or request,
            kind=SpanKind.CONSUMER,
            links=[Link(_of(request))] if carried and _of(request).is_valid else [],
            attributes={
                "messaging.system": "gcp_pubsub",
                "messaging.operation.type": "process",
                "messaging.destination.name": self._topic,
            },
        )
        own: dict[str, str] = {}
        _W3C.inject(own, trace.set_span_in_context(span))
        return _SpanJournal(self._tracer, span, **fields, **trace_fields(own, self._project))

    def portability(self, api: Portability) -> Portability:
        return _SpanPortability(api)

    def publisher(self, topic: Publisher) -> Publisher:
        return _SpanPublisher(topic)

    def secrets(self, store: Secrets) -> Secrets:
        return _SpanSecrets(self._tracer, store)

    def token_endpoint(self, http: Http) -> Http:
        return _SpanHttp(self._tracer, http)

    def tokens(self, credentials: Tokens) -> Tokens:
        return _SpanTokens(self._tracer, credentials)


def _carried(attributes: Mapping[str, str]) -> Context | None:
    """The trace context in a message's attributes: as Google's libraries write it, else as W3C names it."""
    googles = {name.removeprefix(_GOOGLES): text for name, text in attributes.items() if name.startswith(_GOOGLES)}
    for carrier in (googles, attributes):
        carried = _W3C.extract(carrier, Context())
        if _of(carried).is_valid:
            return carried
    return None


def _of(carried: Context) -> trace.SpanContext:
    return trace.get_current_span(carried).get_span_context()


def _fail(span: Span, error: BaseException) -> None:
    span.set_status(StatusCode.ERROR, str(error) if isinstance(error, Fault) else type(error).__name__)


@contextmanager
def _span(tracer: Tracer, name: str, kind: SpanKind = SpanKind.CLIENT) -> Iterator[Span]:
    """A span that is the current one meanwhile, and says what went wrong in it."""
    with tracer.start_as_current_span(name, kind=kind, record_exception=False, set_status_on_exception=False) as span:
        try:
            yield span
        except BaseException as error:
            _fail(span, error)
            raise


class _SpanJournal(Journal):
    """The delivery's span has the log line's fields. It is the current one until the line is written."""

    def __init__(self, tracer: Tracer, span: Span, **fields: Any) -> None:
        super().__init__(**fields)
        self._tracer = tracer
        self._span = span
        self._outside = context.attach(trace.set_span_in_context(span))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if name == "token":  # this step only waits for it: see _SpanTokens
            with super().step(name):
                yield
        else:
            with super().step(name), _span(self._tracer, name, _KINDS.get(name, SpanKind.CLIENT)):
                yield

    def write(self, level: int, message: str, *, exc_info: bool = False, **fields: Any) -> None:
        super().write(level, message, exc_info=exc_info, **fields)
        told = {name: value for name, value in self.fields.items() if isinstance(value, str | int | float)}
        self._span.set_attributes({name: told[name] for name in told if not name.startswith("logging.")})
        if level >= logging.WARNING:
            self._span.set_status(StatusCode.ERROR, message)
        context.detach(self._outside)
        self._span.end()


class _SpanTokens:
    """A span from when the token is begun, which is before its step. It may outlast the delivery's."""

    def __init__(self, tracer: Tracer, credentials: Tokens) -> None:
        self._tracer = tracer
        self._credentials = credentials
        self._fetching: dict[str, Span] = {}

    def begin(
        self, credential_id: str, refused: AccessToken | None = None, *, anew: bool = False
    ) -> asyncio.Future[AccessToken]:
        other = self._fetching.get(credential_id)
        span = self._tracer.start_span("token", links=[Link(other.get_span_context())] if other else [])
        with trace.use_span(span):  # the tasks that are started in here make their spans below it
            token = self._credentials.begin(credential_id, refused, anew=anew)
        span.set_attributes({"cached": token.done(), "shared": other is not None})
        if not other:
            self._fetching[credential_id] = span
        if token.done():
            self._end(credential_id, span, token)
        else:
            token.add_done_callback(partial(self._end, credential_id, span))
        return token

    def _end(self, credential_id: str, span: Span, token: asyncio.Future[AccessToken]) -> None:
        if self._fetching.get(credential_id) is span:
            del self._fetching[credential_id]
        error = asyncio.CancelledError() if token.cancelled() else token.exception()
        if error:
            _fail(span, error)
        span.end()


class _SpanSecrets:
    def __init__(self, tracer: Tracer, store: Secrets) -> None:
        self._tracer = tracer
        self._store = store

    async def read(self, secret_id: str) -> bytes:
        with _span(self._tracer, "secret") as span:
            span.set_attribute("secretId", secret_id)
            return await self._store.read(secret_id)


class _SpanHttp:
    """For the token endpoint."""

    def __init__(self, tracer: Tracer, http: Http) -> None:
        self._tracer = tracer
        self._http = http

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        with _span(self._tracer, "refresh") as span:
            status, answer = await self._http.post(url, headers=headers, body=body, seconds=seconds)
            span.set_attribute("http.response.status_code", status)
            if status >= 400:
                span.set_status(StatusCode.ERROR, str(status))
            return status, answer


class _SpanPortability:
    """Adds to the span of the step: what the answer was."""

    def __init__(self, api: Portability) -> None:
        self._api = api

    async def retry(self, job_id: str, *, token: str, seconds: float) -> Answer:
        answer = await self._api.retry(job_id, token=token, seconds=seconds)
        span = trace.get_current_span()
        span.set_attribute("answer", type(answer).__name__)
        match answer:
            case Refused() | Unavailable() | Misconfigured():
                _fail(span, answer)
            case Unknown(detail):
                span.set_status(StatusCode.ERROR, detail)
            case TokenRefused():
                span.set_status(StatusCode.ERROR, "401")
        return answer


class _SpanPublisher:
    """The message carries the context of its step's span on, for Google's subscribers and for everybody else's."""

    def __init__(self, topic: Publisher) -> None:
        self._topic = topic

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        own: dict[str, str] = {}
        _W3C.inject(own)
        await self._topic.publish(data, {**attributes, **own, **{_GOOGLES + name: own[name] for name in own}})
