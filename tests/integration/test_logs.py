"""What the deployed function logs, read as Cloud Logging and Error Reporting read it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from local.collector import Collector
from local.every_kind import KINDS
from local.function_server import ROOT
from local.google_apis import MARK
from local.stage import Stage
from tests.log_fields import FIELDS

SEVERITY = {"retried": "INFO", "rejected": "INFO", "deferred": "INFO", "not_now": "WARNING", "fault": "ERROR"}
REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
# https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields
SPECIAL = {"severity", "message", "time", "@type", "context"}

BUG = f"""
import importlib.util, sys
sys.path.insert(0, {str(ROOT)!r})
from handlers.google.user_tokens import UserTokens
UserTokens.cached = lambda self, credential_id: {{}}["no such key"]
spec = importlib.util.spec_from_file_location("real", {str(ROOT / "main.py")!r})
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
retry_failed_archive_job = real.retry_failed_archive_job
"""


async def test_each_delivery_is_one_line_of_its_severity_and_a_fault_is_one_that_groups() -> None:
    async with Stage(settings={"LOG_EXECUTION_ID": "true"}) as stage:  # as the Cloud Functions API sets it
        server = await stage.start_function()
        names, expected = {}, Counter[tuple[str, str, str]]()
        for name, kind in KINDS.items():
            names[await stage.publish(kind.prepare(stage, name))] = name
            ends = kind.ends[:1] if name == "cooldown" else kind.ends  # its second delivery needs the schedule
            expected.update((name, *end) for end in ends)
        await stage.until(lambda: len(stage.deliveries) >= expected.total())
        told, other = stage.deliveries, server.other_output
        ends_of = [(names[line["messageId"]], line["outcome"], line.get("reason", "")) for line in told]
        printed = server.printed()
    assert expected == Counter(ends_of)
    assert [SEVERITY[line["outcome"]] for line in told] == [line["severity"] for line in told]
    assert not [line for line in other if "outcome" in line]
    assert MARK not in printed
    assert set() == {name for line in told for name in line} - set(FIELDS) - SPECIAL
    [fault] = [line for line in told if line["outcome"] == "fault"]
    assert {REPORTED: 1, None: len(told) - 1} == Counter(line.get("@type") for line in told)
    assert "retry" == fault["failedStep"] == fault["context"]["reportLocation"]["functionName"]
    assert {"filePath", "lineNumber", "functionName"} == set(fault["context"]["reportLocation"])


async def test_spans_that_are_refused_are_told_as_deployed() -> None:
    """Under LOG_EXECUTION_ID the framework disables the loggers that are there when it configures logging."""
    async with Collector(status=403) as collector:
        exporting = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        settings = {"LOG_EXECUTION_ID": "true", "OTEL_BSP_SCHEDULE_DELAY": "50", **exporting}
        async with Stage(settings=settings) as stage:
            server = await stage.start_function()
            await stage.publish(KINDS["plain"].prepare(stage, "plain"))
            await stage.until(lambda: "traces: Failed to export spans batch code: 403" in server.printed(), seconds=10)


async def test_a_bug_is_one_line_with_its_stack_trace_beside_a_short_message(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text(BUG)
    async with Stage() as stage:
        server = await stage.start_function(source=source)
        await stage.publish(KINDS["plain"].prepare(stage, "plain"))
        await stage.until(lambda: stage.deliveries)
        line: dict[str, Any] = stage.deliveries[0]
        other = server.other_output
    assert ("ERROR", "fault", REPORTED) == (line["severity"], line["outcome"], line["@type"])
    assert "unexpected KeyError: a bug, and this line has its stack trace" == line["message"]
    assert line["stack_trace"].startswith("Traceback (most recent call last):")
    assert line["stack_trace"].endswith("KeyError: 'no such key'")
    assert "context" not in line
    assert not [text for text in other if "Traceback" in text]
    assert json.dumps(line).count("Traceback") == 1
