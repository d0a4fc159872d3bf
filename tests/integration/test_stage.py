"""The stage that the demo and the end-to-end tests stand on: the real function, and nothing left behind."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import NotFound

from local.google_apis import MARK, SecretTold
from local.stage import Stage
from local.topics import connected

# Functions that show what reaches them, in place of the real one.
_ECHO = """
import json, os, sys
import functions_framework.aio
from starlette.responses import Response

print("not a JSON line")

@functions_framework.aio.http
async def retry_failed_archive_job(request):
    body = await request.json()
    print(json.dumps({"outcome": "seen", "messageId": body["message"]["messageId"]}), flush=True)
    return Response(status_code=STATUS)
"""


def function(folder: Path, status: int = 204) -> Path:
    source = folder / "main.py"
    source.write_text(_ECHO.replace("STATUS", str(status)))
    return source


def event(number: int = 1) -> dict[str, Any]:
    return {"archiveJobId": f"job-{number}", "userId": "user"}


async def test_new_connections_go_to_all_servers_in_turn_and_past_a_dead_one(
    google_cloud: dict[str, Any], tmp_path: Path
) -> None:
    async with Stage(**google_cloud) as stage:
        first, second = [await stage.start_function(source=function(tmp_path)) for _ in range(2)]
        for number in range(20):
            await stage.publish(event(number))
        await stage.until(lambda: len(stage.deliveries) >= 20)
        assert first.deliveries
        assert second.deliveries
        first.kill()
        before = len(second.deliveries)
        for number in range(10):
            await stage.publish(event(number))
        await stage.until(lambda: len(second.deliveries) - before >= 10)
        assert not first.running


async def test_what_keeps_failing_ends_as_a_dead_letter(tmp_path: Path) -> None:
    async with Stage(max_delivery_attempts=5, back_off=(0.01, 0.05)) as stage:
        await stage.start_function(source=function(tmp_path, status=503))
        await stage.publish(event(), key="value")
        await stage.until(lambda: stage.dead_letters)
        assert len(stage.deliveries) == 5
        assert stage.dead_letters[0].data == event()


async def test_an_emulator_is_left_with_nothing_to_push(google_cloud: dict[str, Any]) -> None:
    async with Stage(**google_cloud) as stage:
        await stage.publish(event())
        pushed = f"projects/{stage.project}/subscriptions/archive-job-failed-1"
        async with connected(google_cloud["pubsub"]) as (_, subscriber):
            assert pushed == (await subscriber.get_subscription(subscription=pushed, timeout=5)).name
    async with connected(google_cloud["pubsub"]) as (_, subscriber):
        with pytest.raises(NotFound):
            await subscriber.get_subscription(subscription=pushed, timeout=5)


async def test_an_event_waits_for_a_server_whose_json_lines_are_told_from_the_rest_that_it_prints(
    tmp_path: Path,
) -> None:
    async with Stage() as stage:
        message_id = await stage.publish(event())
        server = await stage.start_function(source=function(tmp_path))
        await stage.until(lambda: server.log)
        assert server.log == [{"outcome": "seen", "messageId": message_id}]
        assert server.other_output == ["not a JSON line"]
        with pytest.raises(TimeoutError, match=r"0 on archive-job-retried.*deliveries: seen"):  # tells how things stand
            await stage.until(lambda: stage.follow_ups, seconds=0.1)
        with pytest.raises(ValueError, match="Firestore emulator"):  # which a second server would share
            await stage.start_function(source=function(tmp_path))


async def test_a_server_that_cannot_start_says_what_it_printed(tmp_path: Path) -> None:
    broken = tmp_path / "main.py"
    broken.write_text("raise SystemExit('the settings are wrong')")
    async with Stage() as stage:
        with pytest.raises(RuntimeError, match="the settings are wrong"):
            await stage.start_function(source=broken)


async def test_a_server_sees_the_stages_settings_and_none_of_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRY_BUDGET", "this machine's")
    shows = tmp_path / "main.py"
    shows.write_text(
        "import json, os; print(json.dumps(dict(os.environ)), flush=True)" + _ECHO.replace("STATUS", "204")
    )
    async with Stage(settings={"AMBIGUOUS_RETRY": "park"}) as stage:
        server = await stage.start_function(source=shows, settings={"LOG_LEVEL": "DEBUG"})
        await stage.until(lambda: server.log)
        seen = server.log[0]
        assert (seen["AMBIGUOUS_RETRY"], seen["LOG_LEVEL"], seen.get("RETRY_BUDGET")) == ("park", "DEBUG", None)
        assert MARK not in str(seen)


async def test_a_secret_in_what_a_server_prints_or_answers_fails_the_stage(tmp_path: Path) -> None:
    source, told = function(tmp_path), f"print('{MARK}', flush=True) or Response(headers={{'x-told': '{MARK}'}}, "
    source.write_text(source.read_text().replace("Response(", told))  # who asks need not wait for a body
    with pytest.raises(SecretTold, match="the output of retry_failed_archive_job, an answer"):  # noqa: PT012
        async with Stage() as stage:
            await stage.start_function(source=source)
            await stage.publish(event())
            await stage.until(lambda: MARK.encode() in stage.answered)


async def test_a_secret_in_a_message_or_in_the_ledger_fails_the_stage(google_cloud: dict[str, Any]) -> None:
    said = "archive-job-retried, the output of retry_failed_archive_job, the ledger"
    with pytest.raises(SecretTold, match=said):  # noqa: PT012
        async with Stage(**google_cloud) as stage:
            stage.add_user("user")
            await stage.start_function()
            await stage.publish({"archiveJobId": MARK, "userId": "user"})
            await stage.until(lambda: stage.follow_ups and stage.deliveries)


async def test_no_process_and_no_file_is_left_behind(tmp_path: Path) -> None:
    async with Stage() as stage:
        server = await stage.start_function(source=function(tmp_path))
        folder = stage.folder
        assert _alive(server.pid) == 3  # the server, its worker, and the tether
    for _ in range(100):  # the tether has been sent its SIGKILL, which takes effect when it is next to run
        if not _alive(server.pid):
            break
        await asyncio.sleep(0.02)
    assert _alive(server.pid) == 0
    assert not folder.exists()


def _alive(group: int) -> int:
    """How many processes of this group there are, but for zombies that only wait to be reaped."""
    command = ["ps", "-eo", "pgid=,stat="]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(row.split()[0] == str(group) and "Z" not in row.split()[1] for row in rows)
