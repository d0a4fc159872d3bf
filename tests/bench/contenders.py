"""Who is measured, and one event sent to it as Pub/Sub would push it."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from local.function_server import ROOT, FunctionServer
from local.processes import Child, free_port
from local.stage import Stage
from tests.bench import process_tree
from tests.bench.counting import counted

IN_FLIGHT = 80
TARGET = "retry_failed_archive_job"
_PEERS = Path(__file__).parent / "peers"
_NODE = _PEERS / "node"
_numbers = itertools.count(1)


class NodeServer(FunctionServer):
    """The same on Node.js, with that framework's own start command."""

    def __init__(self, target: str, source: Path, settings: Mapping[str, str], output: Path) -> None:
        self.target = target
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = output
        command = [str(source / "node_modules/.bin/functions-framework"), f"--target={target}", f"--port={self.port}"]
        env = {"PATH": os.environ.get("PATH", os.defpath), **settings}
        with output.open("wb") as file:
            self._child = Child([*command, "--signature-type=cloudevent"], output=file, env=env, cwd=source)


@dataclass(slots=True)
class Contender:
    """A function to measure, with what was measured: a value a round."""

    name: str
    says: str
    source: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # beside the stage's
    cpu_ms: list[float] = field(default_factory=list)  # an event, at 80 in flight
    alone_ms: list[float] = field(default_factory=list)  # one event alone, the round's median
    loaded_ms: list[float] = field(default_factory=list)  # one event of 80 in flight, the round's median
    start_s: list[float] = field(default_factory=list)  # from the process's start to the answer to its first event
    deployed: dict[str, list[float]] = field(default_factory=dict)  # CPU and start over TLS, with its own account
    memory_mb: list[float] = field(default_factory=list)  # after a round
    own_mb: list[float] = field(default_factory=list)  # of it, without mapped files
    calls: dict[str, float] = field(default_factory=dict)  # an event
    server: FunctionServer | None = None

    def start(self, stage: Stage, **settings: str) -> FunctionServer:
        """One more server; `deliver` waits for it."""
        # As many threads as there are deliveries in flight; the framework would take four a core.
        settings = {**stage.environment, "THREADS": str(IN_FLIGHT), **self.settings, **settings}
        output = stage.folder / f"{self.name}-{next(_numbers)}.log"
        server = (NodeServer if self.source.is_dir() else FunctionServer)(TARGET, self.source, settings, output)
        stage.servers.append(server)  # which ends it
        return server


def contenders(settings: Mapping[str, str], against: Path | None = None) -> list[Contender]:
    """This function first: the others are compared with it. `settings` are for all of them.

    `against`: a checkout of another version of this function, which is then the only other one.
    """
    if against:
        return [
            Contender("this", "this function, with its ledger", ROOT / "main.py", settings),
            Contender("before", "another version of it", against / "main.py", settings),
        ]
    peers = [
        Contender("this", "this function, with its ledger", ROOT / "main.py", settings),
        Contender("sample", "sample-style, synchronous, no ledger", _PEERS / "sample.py", settings),
        Contender("pooled", "the same, with one session for all users", _PEERS / "pooled.py", settings),
        Contender("locked", "the same with a claim and a mark in Firestore", _PEERS / "locked.py", settings),
    ]
    if shutil.which("npm"):
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=_NODE, check=True)
        peers.append(Contender("node", "Node.js with the official libraries, no ledger", _NODE, settings))
    return peers


async def cold_start(stage: Stage, session: aiohttp.ClientSession, contender: Contender) -> float:
    """Seconds from the start of one more server until it has answered its first event."""
    event = _event(stage)
    begun = time.perf_counter()
    server = contender.start(stage)
    await _deliver(session, server, event)
    seconds = time.perf_counter() - begun
    server.kill()
    return seconds


async def load(stage: Stage, session: aiohttp.ClientSession, contender: Contender, events: int) -> tuple[float, float]:
    """Many events, 80 in flight, each of another user. CPU in ms an event, and the median latency in ms."""
    assert contender.server is not None
    server, room = contender.server, asyncio.Semaphore(IN_FLIGHT)

    async def one(event: bytes) -> float:
        async with room:
            return await _deliver(session, server, event)

    bodies = [_event(stage) for _ in range(events)]
    before = process_tree.cpu_seconds(server.pid)
    latencies = sorted(await asyncio.gather(*map(one, bodies)))
    used = process_tree.cpu_seconds(server.pid) - before
    return used / events * 1000, latencies[events // 2] * 1000


async def alone(stage: Stage, session: aiohttp.ClientSession, contender: Contender, events: int) -> None:
    """One event after the other."""
    assert contender.server is not None
    latencies = [await _deliver(session, contender.server, _event(stage)) for _ in range(events)]
    contender.alone_ms.append(sorted(latencies)[events // 2] * 1000)


async def count_calls(stage: Stage, session: aiohttp.ClientSession, contender: Contender, events: int) -> None:
    """The calls of an event that comes alone, of another user than those before it, to a server that is warm."""
    counts: Counter[str] = Counter()
    names = "PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST"
    async with AsyncExitStack() as stack:
        through = {name: await stack.enter_async_context(counted(stage.environment[name], counts)) for name in names}
        server = contender.start(stage, **through)
        await _deliver(session, server, _event(stage))

        def now() -> dict[str, int]:
            google, accesses = stage.google.counts, len(stage.secrets.accesses)
            return {"secrets": accesses, "refreshes": google["token"], "retries": google["retry"], **counts}

        before = now()
        for _ in range(events):
            await _deliver(session, server, _event(stage))
        contender.calls = {kind: (number - before.get(kind, 0)) / events for kind, number in now().items()}
        server.kill()


def _event(stage: Stage) -> bytes:
    """A push body for a job and a user of its own."""
    number = next(_numbers)
    stage.add_user(f"user-{number}")
    data = json.dumps({"archiveJobId": f"job-{number}", "userId": f"user-{number}"}).encode()
    published = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    message = {"data": base64.b64encode(data).decode(), "messageId": str(number), "publishTime": published}
    return json.dumps({"message": message, "subscription": "projects/p/subscriptions/s", "deliveryAttempt": 1}).encode()


async def _deliver(session: aiohttp.ClientSession, server: FunctionServer, body: bytes) -> float:
    """Seconds until the answer. Raises RuntimeError if it is none that acknowledges."""
    begun = time.perf_counter()
    while True:
        try:
            async with session.post(server.url, data=body, headers={"Content-Type": "application/json"}) as answer:
                await answer.read()
        except aiohttp.ClientConnectorError:
            if not server.running:
                raise RuntimeError(f"The server ended:\n{server.printed()}") from None
            await asyncio.sleep(0.005)  # it does not listen yet
        else:
            if answer.status in (200, 204):
                return time.perf_counter() - begun
            raise RuntimeError(f"{server.printed()}\nanswered {answer.status}")
