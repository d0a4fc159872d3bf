"""Google's own Pub/Sub and Firestore emulators: found without any setting, started fast, ended for certain.

They are components of the Google Cloud CLI and need Java 11 or newer. `gcloud` takes seconds to start them, so their
archives are run directly, as the components' own launchers do.
"""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from local.processes import Child, free_port

START_SECONDS = 60.0  # an emulator answers in within 2 s; a busy machine may take longer
_OLDEST_JAVA = 11
_COMPONENTS = ("pubsub-emulator", "cloud-firestore-emulator")
_INSTEAD = {"pubsub": "An embedded Pub/Sub", "firestore": "a ledger in memory (where what is deferred stays)"}

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """What this machine has: for each emulator the command that starts it, or None; and why, where one is missing."""

    pubsub: Command | None
    firestore: Command | None
    missing: str


def find() -> Installed:
    """Look for the emulators: the Cloud CLI on the path, its components, and a Java that can run them."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return Installed(None, None, "the Google Cloud CLI is not on the path")
    java = _java()
    if java is None:
        return Installed(None, None, f"there is no Java {_OLDEST_JAVA} or newer")
    platform = _sdk_root(gcloud) / "platform"
    # C1 only and the serial collector: these live for seconds, and starting is what they are waited for.
    jvm = (java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx1g", "-Duser.language=en")
    pubsub = next(platform.glob("pubsub-emulator/lib/cloud-pubsub-emulator-*.jar"), None)
    firestore = next(platform.glob("cloud-firestore-emulator/cloud-firestore-emulator.jar"), None)
    absent = " ".join(name for name, jar in zip(_COMPONENTS, (pubsub, firestore), strict=True) if not jar)
    firestore_main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
    return Installed(
        pubsub=(*jvm, "-jar", str(pubsub)) if pubsub else None,
        firestore=(*jvm, "-cp", str(firestore), firestore_main, "start") if firestore else None,
        missing=f"`gcloud components install {absent}` is needed" if absent else "",
    )


@contextlib.contextmanager
def available(say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Start what this machine has; gives `host:port` of "pubsub" and "firestore", and says what is not there."""
    installed = find()
    commands = {name: command for name in _INSTEAD if (command := getattr(installed, name))}
    absent = [instead for name, instead in _INSTEAD.items() if name not in commands]
    if commands:
        say("Starting Google's emulators …")
    if absent:
        say(f"{' and '.join(absent)} instead of Google's emulators: {installed.missing}.")
    with started(*commands.values()) as addresses:
        yield dict(zip(commands, addresses, strict=True))


@contextlib.contextmanager
def started(*commands: Command) -> Iterator[list[str]]:
    """Start the emulators side by side; gives each one's `host:port` once all answer, and ends them on leaving.

    Raises RuntimeError, with what it printed, for one that does not come up.
    """
    with contextlib.ExitStack() as stack:
        emulators = []
        for command in commands:
            emulators.append(_Emulator(command, stack.enter_context(tempfile.TemporaryFile())))
            stack.callback(emulators[-1].child.kill)
        deadline = time.monotonic() + START_SECONDS
        for emulator in emulators:
            emulator.wait_until_it_answers(deadline)
        yield [emulator.address for emulator in emulators]


class _Emulator:
    def __init__(self, command: Command, output: IO[bytes]) -> None:
        self._output = output
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.child = Child([*command, "--host=127.0.0.1", f"--port={port}"], output=self._output)

    def wait_until_it_answers(self, deadline: float) -> None:
        """Both emulators answer a plain `GET /` with 200 when they are ready."""
        while time.monotonic() < deadline:
            if (code := self.child.exit_code()) is not None:
                raise RuntimeError(f"An emulator ended with {code} instead of starting:\n{self._printed()}")
            connection = http.client.HTTPConnection(self.address, timeout=2)
            try:
                connection.request("GET", "/")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):  # the second: somebody else has taken the port
                pass
            finally:
                connection.close()
            time.sleep(0.05)
        raise RuntimeError(f"An emulator did not answer within {START_SECONDS:.0f} s:\n{self._printed()}")

    def _printed(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")


def _sdk_root(gcloud: str) -> Path:
    root = Path(gcloud).resolve().parent.parent
    if (root / "platform").is_dir():
        return root
    # A wrapper stands on the path (snap, Homebrew): only the CLI itself knows where it lives.
    asked = subprocess.run(
        [gcloud, "info", "--format=value(installation.sdk_root)"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Path(asked.stdout.strip())


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        return None
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    except OSError:
        return None
    version = re.search(r'version "(?:1\.)?(\d+)', said)  # "17.0.15", or "1.8.0_402" before Java 9
    return java if version and int(version[1]) >= _OLDEST_JAVA else None
