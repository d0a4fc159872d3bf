"""Rules of the HTTP side: status codes, fixed words, one log line a delivery, nothing built before the first one."""

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from handlers.entrance import Entrance
from handlers.events import ArchiveJobFailed
from handlers.ledger import Claim
from handlers.settings import from_environment
from handlers.telemetry import configure_logs

ROOT = Path(__file__).parents[2]
NOWHERE = {  # a function whose every neighbour is out of reach
    "GOOGLE_CLOUD_PROJECT": "a-project",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:1",
    "SECRET_MANAGER_EMULATOR_HOST": "127.0.0.1:1",
    "RETRY_LEDGER": "memory",
    "HANDLER_DEADLINE_SECONDS": "0.6",
}


@pytest.fixture
def entrance() -> Entrance:
    return Entrance(from_environment(NOWHERE))


@pytest.fixture
def log(entrance: Entrance) -> io.StringIO:
    """What the entrance logs from here on."""
    stream = io.StringIO()
    configure_logs("INFO", stream)
    return stream


async def send(entrance: Entrance, body: bytes, method: str = "POST", **headers: str) -> Response:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw}
    return await entrance.retry_failed_archive_job(Request(scope, receive))


def push(event: Any) -> bytes:
    data = base64.b64encode(json.dumps(event).encode()).decode()
    return json.dumps({"message": {"data": data, "messageId": "42"}, "deliveryAttempt": 2}).encode()


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
async def test_another_method_than_post_is_405(entrance: Entrance, method: str) -> None:
    answer = await send(entrance, b"", method)
    assert (405, "POST") == (answer.status_code, answer.headers["allow"])


async def test_a_body_that_is_no_envelope_is_400_and_neither_answer_nor_log_repeats_it(
    entrance: Entrance, log: io.StringIO
) -> None:
    answer = await send(entrance, b"a-secret", authorization="Bearer a-secret")
    assert (400, b"malformed") == (answer.status_code, answer.body)
    assert "a-secret" not in f"{lines(log)} {answer.headers}"


async def test_what_passes_is_503_with_one_word_and_one_warning(entrance: Entrance, log: io.StringIO) -> None:
    answer = await send(entrance, push({"archiveJobId": "job", "userId": "alice"}))
    assert (503, b"later") == (answer.status_code, answer.body)
    [line] = lines(log)
    expected = {
        "severity": "WARNING",
        "outcome": "not_now",
        "archiveJobId": "job",
        "userId": "alice",
        "messageId": "42",
        "deliveryAttempt": 2,
        "attempt": 0,
        "calls": 0,
    }
    assert expected == {name: line.get(name) for name in expected}
    assert {"claim", "token", "release"} == set(line["stepsMs"])


async def test_a_log_line_carries_the_trace_of_its_request(entrance: Entrance, log: io.StringIO) -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    await send(entrance, push("not an event"), traceparent=f"00-{trace}-{span}-01")
    [line] = lines(log)
    assert f"projects/a-project/traces/{trace}" == line["logging.googleapis.com/trace"]
    assert (span, True) == (line["logging.googleapis.com/spanId"], line["logging.googleapis.com/trace_sampled"])


async def test_a_request_that_is_cut_off_is_one_warning_and_no_traceback(entrance: Entrance, log: io.StringIO) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    answer = await entrance.retry_failed_archive_job(
        Request({"type": "http", "method": "POST", "headers": []}, receive)
    )
    assert answer.status_code == 503
    assert ["WARNING"] == [line["severity"] for line in lines(log)]


async def test_what_does_not_fit_into_the_memory_is_503_until_there_is_room(
    entrance: Entrance, log: io.StringIO
) -> None:
    sent = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await sent.wait()
        return {"type": "http.request", "body": b"no envelope"}

    async def send(megabytes: int) -> int:
        length = str(megabytes << 20).encode()
        scope = {"type": "http", "method": "POST", "headers": [(b"content-length", length)]}
        async with asyncio.timeout(5):
            return (await entrance.retry_failed_archive_job(Request(scope, receive))).status_code

    alone = asyncio.create_task(send(100))  # one is always taken
    await asyncio.sleep(0)
    assert 503 == await send(1)
    assert ["WARNING"] == [line["severity"] for line in lines(log)]
    sent.set()
    assert 400 == await alone
    sent.clear()
    many = [asyncio.create_task(send(megabytes)) for megabytes in (32, 8, 0, 0)]
    await asyncio.sleep(0)
    assert 503 == await send(1)
    sent.set()
    assert [400] * 4 == await asyncio.gather(*many)
    assert 400 == await send(40)


async def test_a_request_whose_length_nobody_said_counts_too_when_it_is_here(entrance: Entrance) -> None:
    large = asyncio.create_task(send(entrance, push("no event") + b" " * (41 << 20)))
    await asyncio.sleep(0.1)  # it is being worked on
    assert not large.done()
    assert 503 == (await send(entrance, b"no envelope", **{"content-length": "11"})).status_code
    await large
    assert 400 == (await send(entrance, b"no envelope", **{"content-length": "11"})).status_code


async def test_a_request_that_does_not_come_in_is_503_and_takes_no_room_any_more() -> None:
    entrance = Entrance(from_environment(NOWHERE), request_seconds=0.1)

    async def never() -> dict[str, Any]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"90000000")]}
    assert 503 == (await entrance.retry_failed_archive_job(Request(scope, never))).status_code
    assert 400 == (await send(entrance, b"no envelope", **{"content-length": "11"})).status_code


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_wrong_settings_end_the_start_with_one_message_that_lists_them_all() -> None:
    ended = run("import main", RETRY_BUDGET="many")
    assert 1 == ended.returncode
    assert ["The settings are wrong:", "- GOOGLE_CLOUD_PROJECT has to be set."] == ended.stderr.splitlines()[:2]
    assert 3 == len(ended.stderr.splitlines())


def test_importing_main_keeps_no_socket_starts_no_thread_and_builds_no_client() -> None:
    code = """
import sys, threading
used = set()
sys.addaudithook(lambda name, args: used.add((name, args[1])) if name in ("socket.bind", "socket.connect") else None)
import main
# urllib3, which comes with google-api-core, looks whether the machine has IPv6, and closes that socket at once
assert used <= {("socket.bind", ("::1", 0))}, used
assert threading.active_count() == 1
assert list(vars(main.entrance._parts)) == ["_settings"]
"""
    ended = run(code, GOOGLE_CLOUD_PROJECT="a-project")
    assert (0, "") == (ended.returncode, ended.stderr)


async def test_the_ledger_remembers_a_job_for_as_long_as_any_message_about_it_may_come(entrance: Entrance) -> None:
    event = ArchiveJobFailed(job_id="job", user_id="alice", credential_id="alice")
    claim = await entrance._parts._ledger.claim(event)
    assert isinstance(claim, Claim)
    forgets_in = claim.entry.expire_at - claim.entry.updated_at
    assert forgets_in >= timedelta(days=14) + timedelta(days=31)  # EVENT_MAX_AGE_DAYS, and Pub/Sub's longest retention


@pytest.mark.parametrize("use_case", ["retry_failed_job", "resume_deferred"])
def test_a_use_case_knows_protocols_and_no_library_of_the_network(use_case: str) -> None:
    ended = run(f"import sys, handlers.{use_case}; print(*sys.modules)")
    assert 0 == ended.returncode
    assert {"aiohttp", "google.api_core", "google.auth", "grpc", "starlette"}.isdisjoint(ended.stdout.split())


NOT_NEEDED = [
    "google.cloud.pubsub_v1",  # threads, flow control and leasing for pulling
    "google.cloud.firestore",  # the client for documents, queries, listeners
    "google.cloud.firestore_admin_v1",
    "google.oauth2._client_async",
    "opentelemetry.sdk",
    "pandas",
    "unittest.mock",
]


@pytest.mark.parametrize("module", NOT_NEEDED)
def test_importing_main_leaves_out_what_is_not_needed(module: str, loaded: set[str]) -> None:
    assert module not in loaded


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    ended = run("import sys, main; print(*sys.modules)", GOOGLE_CLOUD_PROJECT="a-project")
    assert 0 == ended.returncode
    return set(ended.stdout.split())
