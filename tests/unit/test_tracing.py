"""Traces: whose a delivery belongs to, what its spans tell, what goes out, and what a wrong variable does."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.domain.outcomes import Retried
from handlers.telemetry.otlp import RedactingHandler, session
from local.collector import Collector
from local.google_apis import MARK
from tests.unit.instance import Instance, LogLines, failed, push
from tests.unit.process import ROOT, run

TRACES = [f"{digit}af7651916cd43dd8448eb211c80319c" for digit in "123"]
SPAN = "b7ad6b7169203331"
PROCESS = "process archive-job-failed"


def parent(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{SPAN}-{flags}"


FULL = {f"theirs-{number}": "x" for number in range(99)}  # Pub/Sub takes a hundred attributes
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "googles": {
        "attributes": {"googclient_traceparent": parent(TRACES[0]), "traceparent": parent(TRACES[1])},
        "headers": {"traceparent": parent(TRACES[2])},
    },
    "w3c": {
        "attributes": {"traceparent": parent(TRACES[1])},
        "headers": {"traceparent": parent(TRACES[2])},
    },
    "rubbish": {
        "attributes": {"googclient_traceparent": "00-rubbish", "traceparent": "?"},
        "headers": {"traceparent": parent(TRACES[2])},
    },
    "zeros": {
        "attributes": {"googclient_traceparent": parent("0" * 32)},
        "headers": {"traceparent": parent(TRACES[2])},
    },
    "unsampled": {"attributes": {"googclient_traceparent": parent(TRACES[0], "00")}},
    "long state": {
        "attributes": {"traceparent": parent(TRACES[0]), "tracestate": "a=" + "x" * 255 + ",b=" + "y" * 255}
    },
    "state": {"attributes": {"traceparent": parent(TRACES[0]), "tracestate": "a=b"}},
    "malformed": {"event": {"rubbish": True}, "attributes": {"googclient_traceparent": parent(TRACES[0])}},
    "in doubt": {"retry": [[500, {}]]},
    "rejected": {"token": [[400, {"error": "invalid_grant"}]]},
    "unpublished": {"unpublished": True},
    "bug": {"bug": True},
    "put back": {"resumed": True, "attributes": {"theirs": "1"}},
    "put back, full": {"resumed": True, "attributes": FULL},
}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.traced"],
        cwd=ROOT,
        input=json.dumps(SCENARIOS),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert MARK not in ended.stdout + ended.stderr
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


def spans(told: dict[str, Any], scenario: str) -> dict[str, Any]:
    return {span["name"]: span for span in told[scenario]["spans"]}


@pytest.mark.parametrize(
    ("scenario", "expected"), [("googles", 0), ("w3c", 1), ("rubbish", 2), ("zeros", 2), ("malformed", 0)]
)
def test_trace_is_the_messages_else_the_requests(told: dict[str, Any], scenario: str, expected: int) -> None:
    assert {TRACES[expected]} == {span["trace"] for span in told[scenario]["spans"]}
    assert SPAN == spans(told, scenario)[PROCESS]["parent"]
    assert f"projects/a-project/traces/{TRACES[expected]}" == told[scenario]["line"]["logging.googleapis.com/trace"]


def test_trace_of_a_message_is_linked_to_its_request(told: dict[str, Any]) -> None:
    assert [TRACES[2]] == spans(told, "googles")[PROCESS]["links"]
    assert [] == spans(told, "rubbish")[PROCESS]["links"]


def test_trace_begins_where_there_is_none(told: dict[str, Any]) -> None:
    span = spans(told, "plain")[PROCESS]
    assert ("", "CONSUMER") == (span["parent"], span["kind"])
    assert span["id"] == told["plain"]["line"]["logging.googleapis.com/spanId"]
    assert told["plain"]["current"] is False


def test_unsampled_message_makes_no_span(told: dict[str, Any]) -> None:
    assert [] == told["unsampled"]["spans"]
    [attributes] = told["unsampled"]["sent"]
    assert [TRACES[0], "00"] == attributes["googclient_traceparent"].split("-")[1::2]


def test_each_step_is_a_span(told: dict[str, Any]) -> None:
    names = {span["id"]: span["name"] for span in told["plain"]["spans"]}
    made = [(span["name"], names[span["parent"]]) for span in told["plain"]["spans"] if span["parent"]]
    steps = [(step, PROCESS) for step in ("look", "token", "claim", "retry", "record", "publish")]
    assert sorted([("secret", "token")] * 2 + [("refresh", "token"), *steps]) == sorted(made)


def test_span_of_a_delivery_tells_what_its_line_tells(told: dict[str, Any]) -> None:
    expected = {"archiveJobId": "job", "userId": "alice", "attempt": 1, "outcome": "retried", "messageId": "42"}
    attributes = spans(told, "plain")[PROCESS]["attributes"]
    assert expected == {name: attributes.get(name) for name in expected}


@pytest.mark.parametrize("scenario", ["googles", "malformed"])
def test_message_carries_the_trace_on(told: dict[str, Any], scenario: str) -> None:
    [attributes] = told[scenario]["sent"]
    expected = f"00-{TRACES[0]}-{spans(told, scenario)['publish']['id']}-01"
    assert (expected, expected) == (attributes["googclient_traceparent"], attributes["traceparent"])


def test_event_that_is_put_back_carries_the_trace_where_it_has_room(told: dict[str, Any]) -> None:
    assert {"theirs", "traceparent", "googclient_traceparent"} == set(told["put back"]["sent"][-1])
    assert FULL == told["put back, full"]["sent"][-1]


@pytest.mark.parametrize(("scenario", "state"), [("state", "a=b"), ("long state", None)])
def test_long_tracestate_is_dropped(told: dict[str, Any], scenario: str, state: str | None) -> None:
    [attributes] = told[scenario]["sent"]
    assert (state, state) == (attributes.get("tracestate"), attributes.get("googclient_tracestate"))


@pytest.mark.parametrize(
    ("scenario", "span", "status", "said"),
    [
        ("in doubt", PROCESS, "ERROR", "archiveJobs.retry was answered 500 by dataportability.googleapis.com"),
        ("in doubt", "record", "UNSET", ""),
        ("rejected", PROCESS, "UNSET", ""),
        ("unpublished", "publish", "ERROR", "publishing to projects/a-project/topics/archive-job-retried: UNAVAILABLE"),
        ("bug", "token", "ERROR", "RuntimeError"),
        ("bug", PROCESS, "ERROR", "unexpected RuntimeError: a bug, and this line has its stack trace"),
    ],
)
def test_status_of_a_span(told: dict[str, Any], scenario: str, span: str, status: str, said: str) -> None:
    found = spans(told, scenario)[span]
    assert (status, said) == (found["status"], found["said"])


@pytest.mark.usefixtures("logged")
async def test_message_writes_no_line_by_its_tracestate(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    forged = {"traceparent": parent(TRACES[0]), "tracestate": 'x\n{"outcome":"fault"}\n'}
    assert 204 == (await instance.post(push(failed(), attributes=forged))).status_code
    assert [] == caplog.messages


async def test_traces_that_are_off_add_no_attribute(instance: Instance) -> None:
    await instance.deliver(failed(), attributes={"googclient_traceparent": parent(TRACES[0])})
    assert {"eventType", "userId", "dedupKey"} == set(instance.attributes("archive-job-retried")[0])


# what is exported


EXPORTING = """
import asyncio, os
from handlers.telemetry.logging import configure_logs
from tests.unit.instance import Instance, push
async def main():
    instance = Instance(**{name: value for name, value in os.environ.items() if name.startswith("OTEL_")})
    configure_logs("INFO")
    for _ in range(2):
        print((await instance.post(push("no event"))).status_code)
        await asyncio.sleep(0.3)
asyncio.run(main())
"""


async def test_refused_spans_are_one_warning() -> None:
    async with Collector(status=403) as collector:
        environment = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={MARK}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        ended = await asyncio.to_thread(run, EXPORTING, **environment)
    assert ["204", "204"] == ended.stdout.split(), ended.stderr
    lines = [json.loads(line)["message"] for line in ended.stderr.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.startswith("traces: ")]
    assert ["traces: Failed to export spans batch code: 403, reason: Forbidden"] == told
    assert MARK == collector.headers[0]["x-key"]
    assert MARK not in ended.stderr


async def test_unusable_variables_turn_traces_off(logged: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    instance = Instance(OTEL_TRACES_EXPORTER="otlp")
    instance.container.enter_worker()
    assert isinstance(await instance.deliver(), Retried)
    assert ["Traces are off, some OTEL_* variable is wrong: ValueError"] == [line["message"] for line in logged.lines]
    assert {"eventType", "userId", "dedupKey"} == set(instance.attributes("archive-job-retried")[0])


def test_warnings_of_opentelemetry_are_redacted(logged: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", f"{MARK}-sampler")

    def warn(name: str, words: str, *args: Any, exc_info: Any = None) -> None:
        handler = RedactingHandler(logging.WARNING)
        for _ in range(3):  # one line a minute
            handler.handle(logging.LogRecord(name, logging.WARNING, "x.py", 1, words, args, exc_info))

    warn("opentelemetry.util.re", "Header format invalid! Header values must be: %s", f"Bearer {MARK}")
    warn("opentelemetry.sdk", f"Couldn't recognize sampler {MARK}-SAMPLER.")
    warn("opentelemetry.sdk", "Failed: %s", ValueError(MARK), exc_info=(ValueError, ValueError(MARK), None))
    assert [
        "traces: Header format invalid! Header values must be",
        "traces: Couldn't recognize sampler OTEL_TRACES_SAMPLER.",
        "traces: Failed: ValueError (ValueError)",
    ] == [line["message"] for line in logged.lines]


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
def test_account_is_shown_to_google_only(
    endpoint: str, authorized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "account.json"
    known = {"client_id": "c", "client_secret": MARK, "refresh_token": MARK, "type": "authorized_user"}
    account.write_text(json.dumps(known))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    for variable in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        assert authorized is (session({variable: endpoint}) is not None)
