"""Deliveries in a process with traces on: what is told of them, as JSON. OpenTelemetry has one provider a process."""

import asyncio
import json
import sys
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handlers.telemetry import tracing
from local.google_apis import MARK
from tests.unit.fakes import cooldown, grpc_error
from tests.unit.instance import Instance, LogLines, failed, later, push

_exporter = InMemorySpanExporter()


def _told(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "links": [f"{link.context.trace_id:032x}" for link in span.links],
        "status": span.status.status_code.name,
        "said": span.status.description or "",
        "attributes": dict(span.attributes or {}),
        "kind": span.kind.name,
    }


async def _deliver(scenario: dict[str, Any]) -> dict[str, Any]:
    _exporter.clear()
    instance, logged = Instance(), LogLines()
    instance.http.token_script = scenario.get("token", [])
    instance.script("job", *([cooldown(later(3600))] if scenario.get("resumed") else scenario.get("retry", [])))
    if scenario.get("bug"):
        instance.replace_secret("alice", RuntimeError(f"{MARK}-refresh"))
    if scenario.get("unpublished"):
        instance.topics.failures["archive-job-retried"] = grpc_error("UNAVAILABLE")
    body = push(scenario.get("event", failed()), attributes=scenario.get("attributes", {}))
    answer = await instance.post(body, **scenario.get("headers", {}))
    if scenario.get("resumed"):
        instance.clock.wait(3600)
        await instance.resume()
    return {
        "status": answer.status_code,
        "spans": [_told(span) for span in _exporter.get_finished_spans()],
        "sent": [dict(message.attributes) for _, message in instance.topics.messages],
        "line": {name: value for name, value in logged.lines[-1].items() if name != "stack_trace"},
        "current": trace.get_current_span().get_span_context().is_valid,
    }


async def _main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    tracing.start(provider)
    scenarios = json.load(sys.stdin)
    print(json.dumps({name: await _deliver(scenario) for name, scenario in scenarios.items()}))


if __name__ == "__main__":
    asyncio.run(_main())
