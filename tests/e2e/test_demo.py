"""`make demo` tells the truth: 0 when everything came out as promised, else not; and nothing is left running."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.function_server import ROOT

Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Started]:
    """Start the demo. `emulators=False`: on a path where none can be found."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: str, emulators: bool) -> subprocess.Popen[str]:
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "local.demo", *options],
            cwd=ROOT,
            env={**os.environ} if emulators else {**os.environ, "PATH": str(empty)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def descendants(pid: int) -> set[int]:
    """The process and all that it started, and they in turn."""
    rows = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    children: dict[int, set[int]] = {}
    for child, parent, state in (row.split() for row in rows.splitlines()):
        if "Z" not in state:
            children.setdefault(int(parent), set()).add(int(child))
    found, todo = {pid}, [pid]
    while todo:
        new = children.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def alive(pids: set[int]) -> set[int]:
    rows = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    return pids & {int(pid) for pid, state in (row.split() for row in rows.splitlines()) if "Z" not in state}


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"The demo ended without saying: {text}")


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 5
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pids)


PROMISED = {
    "all-goes-well": (1, "→"),
    "delivered-twice": (1, "→"),
    "token-endpoint-down": (1, "→"),
    "503-twice": (3, "→"),
    "connection-dropped": (2, "→"),
    "consent-revoked": (0, "rejected: REAUTHORIZATION_REQUIRED"),
    "409-runs-already": (1, "→ the-job-that-runs-already"),
    "malformed": (0, "rejected: MALFORMED_EVENT"),
    "keeps-failing": (1, "→"),
    "└ its retry no. 1": (1, "→"),
    "└ its retry no. 2": (1, "→"),
    "└ its retry no. 3": (0, "rejected: RETRY_BUDGET_EXHAUSTED"),
    **{f"one-user-job-{number:02}": (1, "→") for number in range(1, 11)},
}


def summary(output: str) -> dict[str, tuple[int, str]]:
    """By event: calls to Google, outcome."""
    rows = re.findall(r"^✓ (.+?) {2,}\d+ +(\d+)  (.+)$", output, re.MULTILINE)
    return {name: (int(calls), outcome) for name, calls, outcome in rows}


def check(output: str, more: dict[str, tuple[int, str]]) -> None:
    rows, promised = summary(output), PROMISED | more
    for name, (calls, outcome) in promised.items():
        assert rows[name][0] == calls, name
        assert rows[name][1].startswith(outcome), name
    assert rows.keys() == promised.keys()
    assert "Everything came out as promised" in output


@pytest.mark.usefixtures("need_emulators")
def test_on_googles_emulators_everything_comes_out_as_promised(demo: Started) -> None:
    process = demo(emulators=True)
    output, _ = process.communicate(timeout=120)
    watched = (2, "failed → retried → failed → retried → complete")
    check(output, {"429-cooldown": (2, "deferred, then →"), "started-once": watched})
    assert process.returncode == 0
    assert "instead of Google's emulators" not in output


def test_without_emulators_it_says_so_and_everything_comes_out_as_promised(demo: Started) -> None:
    process = demo(emulators=False)
    output, _ = process.communicate(timeout=120)
    check(output, {"429-cooldown": (1, "deferred until")})
    assert process.returncode == 0
    assert "instead of Google's emulators: the Google Cloud CLI is not on the path" in output
    assert "\x1b" not in output


# The real function, made to break two promises.
GENEROUS = "os.environ['RETRY_BUDGET'] = '9'"
CURIOUS = """
async def retry_failed_archive_job(request):
    with contextlib.suppress(Exception):
        event = json.loads(base64.b64decode((await request.json())["message"]["data"]))
        if event["archiveJobId"] == "all-goes-well":
            url = f"{os.environ['DATA_PORTABILITY_API_ENDPOINT']}/v1/archiveJobs/all-goes-well:retry"
            await asyncio.to_thread(urllib.request.urlopen, url, data=b"")
    return await real.retry_failed_archive_job(request)
"""


def broken(folder: Path, *, before: str = "", after: str = "") -> str:
    source = folder / "main.py"
    source.write_text(f"""
import asyncio, base64, contextlib, importlib.util, json, os, sys, urllib.request
sys.path.insert(0, {str(ROOT)!r})
{before}
spec = importlib.util.spec_from_file_location("real", {str(ROOT / "main.py")!r})
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
retry_failed_archive_job = real.retry_failed_archive_job
{after}
""")
    return f"--source={source}"


def test_a_wrong_outcome_and_a_call_too_many_end_it_with_1_and_are_named(demo: Started, tmp_path: Path) -> None:
    process = demo(broken(tmp_path, before=GENEROUS, after=CURIOUS), emulators=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "└ its retry no. 3: rejected RETRY_BUDGET_EXHAUSTED was promised" in output
    assert "all-goes-well: 2 calls to Google instead of 1" in output
    assert output.count("was promised") == output.count("instead of 1") == 1
    assert set(PROMISED) - set(summary(output)) == {"└ its retry no. 3", "all-goes-well"}


def test_a_function_that_fails_ends_it_with_1_and_its_own_words(demo: Started, tmp_path: Path) -> None:
    process = demo(
        broken(tmp_path, before="os.environ['OAUTH_CLIENT_SECRET'] = 'absent'"), "--seconds=4", emulators=False
    )
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "- all-goes-well: retried was promised" in output
    assert re.search(r"- all-goes-well: not over; the function said last: .*client.* absent", output)


def test_a_function_that_swallows_events_ends_it_with_1(demo: Started, tmp_path: Path) -> None:
    swallows = tmp_path / "main.py"
    swallows.write_text(
        "import functions_framework.aio\nfrom starlette.responses import Response\n"
        "@functions_framework.aio.http\n"
        "async def retry_failed_archive_job(request):\n    return Response(status_code=204)\n"
    )
    process = demo(f"--source={swallows}", "--seconds=3", emulators=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "all-goes-well: retried was promised" in output


def test_a_function_that_cannot_start_ends_it_with_1_and_what_it_said(demo: Started, tmp_path: Path) -> None:
    broken = tmp_path / "main.py"
    broken.write_text("raise SystemExit('the settings are wrong')")
    process = demo(f"--source={broken}", emulators=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the settings are wrong" in output
    assert "Traceback" not in output


@pytest.mark.usefixtures("need_emulators")
def test_interrupted_it_leaves_no_emulator_and_no_function_running(demo: Started) -> None:
    # itself, two emulators with tethers, the function's server …
    end(demo(emulators=True), signal.SIGINT, 130, processes=7)


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_terminated_or_killed_it_leaves_no_function_running(demo: Started, ending: signal.Signals, code: int) -> None:
    end(demo(emulators=False), ending, code, processes=4)  # itself, the function's server, worker and tether


def end(process: subprocess.Popen[str], ending: signal.Signals, code: int, *, processes: int) -> None:
    wait_for_line(process, "all-goes-well")
    started = descendants(process.pid)
    assert len(started) >= processes
    process.send_signal(ending)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in output
    wait_until_gone(started)
