"""An OpenTelemetry collector as far as traces go: OTLP over HTTP in protobuf, recording.

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from local.http_server import HttpServer, HttpService


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it came in, ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    kind: int  # opentelemetry.proto.trace.v1.Span.SpanKind
    trace_id: str
    span_id: str
    parent_id: str  # "" for a root
    begun: int
    ended: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: tuple[str, ...]  # the span ids
    failed: bool
    status: str


class Collector(HttpService):
    """It serves at `url` while entered, and answers with `status` after `delay` seconds; it keeps what it accepts."""

    def __init__(self, *, status: int = 200, delay: float = 0.0) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []  # of each request
        self._server = HttpServer(self._handle)
        self._status = status
        self._delay = delay

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.headers.append(dict(request.headers))
        await asyncio.sleep(self._delay)
        if (request.method, request.path) != ("POST", "/v1/traces"):
            return web.Response(status=404)
        if self._status == 200:
            self.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
        return web.Response(status=self._status, body=ExportTraceServiceResponse().SerializeToString())


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    return [
        Span(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            begun=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
            attributes=_values(span.attributes),
            resource=_values(of_resource.resource.attributes),
            links=tuple(link.span_id.hex() for link in span.links),
            failed=span.status.code == span.status.STATUS_CODE_ERROR,
            status=span.status.message,
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
