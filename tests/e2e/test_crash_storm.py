"""Crash storm: servers that die and connections that break at random, on Google's emulators.

Every event is delivered by two subscriptions, some are published twice, and all the while servers get SIGKILL or
SIGTERM, calls to Google lose their answers after they were sent, and the connections to the ledger break. In a second
storm the servers are of this release and of the one before it. What happens is recorded and judged as a simulated run.
`make storm STORM_SECONDS=600` lets it rage longer than `make test` does.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from local.function_server import ROOT, FunctionServer
from local.stage import Stage
from local.topics import FAILED
from tests import predecessor
from tests.e2e.ends import until_ended
from tests.e2e.recording import UNSEEN, Recording, Tap
from tests.e2e.wires import CUT, DELAY, HALF_CLOSE, Wire
from tests.simulation.excuses import VersionsJudge
from tests.simulation.google import Job
from tests.simulation.invariants import Terms, broken
from tests.simulation.record import CallSent, Forgotten, Record

STORM_SECONDS = {"one-release": 30.0, "two-releases": 12.0}
if "STORM_SECONDS" in os.environ:
    STORM_SECONDS = dict.fromkeys(STORM_SECONDS, float(os.environ["STORM_SECONDS"]))
SEED = int(os.environ.get("STORM_SEED", time.time()))
BUDGET = 3
DEADLINE, LEASE, GRACE = 4.0, 5.0, 10.0  # seconds: a delivery's, a claim's, and Cloud Run's from SIGTERM to SIGKILL
SETTINGS = {"HANDLER_DEADLINE_SECONDS": f"{DEADLINE}", "CLAIM_LEASE_SECONDS": f"{LEASE}"}
SIGNALLED = 2.0  # seconds within which a worker knows of SIGTERM
AFTERMATH_SECONDS = 60.0


class RecordedStage(Stage):
    """A stage whose events and pushes are recorded."""

    def __init__(self, recording: Recording, **options: Any) -> None:
        super().__init__(watch=recording.watch, **options)
        self.recording = recording

    async def publish(self, event: Mapping[str, Any] | bytes, topic: str = FAILED, **attributes: str) -> str:
        at, data = self.recording.now, event if isinstance(event, bytes) else json.dumps(event).encode()
        message_id = await super().publish(data, topic, **attributes)
        self.recording.published[message_id] = at, data
        return message_id


@dataclass(slots=True)
class Instance:
    """A function server with its own wires to Google and to the ledger."""

    name: str
    server: FunctionServer
    google: Wire
    ledger: Wire
    leaving: bool = False  # it got SIGTERM


class Storm:
    """One storm over a stage. With `sources` of several releases, each instance is of one of them."""

    def __init__(
        self,
        stage: RecordedStage,
        sources: Mapping[str, Path],
        emulators: Mapping[str, grpc.aio.Channel],
        stack: AsyncExitStack,
    ) -> None:
        self.stage = stage
        self.chance = random.Random(SEED)
        self.instances: list[Instance] = []
        self.calm = False
        self.kills = self.terms = 0
        self.late: list[FunctionServer] = []  # still there ten seconds after SIGTERM
        self._recording = stage.recording
        self._sources = sources
        self._emulators = emulators
        self._stack = stack
        self._begun: list[asyncio.Task[None]] = []
        self._started = 0

    async def start(self) -> None:
        self._started += 1
        name, recording, enter = f"i{self._started}", self._recording, self._stack.enter_async_context
        release = self.chance.choice(list(self._sources))
        taps = {kind: await enter(Tap(name, channel, recording)) for kind, channel in self._emulators.items()}
        google, ledger = Wire(self.stage.google.port, self._mischief), Wire(taps["firestore"].port)
        to_google, to_ledger = [f"127.0.0.1:{await enter(wire.listening())}" for wire in (google, ledger)]
        settings = {
            "DATA_PORTABILITY_API_ENDPOINT": f"http://{to_google}",
            "FIRESTORE_EMULATOR_HOST": to_ledger,
            "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{taps['pubsub'].port}",
        }
        recording.lives_on(name, "starts", release)
        recording.calls.append((name, google.passed))
        since = recording.now
        server = await self.stage.start_function(source=self._sources[release], settings=settings)
        recording.hosts.append((since, server.port, name))
        self.instances.append(Instance(name, server, google, ledger))

    def _mischief(self) -> str:
        return "" if self.calm else self.chance.choices(("", CUT, DELAY, HALF_CLOSE), (76, 10, 6, 8))[0]

    async def rage(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self.chance.uniform(0.5, 2.5))
            up = [each for each in self.instances if each.server.running and not each.leaving]
            if len(up) < 2:
                continue
            hit = self.chance.choice(up)
            match self.chance.choices(("kill", "term", "ledger"), (4, 3, 3))[0]:
                case "kill":
                    self.kills += 1
                    hit.server.kill()
                    self._recording.lives_on(hit.name, "dies")
                    self._begin(self.start())
                case "term":
                    self.terms += 1
                    hit.leaving = True
                    hit.server.terminate()
                    self._begin(self._leave(hit))
                    self._begin(self.start())
                case "ledger":
                    hit.ledger.cut()
        self.calm = True
        await asyncio.gather(*self._begun)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._begun.append(asyncio.create_task(work))

    async def _leave(self, leaving: Instance) -> None:
        for number in range(int(GRACE / 0.05)):
            if not leaving.server.running:
                break
            if number == int(SIGNALLED / 0.05):
                self._recording.lives_on(leaving.name, "gets SIGTERM")
            await asyncio.sleep(0.05)
        else:
            self.late.append(leaving.server)
            leaving.server.kill()
        self._recording.lives_on(leaving.name, "dies")


@pytest.mark.timeout(max(STORM_SECONDS.values()) + AFTERMATH_SECONDS + 120)
@pytest.mark.parametrize("kind", STORM_SECONDS)
async def test_a_storm_of_crashes_breaks_no_promise(
    kind: str, google_cloud: Any, request: pytest.FixtureRequest, figure: Callable[[str, int], None]
) -> None:
    sources = {"": ROOT / "main.py"}
    if kind == "two-releases":
        sources[predecessor.RELEASE] = request.getfixturevalue("predecessor") / "main.py"
    recording = Recording(hurried=DEADLINE / 3)
    async with AsyncExitStack() as stack:
        emulators = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(google_cloud[name]))
            for name in ("firestore", "pubsub")
        }
        stage = RecordedStage(
            recording,
            **google_cloud,
            settings=SETTINGS,
            retry_latency=0.2,
            max_delivery_attempts=100,
            ack_deadline=10,
            pushes=2,
            tls=False,  # the wires read the requests that they pass on
        )
        await stack.enter_async_context(stage)
        storm = Storm(stage, sources, emulators, stack)
        for _ in range(2):
            await storm.start()
        users = ["alice", "bob", "carol"]
        tokens = {stage.add_user(user): user for user in users}
        jobs: list[str] = []

        async def produce() -> None:
            while not storm.calm:
                jobs.append(f"job-{len(jobs) + 1}")
                for _ in range(storm.chance.choices((1, 2), (85, 15))[0]):
                    await stage.publish({"archiveJobId": jobs[-1], "userId": storm.chance.choice(users)})
                await asyncio.sleep(storm.chance.uniform(0.0, 0.4))

        producing = asyncio.create_task(produce())
        await storm.rage(STORM_SECONDS[kind])
        await producing
        put_back = await until_ended(stage, jobs, seconds=AFTERMATH_SECONDS)

        known = {job: Job(job, "", job) for job in jobs}
        known |= {new: Job(new, "", job, parent=job) for new, job in stage.google.new_jobs.items()}
        terms = Terms(
            budget=BUDGET,
            park=False,
            doubt_pause=0.1,
            event_max_age=14 * 86_400.0,
            settled_at=float("inf"),
            jobs=known,
            deadline=DEADLINE / 3,
        )
        record = Record()
        record.effects = recording.effects(lambda header: tokens.get(stage.google.grants.behind(header), "nobody"))
        violations = broken(record.effects, terms, VersionsJudge)
        calls = [call for each in storm.instances for call in each.google.passed]
        name = f"crash storm, {kind}:"
        figure(f"{name} events", len(jobs))
        figure(f"{name} SIGKILLs", storm.kills)
        figure(f"{name} SIGTERMs", storm.terms)
        figure(f"{name} calls to Google", len(calls))
        figure(f"{name} calls to Google whose answer may be lost", sum(bool(call.mischief) for call in calls))
        figure(f"{name} broken connections to the ledger", sum(each.ledger.cuts for each in storm.instances))
        figure(f"{name} jobs of which nothing came before they were put back", len(put_back))
        forgotten = [effect for effect in record.effects if isinstance(effect, Forgotten)]
        figure(f"{name} messages that were never acknowledged", len(forgotten))
        unseen = [effect for effect in record.effects if isinstance(effect, CallSent) and effect.call.endswith(UNSEEN)]
        figure(f"{name} calls in doubt that no wire has seen", len(unseen))
        figure(f"{name} broken promises", len(violations))

        said = f"STORM_SEED={SEED}"
        assert not violations, "\n".join((said, *violations, record.history()))
        assert [] == stage.dead_letters, said
        assert [] == storm.late, said
        assert [] == [line for server in stage.servers for line in server.other_output if "Worker" not in line], said
