"""`make local`, as somebody uses it: what it prints is copied into another terminal."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.function_server import ROOT
from local.serve import PROJECT
from tests.e2e.test_demo import descendants, wait_until_gone

MOST_SECONDS = 60  # from the command to an own event that was retried


class Terminal:
    """`make local` in one terminal, and another beside it."""

    def __init__(self, source: Path, path: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local.serve", f"--source={source}"],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed = ""

    def read_until(self, pattern: str) -> str:
        """The line that this is in."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.printed += line
            if re.search(pattern, line):
                return line
        pytest.fail(f"It ended without saying {pattern}:\n{self.printed}")

    def copy(self, begins: str, ends: str) -> str:
        """What stands between such lines, both of them included."""
        found = re.search(rf"^{begins}.*?{ends}$", self.printed, re.MULTILINE | re.DOTALL)
        assert found
        return found[0]

    def paste(self, lines: str) -> None:
        """Into the other terminal, where the exports were pasted before."""
        done = subprocess.run(
            self._bash(lines),
            cwd=ROOT,
            timeout=60,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def first_line_of(self, command: str) -> str:
        """Of a command that goes on and on, in a terminal of its own."""
        with subprocess.Popen(
            self._bash(f"exec env PYTHONUNBUFFERED=1 {command}"), cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            line = process.stdout.readline()
            process.kill()
        return line.rstrip("\n")

    def _bash(self, lines: str) -> list[str]:
        exports = "\n".join(re.findall(r"^export .*", self.printed, re.MULTILINE))
        return ["bash", "-ec", f"{exports}\n{lines}"]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []
    shutil.copy(ROOT / "main.py", tmp_path)
    shutil.copytree(ROOT / "handlers", tmp_path / "handlers")

    def start(*, emulators: bool) -> Terminal:
        opened.append(Terminal(tmp_path / "main.py", os.environ["PATH"] if emulators else str(tmp_path)))
        opened[-1].read_until("Ctrl-C ends it")
        return opened[-1]

    yield start
    for each in opened:
        each.process.kill()
        each.process.communicate()


def test_an_own_event_is_retried_and_a_changed_source_is_taken(
    terminal: Callable[..., Terminal], tmp_path: Path, need_emulators: None
) -> None:
    begun = time.monotonic()
    here = terminal(emulators=True)
    everything = descendants(here.process.pid)
    in_python = here.copy(r"\S*python - <<'END'", "END")
    here.paste(in_python)
    assert re.search(r"^my-job → [0-9a-f-]{36}$", here.read_until("^my-job"))
    assert time.monotonic() - begun < MOST_SECONDS

    here.paste(here.copy("gcloud pubsub subscriptions create", f"{PROJECT}\n\\S.*{PROJECT}"))
    here.paste(here.copy("gcloud pubsub topics publish", "'"))
    assert "rejected: REAUTHORIZATION_REQUIRED" in here.read_until("^my-job-2")
    assert "my-job-2: ask revoked-me for consent (INVALID_GRANT)" == here.first_line_of(
        here.copy(r"\S*python examples", "my-rejections").splitlines()[-1]
    )
    here.paste(here.copy(r"\S*python -m ops story", "me$"))

    with (tmp_path / "main.py").open("a") as source:
        source.write("\nraise SystemExit('a mistake')\n")
    here.read_until("It waits for the source to change once more")
    assert "a mistake" in here.printed
    shutil.copy(ROOT / "main.py", tmp_path)
    here.read_until("It is up")
    here.paste(in_python.replace("my-job", "my-job-3"))
    assert " → " in here.read_until("^my-job-3")

    everything |= descendants(here.process.pid)
    here.process.send_signal(signal.SIGINT)
    assert here.process.wait(timeout=10) == 0
    wait_until_gone(everything)


def test_without_emulators_an_own_event_is_retried_too(terminal: Callable[..., Terminal]) -> None:
    here = terminal(emulators=False)
    assert "gcloud pubsub" not in here.printed
    assert "FIRESTORE_EMULATOR_HOST" not in here.printed
    here.paste(here.copy(r"\S*python - <<'END'", "END"))
    assert " → " in here.read_until("^my-job")
