"""The process that the framework starts: what importing main does, and what it must not do yet."""

import io
import json
from typing import Any

import pytest

from handlers.telemetry.logging import configure_logs, log
from handlers.web.server import export_proxies
from tests.unit.process import run

ON = {"GOOGLE_CLOUD_PROJECT": "a-project"}


def test_wrong_settings_end_the_start_with_one_message() -> None:
    ended = run("import main", RETRY_BUDGET="many")
    assert 1 == ended.returncode
    [line] = map(json.loads, ended.stderr.splitlines())
    told = line["message"].splitlines()
    assert ["The settings are wrong:", "- GOOGLE_CLOUD_PROJECT has to be set."] == told[:2]
    assert (3, "ERROR") == (len(told), line["severity"])


@pytest.mark.parametrize("traces", ["none", "otlp"])
def test_start_opens_no_socket_and_starts_no_thread(traces: str) -> None:
    """What is built before the framework forks its workers does not survive it. A started server says one line."""
    code = """
import sys, threading
used = set()
sys.addaudithook(lambda name, args: used.add((name, args[1])) if name in ("socket.bind", "socket.connect") else None)
import main
# urllib3, which comes with google-api-core, looks whether the machine has IPv6, and closes that socket at once
assert used <= {("socket.bind", ("::1", 0))}, used
assert threading.active_count() == 1
from gunicorn.config import Config
print(Config().keepalive, Config().control_socket_disable)
print(*sys.modules)
"""
    ended = run(code, **ON, OTEL_TRACES_EXPORTER=traces, FUNCTION_TARGET="resume_deferred_retries")
    assert 0 == ended.returncode, ended.stderr
    kept, modules = ended.stdout.splitlines()
    assert "3600 True" == kept  # longer than a front end keeps its connections
    loaded = set(modules.split())
    for name in ("google.cloud.pubsub_v1", "google.cloud.firestore", "pandas", "handlers.watch_job"):
        assert name not in loaded
    assert (traces == "otlp") == ("opentelemetry.sdk.trace" in loaded)  # before the fork, but only where it is used
    [line] = map(json.loads, ended.stderr.splitlines())
    expected = {"severity": "INFO", "target": "resume_deferred_retries", "project": "a-project"}
    assert expected == {name: line[name] for name in expected}


P, METADATA = "http://p:1", "metadata.google.internal,169.254.169.254"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"NO_PROXY": "a"}, {"no_proxy": "a"}),
        ({"HTTPS_PROXY": P}, {"https_proxy": P, "no_proxy": METADATA}),
        ({"https_proxy": P}, {"no_proxy": METADATA}),
        ({"ALL_PROXY": P}, {"no_proxy": METADATA}),  # which google-auth's requests read
        ({"HTTPS_PROXY": P, "https_proxy": "http://q:1"}, {"https_proxy": "http://q:1"}),
        ({"HTTPS_PROXY": "p:1"}, {"https_proxy": "http://p:1"}),
        ({"HTTPS_PROXY": P, "NO_PROXY": "a,b"}, {"no_proxy": f"a,b,{METADATA}", "NO_PROXY": f"a,b,{METADATA}"}),
    ],
)
def test_proxies_are_exported_in_either_case(given: dict[str, str], expected: dict[str, Any]) -> None:
    environment = dict(given)
    export_proxies(environment)
    assert (given | expected).items() <= environment.items() if given else environment == {}


def test_no_proxy_for_every_host_takes_the_proxies_away() -> None:
    environment = {"HTTPS_PROXY": P, "http_proxy": P, "grpc_proxy": P, "NO_PROXY": "*", "OTHER": "stays"}
    export_proxies(environment)
    assert {"NO_PROXY": "*", "no_proxy": "*", "OTHER": "stays"} == environment


def test_log_level_counts_from_when_it_is_set() -> None:
    before, after = io.StringIO(), io.StringIO()
    configure_logs("ERROR", before)
    log.warning("before")
    configure_logs("INFO", after)
    log.warning("after")
    assert ("", 1) == (before.getvalue(), after.getvalue().count("\n"))
