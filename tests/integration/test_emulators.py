import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from local import emulators
from local.processes import Child


def _group_is_gone(group: int, *, within_seconds: float = 5.0) -> bool:
    """No process of the group is left, but for zombies that only wait to be reaped by init."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        if not [line for line in listed.splitlines() if line.split()[0] == str(group) and "Z" not in line.split()[1]]:
            return True
        time.sleep(0.05)
    return False


def test_killing_a_child_ends_its_own_children_too() -> None:
    with tempfile.TemporaryFile() as output:
        child = Child(["sh", "-c", "sleep 300 & sleep 300"], output=output)
        child.kill()
    assert _group_is_gone(child.pid)


def test_a_child_that_ended_leaves_no_children_behind_once_killed() -> None:
    with tempfile.TemporaryFile() as output:
        child = Child(["sh", "-c", "sleep 300 & exit 7"], output=output)
        deadline = time.monotonic() + 5
        while child.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.kill()
    assert child.exit_code() == 7
    assert _group_is_gone(child.pid)


def test_a_child_does_not_outlive_a_parent_that_was_killed() -> None:
    program = (
        "import sys, time; from local.processes import Child\n"
        "child = Child(['sh', '-c', 'sleep 300 & sleep 300'], output=sys.stderr.buffer)\n"
        "print(child.pid, flush=True); time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        group = int(parent.stdout.readline())
        assert not _group_is_gone(group, within_seconds=0.2)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert _group_is_gone(group)


def test_without_the_cloud_cli_on_the_path_there_are_no_emulators_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = emulators.find()
    assert (found.pubsub, found.firestore) == (None, None)
    assert "not on the path" in found.missing


def test_an_older_java_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("gcloud", "exit 1"), ("java", "echo 'openjdk version \"1.8.0_402\"' >&2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "no Java 11" in emulators.find().missing


@pytest.mark.parametrize("installed", ["pubsub-emulator", "cloud-firestore-emulator", None])
def test_each_component_is_found_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: str | None
) -> None:
    jars = {
        "pubsub-emulator": "pubsub-emulator/lib/cloud-pubsub-emulator-9.9.9-all.jar",
        "cloud-firestore-emulator": "cloud-firestore-emulator/cloud-firestore-emulator.jar",
    }
    sdk = tmp_path / "google-cloud-sdk"
    (sdk / "platform").mkdir(parents=True)
    if installed:
        (sdk / "platform" / jars[installed]).parent.mkdir(parents=True)
        (sdk / "platform" / jars[installed]).touch()
    for name, text in (("gcloud", "exit 1"), ("java", "echo 'openjdk version \"17.0.15\"' >&2")):
        (sdk / "bin").mkdir(exist_ok=True)
        (sdk / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (sdk / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(sdk / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    found = emulators.find()
    assert (found.pubsub is not None, found.firestore is not None) == (
        installed == "pubsub-emulator",
        installed == "cloud-firestore-emulator",
    )
    assert all((name in found.missing) == (name != installed) for name in jars)


def test_an_emulator_that_cannot_start_is_reported_with_what_it_printed() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3(.|\n)*out of luck"), contextlib.ExitStack() as stack:
        stack.enter_context(emulators.started(("sh", "-c", "echo out of luck; exit 3")))


def test_both_emulators_answer_and_are_gone_afterwards(pubsub_emulator: str, firestore_emulator: str) -> None:
    assert pubsub_emulator != firestore_emulator
    found = emulators.find()
    assert found.pubsub is not None
    before = _javas()
    with emulators.started(found.pubsub):
        assert len(_javas()) == len(before) + 1
    assert _javas() == before


def _javas() -> set[str]:
    """The Java processes that this process started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {row[0] for row in rows if row[1] == str(os.getpid()) and row[2] == "java"}
