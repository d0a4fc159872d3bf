"""Crash storm: servers that die and connections that break at random, on Google's emulators.

Every event is delivered by two subscriptions, some are published twice, and all the while servers get SIGKILL or
SIGTERM, calls to Google lose their answers after they were sent, and the connections to the ledger break.
`make storm STORM_SECONDS=600` lets it rage longer than `make test` does.
"""

import asyncio
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from local.function_server import FunctionServer
from local.stage import Stage
from tests.e2e.ends import DONE, ends, new_jobs, until_ended
from tests.e2e.wires import CUT, DELAY, HALF_CLOSE, Wire

STORM_SECONDS = float(os.environ.get("STORM_SECONDS", "35"))
SEED = int(os.environ.get("STORM_SEED", time.time()))
BUDGET = 3
DEADLINE, LEASE, GRACE = 4.0, 5.0, 10.0  # seconds: a delivery's, a claim's, and Cloud Run's from SIGTERM to SIGKILL
SETTINGS = {"HANDLER_DEADLINE_SECONDS": f"{DEADLINE}", "CLAIM_LEASE_SECONDS": f"{LEASE}"}
AFTERMATH_SECONDS = 60.0


@dataclass(slots=True)
class Instance:
    """A function server with its own wires to Google and to the ledger."""

    server: FunctionServer
    google: Wire
    ledger: Wire
    leaving: bool = False  # it got SIGTERM
    killed_at: float = float("inf")  # the event loop's clock

    def excuses(self, at: float) -> bool:
        """Whether the answer to a call of that time may have failed to reach the ledger.

        A broken connection to the ledger is no excuse: there is time to write the answer down over a new one.
        """
        return at <= self.killed_at <= at + DEADLINE


class Storm:
    """One storm over a stage."""

    def __init__(self, stage: Stage, firestore: str, stack: AsyncExitStack) -> None:
        self.stage = stage
        self.chance = random.Random(SEED)
        self.instances: list[Instance] = []
        self.calm = False
        self.kills = self.terms = 0
        self.late: list[FunctionServer] = []  # still there ten seconds after SIGTERM
        self._firestore = int(firestore.rpartition(":")[2])
        self._stack = stack
        self._begun: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        google = Wire(self.stage.google.port, self._mischief)
        ledger = Wire(self._firestore)
        to_google, to_ledger = [
            f"127.0.0.1:{await self._stack.enter_async_context(wire.listening())}" for wire in (google, ledger)
        ]
        settings = {"DATA_PORTABILITY_API_ENDPOINT": f"http://{to_google}", "FIRESTORE_EMULATOR_HOST": to_ledger}
        self.instances.append(Instance(await self.stage.start_function(settings=settings), google, ledger))

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
                    hit.killed_at = asyncio.get_running_loop().time()
                    hit.server.kill()
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
        for _ in range(int(GRACE / 0.05)):
            if not leaving.server.running:
                return
            await asyncio.sleep(0.05)
        self.late.append(leaving.server)
        leaving.server.kill()

    def calls(self) -> dict[str, list[tuple[float, bool]]]:
        """Of each job the calls that were passed on to Google: when, and whether its answer may have been lost."""
        calls: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for each in self.instances:
            for call in each.google.passed:
                calls[call.job].append((call.at, bool(call.mischief) or each.excuses(call.at)))
        return {job: sorted(them) for job, them in calls.items()}


@pytest.mark.timeout(STORM_SECONDS + AFTERMATH_SECONDS + 120)
async def test_a_storm_of_crashes_loses_nothing_and_doubles_nothing_beyond_the_promise(
    google_cloud: Any, firestore_emulator: str, figure: Callable[[str, int], None]
) -> None:
    async with (
        AsyncExitStack() as wires,
        Stage(
            **google_cloud,
            settings=SETTINGS,
            retry_latency=0.2,
            max_delivery_attempts=100,
            ack_deadline=10,
            pushes=2,
            tls=False,  # the wires read the requests that they pass on
        ) as stage,
    ):
        storm = Storm(stage, firestore_emulator, wires)
        for _ in range(2):
            await storm.start()
        users = ["alice", "bob", "carol"]
        for user in users:
            stage.add_user(user)
        jobs: list[str] = []

        async def produce() -> None:
            while not storm.calm:
                jobs.append(f"job-{len(jobs) + 1}")
                for _ in range(storm.chance.choices((1, 2), (85, 15))[0]):
                    await stage.publish({"archiveJobId": jobs[-1], "userId": storm.chance.choice(users)})
                await asyncio.sleep(storm.chance.uniform(0.0, 0.4))

        producing = asyncio.create_task(produce())
        await storm.rage(STORM_SECONDS)
        await producing
        waited = await until_ended(stage, jobs, seconds=AFTERMATH_SECONDS)

        calls, came = storm.calls(), ends(stage)
        attempts = {message.data["retriedArchiveJobId"]: message.data["attempt"] for message in stage.follow_ups}
        lost = [job for job in jobs if job not in came]
        lost += sorted(waited.acknowledged_for_nothing)
        doubled = [job for job in jobs if any(not excused for _, excused in calls.get(job, [])[:-1])]
        figure("crash storm: events", len(jobs))
        figure("crash storm: SIGKILLs", storm.kills)
        figure("crash storm: SIGTERMs", storm.terms)
        figure(
            "crash storm: calls to Google that lost their answer",
            sum(lost for them in calls.values() for _, lost in them),
        )
        figure("crash storm: broken connections to the ledger", sum(each.ledger.cuts for each in storm.instances))
        figure("crash storm: events that the emulator forgot, put back", len(waited.put_back))
        figure("crash storm: events lost", len(lost))
        figure("crash storm: events doubled beyond the promise", len(doubled))

        said = f"STORM_SEED={SEED}"
        assert ([], []) == (lost, stage.dead_letters), said
        assert [] == doubled, (said, {job: calls[job] for job in doubled})
        assert {} == {job: them for job, them in came.items() if len(them) != 1}, said
        for job, made in new_jobs(stage).items():
            assert [job] == [stage.google.new_jobs[new] for new in made], said
            assert len(stage.google.retries(job)) <= attempts[job] <= BUDGET, (said, job, calls[job])
        assert {"RETRY_BUDGET_EXHAUSTED"} >= {message.data["reason"] for message in stage.rejections}, said
        assert stage.answered.count(b"HTTP/1.1 204 ") <= sum(line["outcome"] in DONE for line in stage.deliveries), said
        assert [] == storm.late, said
        assert [] == [line for server in stage.servers for line in server.other_output if "Worker" not in line], said
