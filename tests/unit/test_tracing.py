"""Rules of traces: whose trace a delivery belongs to, what its spans tell, and that none of it is there when off."""

import asyncio
import io
import json
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handlers import tracing
from handlers.delivery import Delivery
from handlers.entrance import Entrance
from handlers.exporting import session
from handlers.outcomes import NotNow, Outcome, Rejected, Retried, Unavailable
from handlers.portability import PortabilityApi
from handlers.settings import from_environment
from handlers.spans import Spans
from handlers.telemetry import Journal, configure_logs, log
from handlers.user_credentials import UserCredentials
from local.collector import Collector
from tests.unit.test_entry_point import NOWHERE, lines, push, run, send
from tests.unit.world import World, failed, google_error

TRACES = [f"{digit}af7651916cd43dd8448eb211c80319c" for digit in "123"]
SPAN = "b7ad6b7169203331"
PROCESS = "process archive-job-failed"
ON = {"OTEL_TRACES_EXPORTER": "otlp"}


def parent(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{SPAN}-{flags}"


class TracedWorld(World):
    """A world whose function makes spans."""

    def __init__(self) -> None:
        super().__init__()
        self.exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = made = Spans(provider.get_tracer("test"), project="p", topic="archive-job-failed")
        credentials = UserCredentials(
            made.secrets(self.secrets),
            made.token_endpoint(self.http),
            secret_prefix="token-",
            client_secret_id="client",
        )
        self.case = replace(
            self.case,
            tokens=made.tokens(credentials),
            portability=made.portability(PortabilityApi(self.http, "https://portability.example", lambda: self.time)),
            retried=made.publisher(self.retried),
            rejected=made.publisher(self.rejected),
        )

    async def handle(self, event: Any, headers: dict[str, str] | None = None, **attributes: str) -> Outcome:
        """As the composition does it."""
        delivery = Delivery(
            data=json.dumps(event).encode(), attributes=attributes, message_id="7", published_at=self.time, attempt=1
        )
        journal = self.journal = self.tracing.journal(delivery, headers or {}, messageId=delivery.message_id)
        try:
            outcome = await self.case(delivery, journal)
        except Exception as error:
            journal.write(logging.ERROR, type(error).__name__, outcome="fault")
            raise
        level = logging.WARNING if isinstance(outcome, NotNow) else logging.INFO
        if isinstance(outcome, Rejected):
            journal.bind(reason=outcome.reason)
        journal.write(level, getattr(outcome, "detail", ""), outcome=type(outcome).__name__)
        return outcome

    def spans(self, name: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> Any:
        [span] = self.spans(name)
        return span


@pytest.fixture
def world() -> TracedWorld:
    return TracedWorld()


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}" if span.context else ""


@pytest.mark.parametrize(
    ("attributes", "headers", "expected"),
    [
        (
            {"googclient_traceparent": parent(TRACES[0]), "traceparent": parent(TRACES[1])},
            {"traceparent": parent(TRACES[2])},
            TRACES[0],
        ),
        ({"traceparent": parent(TRACES[1])}, {"traceparent": parent(TRACES[2])}, TRACES[1]),
        ({"googclient_traceparent": "00-rubbish", "traceparent": "?"}, {"traceparent": parent(TRACES[2])}, TRACES[2]),
        ({"googclient_traceparent": parent("0" * 32)}, {"traceparent": parent(TRACES[2])}, TRACES[2]),
    ],
)
async def test_the_trace_is_the_events_as_googles_clients_write_it_or_w3c_does_and_else_the_requests(
    world: TracedWorld, attributes: dict[str, str], headers: dict[str, str], expected: str
) -> None:
    await world.handle(failed(), headers, **attributes)
    assert {expected} == {trace_of(span) for span in world.exporter.get_finished_spans()}
    assert f"{world.span(PROCESS).parent.span_id:016x}" == SPAN
    off = tracing.NoTracing("p").journal(Delivery(data=b"", attributes=attributes), headers)
    for journal in (world.journal, off):  # the log follows the same rule, with traces on and off
        assert f"projects/p/traces/{expected}" == journal.fields["logging.googleapis.com/trace"]


async def test_an_event_with_a_trace_of_its_own_is_linked_to_the_request_that_brought_it(world: TracedWorld) -> None:
    await world.handle(failed(), {"traceparent": parent(TRACES[2])}, googclient_traceparent=parent(TRACES[0]))
    assert [TRACES[2]] == [f"{link.context.trace_id:032x}" for link in world.span(PROCESS).links]


async def test_an_event_with_no_trace_begins_one_and_its_log_line_names_it(world: TracedWorld) -> None:
    await world.handle(failed())
    span = world.span(PROCESS)
    assert span.parent is None
    assert f"projects/p/traces/{trace_of(span)}" == world.journal.fields["logging.googleapis.com/trace"]
    assert f"{span.context.span_id:016x}" == world.journal.fields["logging.googleapis.com/spanId"]


async def test_what_the_producer_does_not_sample_makes_no_span_and_its_follow_up_says_so_too(
    world: TracedWorld,
) -> None:
    await world.handle(failed(), googclient_traceparent=parent(TRACES[0], flags="00"))
    assert () == world.exporter.get_finished_spans()
    [attributes] = world.retried.attributes
    assert (TRACES[0], "00") == tuple(attributes["googclient_traceparent"].split("-")[1::2])


async def test_each_step_is_a_span_below_the_deliverys_and_what_a_token_takes_is_below_the_token(
    world: TracedWorld,
) -> None:
    await world.handle(failed())
    names = {span.context.span_id: span.name for span in world.exporter.get_finished_spans() if span.context}
    made = [(span.name, names[span.parent.span_id]) for span in world.exporter.get_finished_spans() if span.parent]
    assert sorted(
        [("secret", "token")] * 2
        + [("refresh", "token")]
        + [(step, PROCESS) for step in ("claim", "token", "retry", "record", "publish")]
    ) == sorted(made)


async def test_the_deliverys_span_tells_what_the_log_line_tells(world: TracedWorld) -> None:
    await world.handle(failed("job"))
    expected = {"archiveJobId": "job", "userId": "alice", "attempt": 1, "outcome": "Retried", "messageId": "7"}
    assert expected == {name: world.span(PROCESS).attributes[name] for name in expected}
    assert world.span("retry").attributes["answer"] == "NewJob"


async def test_a_token_says_whether_it_was_cached(world: TracedWorld) -> None:
    await world.handle(failed("job-1"))
    await world.handle(failed("job-2"))
    assert [False, True] == [span.attributes["cached"] for span in world.spans("token")]
    assert 1 == len(world.spans("refresh"))


async def test_a_token_that_another_delivery_fetches_is_linked_to_there(world: TracedWorld) -> None:
    await asyncio.gather(world.handle(failed("job-1")), world.handle(failed("job-2")))
    fetched, shared = sorted(world.spans("token"), key=lambda span: bool(span.attributes["shared"]))
    assert (False, True) == (fetched.attributes["shared"], shared.attributes["shared"])
    assert [fetched.context.span_id] == [link.context.span_id for link in shared.links]
    assert {fetched.context.span_id} == {span.parent.span_id for span in world.spans("secret")}


@pytest.mark.parametrize("event", [failed(), {"rubbish": True}], ids=["follow-up", "rejection"])
async def test_what_goes_out_carries_the_trace_on_below_its_publish(world: TracedWorld, event: Any) -> None:
    await world.handle(event, googclient_traceparent=parent(TRACES[0]))
    [attributes] = world.retried.attributes + world.rejected.attributes
    expected = f"00-{TRACES[0]}-{world.span('publish').context.span_id:016x}-01"
    assert (expected, expected) == (attributes["googclient_traceparent"], attributes["traceparent"])


async def test_what_passes_is_an_error_of_its_step_and_of_the_delivery(world: TracedWorld) -> None:
    world.script("job", google_error(500, "INTERNAL"))
    assert isinstance(await world.handle(failed()), NotNow)
    said = "archiveJobs.retry was answered with 500 INTERNAL"
    for name in ("retry", PROCESS):
        status = world.span(name).status
        assert (False, said) == (status.is_ok and not status.is_unset, status.description)
    assert world.span("record").status.is_unset


async def test_a_fault_in_a_step_is_told_in_its_span(world: TracedWorld) -> None:
    world.retried.failure = Unavailable("publishing: UNAVAILABLE")
    await world.handle(failed())
    assert "publishing: UNAVAILABLE" == world.span("publish").status.description


async def test_a_rejection_is_no_error_of_the_delivery_and_names_its_reason(world: TracedWorld) -> None:
    world.http.token_script = [(400, {"error": "invalid_grant"})]
    assert isinstance(await world.handle(failed()), Rejected)
    span = world.span(PROCESS)
    assert (True, "REAUTHORIZATION_REQUIRED") == (span.status.is_unset, span.attributes["reason"])
    assert "400" == world.span("refresh").status.description
    assert "invalid_grant" in world.span("token").status.description


@pytest.mark.parametrize("ends", ["retried", "refused", "bug"])
async def test_no_span_tells_a_token_or_what_an_unexpected_exception_says(world: TracedWorld, ends: str) -> None:
    world.secrets.content["token-alice"] = b"refresh-SECRET"
    granted = (200, {"access_token": "access-SECRET", "expires_in": 3599})
    world.http.token_script = [granted]
    if ends == "refused":
        world.script("job", google_error(401))
    if ends == "bug":
        world.secrets.content["token-alice"] = RuntimeError("refresh-SECRET")
    try:
        await world.handle(failed())
    except RuntimeError:
        assert ends == "bug"
    assert world.spans(PROCESS)
    assert "SECRET" not in "".join(span.to_json() for span in world.exporter.get_finished_spans())


async def test_after_a_delivery_no_span_is_the_current_one(world: TracedWorld) -> None:
    await world.handle(failed())
    assert trace.get_current_span() is trace.INVALID_SPAN


# Off


def test_while_traces_are_off_each_part_is_itself_and_nothing_of_opentelemetry_is_loaded() -> None:
    ended = run("import sys, main; print(*sys.modules)", GOOGLE_CLOUD_PROJECT="p", OTEL_TRACES_EXPORTER="none")
    assert 0 == ended.returncode
    loaded = set(ended.stdout.split())
    # google-api-core looks whether it is installed, which leaves the empty namespace behind
    assert {name for name in loaded if name.startswith("opentelemetry")} <= {"opentelemetry"}
    assert "handlers.spans" not in loaded
    off = tracing.build(from_environment(NOWHERE | ON | {"OTEL_SDK_DISABLED": "TRUE"}))
    part: Any = object()
    for same in (off.portability, off.publisher, off.secrets, off.token_endpoint, off.tokens):
        assert same(part) is part
    assert Journal is type(off.journal(Delivery(data=b""), {}))


async def test_while_traces_are_off_what_goes_out_carries_no_trace() -> None:
    world = World()
    assert isinstance(await world.deliver(failed(), attributes={"googclient_traceparent": parent(TRACES[0])}), Retried)
    assert {"eventType", "userId", "dedupKey"} == set(world.retried.attributes[0])


# On


def test_with_traces_on_importing_main_loads_what_they_need_and_still_builds_nothing_and_starts_no_thread() -> None:
    code = """
import sys, threading, main
assert "opentelemetry.sdk.trace" in sys.modules and "handlers.spans" in sys.modules
assert threading.active_count() == 1
assert list(vars(main.entrance._parts)) == ["_settings"]
"""
    ended = run(code, GOOGLE_CLOUD_PROJECT="p", **ON)
    assert (0, "") == (ended.returncode, ended.stderr)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector(status=403) as refusing:
        yield refusing


async def exporting(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], deliveries: int = 1
) -> tuple[list[int], list[dict[str, Any]]]:
    """Statuses and log lines of an entrance with traces on. Its spans are sent meanwhile, none after the tests."""
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "50", **environment}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    entrance, stream = Entrance(from_environment(NOWHERE | environment)), io.StringIO()
    configure_logs("INFO", stream)
    statuses = []
    for _ in range(deliveries):
        statuses.append((await send(entrance, push("no event"))).status_code)
        await asyncio.sleep(0.2)
    return statuses, lines(stream)


async def test_spans_that_are_refused_are_one_warning_and_deliveries_go_on(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    environment = ON | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a-SECRET",
    }
    statuses, logged = await exporting(monkeypatch, environment, deliveries=3)
    assert [503] * 3 == statuses  # Pub/Sub is out of reach here
    assert len(collector.headers) >= 2
    assert "a-SECRET" == collector.headers[0]["x-key"]
    about = [line for line in logged if line["message"].startswith("traces: ")]
    assert [("WARNING", "traces: Failed to export spans batch code: 403, reason: Forbidden")] == [
        (line["severity"], line["message"]) for line in about
    ]


async def test_a_header_for_the_collector_that_cannot_be_read_is_not_repeated_in_the_log(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    environment = ON | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "Bearer a-SECRET",
    }
    _, logged = await exporting(monkeypatch, environment)
    [about] = [line["message"] for line in logged if line["message"].startswith("traces: ")]
    assert about.startswith("traces: Header format invalid!")
    assert "SECRET" not in str(logged)


async def test_a_misplaced_value_that_opentelemetry_quotes_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    environment = ON | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER": "a-SECRET"}
    _, logged = await exporting(monkeypatch, environment)
    assert any("OTEL_TRACES_SAMPLER" in line["message"] for line in logged)
    assert "SECRET" not in str(logged)


async def test_variables_that_opentelemetry_cannot_use_turn_traces_off_and_fail_no_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statuses, logged = await exporting(monkeypatch, ON | {"OTEL_BSP_MAX_QUEUE_SIZE": "1"})
    assert [503] == statuses
    assert ["ERROR", "WARNING"] == [line["severity"] for line in logged]
    assert logged[0]["message"].startswith("Traces are off, some OTEL_* variable is wrong: ValueError")


@pytest.mark.parametrize(
    ("endpoint", "authorized"),
    [
        ("https://telemetry.googleapis.com", True),
        ("https://telemetry.googleapis.com:443/v1/traces", True),
        ("http://telemetry.googleapis.com", False),
        ("https://telemetry.googleapis.com.example", False),
        ("https://notgoogleapis.com", False),
        ("https://collector.example", False),
        ("", False),
    ],
)
def test_only_google_is_shown_the_functions_own_account(
    endpoint: str, authorized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "account.json"
    known = {"client_id": "c", "client_secret": "s", "refresh_token": "t", "type": "authorized_user"}
    account.write_text(json.dumps(known))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    assert authorized is (session({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) is not None)
    assert authorized is (session({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}) is not None)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """What these tests configure goes with them."""
    loggers = log, logging.getLogger("opentelemetry")
    before = [(each, each.handlers[:], each.propagate) for each in loggers]
    at_sigterm = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, at_sigterm)
    for each, handlers, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
