"""`make local`: the demo's Google Cloud with the function in it, kept up until Ctrl-C, to publish events to.

Every user has consented but those whose id begins with `revoked-`. What is retried is complete as soon as somebody
looks. The function is started anew when its source changes. Ends with 0 by Ctrl-C, with 1 where it cannot start.
"""

import argparse
import asyncio
import os
import shlex
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from local import emulators
from local.function_server import ROOT, FunctionServer
from local.grants import MARK
from local.outcomes import Outcomes
from local.stage import REFRESH_TOKEN_PREFIX, RESUME, RETRY, WATCH, Stage
from local.topics import FAILED, REJECTED, RETRIED

PROJECT, REVOKED, _USER = "local-project", "revoked-", "me"
_TOKEN = f"{MARK}-refresh-token-of-"
_SETTINGS = {"WATCH_INTERVAL_SECONDS": "5"}
_LOOK_SECONDS = 0.2  # between two looks at what came out, and at the source
_SCHEDULE_SECONDS = 1.0
_PYTHON = """\
{python} - <<'END'
import json, os
from google.cloud.pubsub import PublisherClient
publisher = PublisherClient()
topic = publisher.topic_path(os.environ["GOOGLE_CLOUD_PROJECT"], "{topic}")
event = {{"archiveJobId": "my-job", "userId": "me"}}
publisher.publish(topic, json.dumps(event).encode()).result()
END
"""
_GCLOUD = """\
gcloud pubsub topics publish {topic} --project={project} \\
  --message='{{"archiveJobId": "my-job-2", "userId": "revoked-me"}}'
"""
_CONSUMERS = """\
gcloud pubsub subscriptions create my-outcomes --topic={retried} --project={project}
gcloud pubsub subscriptions create my-rejections --topic={rejected} --project={project}
{python} examples/consume_outcomes.py my-outcomes
{python} examples/consume_rejections.py my-rejections
"""
_LOOKS = """\
{python} -m ops story my-job
{python} -m ops check --user {user}
"""


def main() -> int:
    """Keep it up. Gives the exit code."""
    options = argparse.ArgumentParser(prog="local", description=__doc__)
    options.add_argument("--source", type=Path, default=ROOT / "main.py", help="the function's source: main.py")
    source = options.parse_args().source.resolve()
    try:
        with emulators.available(_say) as at:
            asyncio.run(_serve(at, source))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("Stopped. Everything that was started is gone.")
        return 0
    except RuntimeError as error:
        _say(str(error))
        return 1
    return 0


async def _serve(at: dict[str, str], source: Path) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    stage = Stage(
        project=PROJECT, settings=_SETTINGS, pubsub=at.get("pubsub"), firestore=at.get("firestore"), tls=False
    )
    stage.secrets.payload_of_any = _payload
    stage.secrets.add_version(REFRESH_TOKEN_PREFIX + _USER, _TOKEN + _USER)  # `ops check` counts those that are listed
    stage.google.grants.consents = lambda token: token.startswith(_TOKEN) and not token.startswith(_TOKEN + REVOKED)
    stage.google.states = defaultdict(lambda: "COMPLETE")
    async with stage, _Function(stage, source, ledger_is_shared="firestore" in at) as function:
        _say("\n".join(_introduction(stage, at)))
        outcomes = Outcomes(stage)
        while True:
            await function.follow_source()
            for line in outcomes.new():
                _say(line)
            await asyncio.sleep(_LOOK_SECONDS)


class _Function:
    """Every entry point that the source has, on a server of its own; those of a schedule are called."""

    def __init__(self, stage: Stage, source: Path, *, ledger_is_shared: bool) -> None:
        self._stage = stage
        self._source = source
        self._targets = (RETRY, RESUME, WATCH) if ledger_is_shared else (RETRY,)
        self._servers: list[FunctionServer] = []
        self._schedule: asyncio.Task[None] | None = None
        self._versions = self._source_versions()

    async def __aenter__(self) -> Self:
        _say("Starting the function …")
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._schedule:
            self._schedule.cancel()

    async def follow_source(self) -> None:
        """Start it anew where the source has changed; one that does not start waits for the next change."""
        if self._versions == (versions := self._source_versions()):
            return
        self._versions = versions
        _say("The source has changed, the function is started anew …")
        await self._stop()
        try:
            await self._start()
            _say("It is up.")
        except (RuntimeError, OSError, LookupError, ValueError) as error:  # of a source that is half saved, too
            _say(f"{error}\nIt waits for the source to change once more.")

    async def _start(self) -> None:
        written = self._source.read_text()
        for target in self._targets:
            if target in written:
                self._servers.append(await self._stage.start_function(target=target, source=self._source))
        if self._servers[-1].target != RETRY:
            schedule = next(server for server in self._servers if server.target == RESUME)
            self._schedule = asyncio.create_task(schedule.be_called(_SCHEDULE_SECONDS))

    async def _stop(self) -> None:
        if self._schedule:
            self._schedule.cancel()
            self._schedule = None
        await asyncio.gather(*(server.stop() for server in self._servers))
        self._servers.clear()

    def _source_versions(self) -> dict[Path, int]:
        files = [self._source, *self._source.parent.glob("handlers/**/*.py")]
        return {file: file.stat().st_mtime_ns for file in files if file.exists()}


def _payload(secret_id: str) -> bytes | None:
    """Everybody has stored a refresh token."""
    if not secret_id.startswith(REFRESH_TOKEN_PREFIX):
        return None
    return (_TOKEN + secret_id.removeprefix(REFRESH_TOKEN_PREFIX)).encode()


def _introduction(stage: Stage, at: dict[str, str]) -> Iterator[str]:
    named = ("GOOGLE_CLOUD_PROJECT", "SECRET_MANAGER_EMULATOR_HOST", "DATA_PORTABILITY_API_ENDPOINT", "RETRY_LEDGER")
    exports = {name: value for name, value in stage.environment.items() if name in named or "_EMULATOR_" in name}
    names = {"python": os.path.relpath(sys.executable), "project": PROJECT, "user": _USER}
    if "pubsub" in at:  # the embedded one does not speak REST, as gcloud does
        exports["CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB"] = f"http://{at['pubsub']}/"
        exports["CLOUDSDK_AUTH_DISABLE_CREDENTIALS"] = "true"
    yield "\nIn another terminal, in this folder (each further terminal needs these lines, too):\n"
    yield from (f"export {name}={shlex.quote(value)}" for name, value in exports.items())
    for name in ("NO_PROXY", "no_proxy"):  # gRPC reads the second one
        yield f'export {name}="localhost,127.0.0.1${{{name}:+,${name}}}"'
    yield "\nPublish a failed job of a user who has consented, in Python:\n"
    yield _PYTHON.format(topic=FAILED, **names)
    if "pubsub" in at:
        yield f"One of a user who has not (any id that begins with {REVOKED}), with gcloud:\n"
        yield _GCLOUD.format(topic=FAILED, **names)
        yield "Consume what comes of jobs that you publish from then on, each in a terminal of its own:\n"
        yield _CONSUMERS.format(retried=RETRIED, rejected=REJECTED, **names)
    if "firestore" in at:
        yield "Look at a job, and at what the function needs:\n"
        yield _LOOKS.format(**names)
    yield "What comes of your jobs (Ctrl-C ends it):\n"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
