"""Other programs, run in plain view or only to look, within their time. Only deploy.py uses this, and no package."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

LOOK_SECONDS = 60
LAST_WORDS_SECONDS = 600  # Terraform waits for what it has begun, and only then gives its lock back
_PAUSE_SECONDS = float(os.environ.get("PAUSE_SECONDS", "10"))
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Found = TypeVar("Found")


class Failed(Exception):
    """A step did not succeed. The text is for the person who deploys."""


class Stopped(BaseException):
    """This process was told to end: a cancelled build (SIGTERM), Ctrl-C (SIGINT), or a closed terminal (SIGHUP)."""


def run(line: list[str], seconds: float, *, given: str | None = None) -> None:
    """Run a command in plain view. Raises Failed."""
    say(f"$ {shlex.join(line)}")
    # In a process group of its own: Ctrl-C reaches a whole group, and Terraform drops everything at a second interrupt.
    try:
        process = subprocess.Popen(
            line, stdin=subprocess.PIPE if given else subprocess.DEVNULL, text=True, process_group=0
        )
    except FileNotFoundError:
        raise Failed(f"{line[0]} is not on the path.") from None
    try:
        process.communicate(given, timeout=seconds)
    except (subprocess.TimeoutExpired, Stopped) as ended:
        say(f"{line[0]} is told to end, and waited for: up to {LAST_WORDS_SECONDS} s.")
        process.send_signal(signal.SIGINT)  # so that Terraform gives its lock on the state back
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_SECONDS)
        process.kill()
        if isinstance(ended, Stopped):
            raise
        raise Failed(f"{shlex.join(line)}: not done within {seconds:g} s.") from None
    if process.returncode:
        raise Failed(f"{shlex.join(line)}: exit code {process.returncode}, see above.")


def told(line: list[str]) -> Any:
    """The JSON that a command prints which only looks. Raises Failed."""
    return json.loads(said(line))


def said(line: list[str]) -> str:
    """What a command prints. Raises Failed."""
    succeeded, text = read(line)
    if not succeeded:
        raise Failed(f"{shlex.join(line[:4])}: {text}")
    return text


def read(line: list[str]) -> tuple[bool, str]:
    """As read_bytes, for text."""
    succeeded, content = read_bytes(line)
    return succeeded, content.decode(errors="replace").strip()


def read_bytes(line: list[str]) -> tuple[bool, bytes]:
    """Run a command that only looks: whether it succeeded, and what it printed (or why it did not)."""
    try:
        done = subprocess.run(line, capture_output=True, timeout=LOOK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error).encode()
    return done.returncode == 0, done.stderr if done.returncode else done.stdout


def until(seconds: float, sentence: str, look: Callable[[], Found]) -> Found:
    """What a look finds, which is repeated while it raises Failed. Raises Failed when the time is over."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            return look()
        except Failed as failed:
            if (text := str(failed)) != last:
                say(last := text)
        time.sleep(_PAUSE_SECONDS)
    raise Failed(f"{sentence} within {seconds:g} s. {last}")


def stop_on_signals() -> None:
    """Raise Stopped at the first signal to end, wherever the process is."""
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # else nohup would be of no use
            signal.signal(number, _stop)


def _stop(*_: Any) -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave Terraform behind, with its lock
    raise Stopped


def say(text: str) -> None:
    if text.strip():
        with contextlib.suppress(OSError):  # where the terminal is gone
            os.write(sys.stdout.fileno(), f"{text.rstrip()}\n".encode())
