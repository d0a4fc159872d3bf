"""One trace from whoever publishes an event to whoever consumes its follow-up, on Google's emulators.

The function runs in a process of its own and sends its spans to a collector; producer and consumer are Google's own
Pub/Sub clients with their tracing on, whose spans stay in memory.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.cloud import pubsub_v1  # type: ignore[attr-defined,import-untyped,unused-ignore]
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from local.collector import Collector
from local.google_apis import MARK
from local.stage import Stage
from local.topics import FAILED, RETRIED

EVENT = {"archiveJobId": "job-1", "userId": "alice"}
CONSUMER = "a-consumer"


@pytest.fixture(scope="module")
def outside() -> InMemorySpanExporter:
    """The spans of Google's clients, which use the process's own provider; it can be set once only."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


@pytest.fixture
def _emulated(pubsub_emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's clients in this process find the emulator."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_emulator)


def settings(collector: Collector, delay_milliseconds: int) -> dict[str, str]:
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": str(delay_milliseconds),
        "OTEL_SERVICE_NAME": "a-name",
    }


def subscribe(project: str) -> None:
    with pubsub_v1.SubscriberClient() as client:
        name, topic = client.subscription_path(project, CONSUMER), client.topic_path(project, RETRIED)
        client.create_subscription(name=name, topic=topic)


def publish(project: str) -> None:
    """As a producer with tracing on does it."""
    options = pubsub_v1.types.PublisherOptions(enable_open_telemetry_tracing=True)
    client = pubsub_v1.PublisherClient(publisher_options=options)
    client.publish(client.topic_path(project, FAILED), json.dumps(EVENT).encode()).result(timeout=20)
    client.stop()


def consume(project: str) -> None:
    """As a consumer with tracing on does it, one message."""
    options = pubsub_v1.types.SubscriberOptions(enable_open_telemetry_tracing=True)
    with pubsub_v1.SubscriberClient(subscriber_options=options) as client:

        def take(message: Any) -> None:
            message.ack()
            pulling.cancel()

        pulling = client.subscribe(client.subscription_path(project, CONSUMER), take)
        pulling.result(timeout=20)


def named(spans: tuple[ReadableSpan, ...], name: str) -> Any:
    [span] = (span for span in spans if span.name == name)
    return span


def hexadecimal(span: Any) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


@pytest.mark.usefixtures("_emulated")
async def test_one_trace_leads_from_the_producers_publish_to_the_consumer_of_the_follow_up_and_sigterm_sends_its_spans(
    google_cloud: Any, outside: InMemorySpanExporter, collector: Collector
) -> None:
    async with Stage(**google_cloud, settings=settings(collector, delay_milliseconds=600_000)) as stage:
        server = await stage.start_function()
        stage.add_user("alice")
        await asyncio.to_thread(subscribe, stage.project)
        await asyncio.to_thread(publish, stage.project)
        await asyncio.to_thread(consume, stage.project)
        await stage.until(lambda: stage.deliveries)  # the line is written when the follow-up is out, perhaps read
        [line] = stage.deliveries
        assert [] == collector.spans
        server.terminate()
        await stage.until(lambda: not server.running, seconds=10)

    trace_id, produced = hexadecimal(named(outside.get_finished_spans(), f"{FAILED} create"))
    consumed = named(outside.get_finished_spans(), f"{CONSUMER} subscribe")
    ids = {span.name: span.span_id for span in collector.spans} | {"(producer)": produced}
    names = {span_id: name for name, span_id in ids.items()}
    parents: dict[str, set[str]] = {span.name: set() for span in collector.spans}
    for span in collector.spans:
        parents[span.name].add(names[span.parent_id])
    delivery, token = f"process {FAILED}", "token"
    assert {
        delivery: {"(producer)"},
        "look": {delivery},
        "claim": {delivery},
        token: {delivery},
        "secret": {token},
        "refresh": {token},
        "retry": {delivery},
        "record": {delivery},
        "publish": {delivery},
    } == parents
    assert {trace_id} == {span.trace_id for span in collector.spans}
    assert (trace_id, ids["publish"]) == (hexadecimal(consumed)[0], f"{consumed.parent.span_id:016x}")
    assert f"projects/{stage.project}/traces/{trace_id}" == line["logging.googleapis.com/trace"]
    assert (ids[delivery], True) == (
        line["logging.googleapis.com/spanId"],
        line["logging.googleapis.com/trace_sampled"],
    )
    told = {(span.resource["service.name"], span.resource["gcp.project_id"]) for span in collector.spans}
    assert {("a-name", stage.project)} == told
    assert MARK not in str(collector.spans)


async def test_a_collector_that_never_answers_holds_up_neither_a_delivery_nor_the_end(google_cloud: Any) -> None:
    async with (
        Collector(delay=60) as silent,
        Stage(**google_cloud, settings=settings(silent, delay_milliseconds=100)) as stage,
    ):
        server = await stage.start_function()
        stage.add_user("alice")
        for number in range(3):
            await stage.publish(EVENT | {"archiveJobId": f"job-{number}"})
        await stage.until(lambda: len(stage.follow_ups) == 3)
        await stage.until(lambda: silent.headers)
        server.terminate()
        await stage.until(lambda: not server.running, seconds=9)
        assert {"retried"} == {line["outcome"] for line in stage.deliveries}
