"""Processes that die: nothing is lost, and nothing doubled beyond the promise."""

import asyncio
import functools
import os
import random
import signal
from typing import Any

from local.stage import Stage
from tests.e2e.ends import new_jobs, until_ended

EVENTS = 30
# the emulator gives up a push whose connection was cut only when its ack deadline is over
SOON: Any = {"ack_deadline": 10}
SETTINGS = {"HANDLER_DEADLINE_SECONDS": "3", "CLAIM_LEASE_SECONDS": "4"}


async def test_sigkill_of_one_of_two_processes_loses_nothing_and_doubles_nothing_beyond_the_promise(
    google_cloud: Any,
) -> None:
    chance = random.Random(60)
    async with Stage(**google_cloud, settings=SETTINGS, retry_latency=0.2, max_delivery_attempts=100, **SOON) as stage:
        for _ in range(2):
            await stage.start_function()
        stage.add_user("alice")
        jobs = [f"job-{number}" for number in range(EVENTS)]

        async def flow(jobs: list[str]) -> None:
            for job in jobs:
                await stage.publish({"archiveJobId": job, "userId": "alice"})
                await asyncio.sleep(0.1)

        for half in (jobs[: EVENTS // 2], jobs[EVENTS // 2 :]):
            flowing = asyncio.create_task(flow(half))
            await stage.until(functools.partial(stage.google.retries, half[0]))
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            chance.choice([server for server in stage.servers if server.running]).kill()
            await stage.start_function()
            await flowing
        await until_ended(stage, jobs, seconds=90)

        made = new_jobs(stage)
        assert dict.fromkeys(jobs, 1) == {job: len(made[job]) for job in jobs}
        for job, [new_job] in made.items():
            assert stage.google.new_jobs[new_job] == job
        calls = {job: len(stage.google.retries(job)) for job in jobs}
        attempts = {message.data["retriedArchiveJobId"]: message.data["attempt"] for message in stage.follow_ups}
        assert all(1 <= calls[job] <= attempts[job] <= 3 for job in jobs), (calls, attempts)
        assert ([], []) == (stage.rejections, stage.dead_letters)


async def test_a_worker_that_had_no_cpu_for_longer_than_the_functions_timeout_answers_when_it_has_it_again(
    google_cloud: Any,
) -> None:
    async with Stage(**google_cloud, settings={"CLOUD_RUN_TIMEOUT_SECONDS": "1"}) as stage:
        server = await stage.start_function()
        stage.add_user("alice")
        [worker] = server.workers
        os.kill(worker, signal.SIGSTOP)
        await stage.publish({"archiveJobId": "job", "userId": "alice"})
        await asyncio.sleep(3)
        os.kill(worker, signal.SIGCONT)
        await until_ended(stage, ["job"], seconds=30)
        assert [worker] == server.workers
        assert 1 == len(stage.deliveries)


async def test_sigterm_finishes_what_is_in_hand_and_takes_nothing_new(firestore_emulator: str) -> None:
    async with Stage(firestore=firestore_emulator, retry_latency=1.0) as stage:
        server = await stage.start_function()
        stage.add_user("alice")
        early, late = ([f"{when}-{number}" for number in range(8)] for when in ("early", "late"))
        for job in early:
            await stage.publish({"archiveJobId": job, "userId": "alice"})
        await stage.until(lambda: len(stage.google.retries()) >= 3)
        server.terminate()
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(0.2)  # until the signal has arrived
        for job in late:
            await stage.publish({"archiveJobId": job, "userId": "alice"})
        await stage.until(lambda: not server.running, seconds=10)
        assert asyncio.get_running_loop().time() - begun < 10  # or Cloud Run would have killed it
        assert [] == [job for job in late if stage.google.retries(job)]
        in_hand: list[dict[str, Any]] = server.deliveries
        assert {"retried"} <= {line["outcome"] for line in in_hand} <= {"retried", "not_now"}
        assert all(line["calls"] == 0 for line in in_hand if line["outcome"] == "not_now")

        await stage.start_function()
        jobs = early + late
        await until_ended(stage, jobs, seconds=150)
        assert set(jobs) == set(new_jobs(stage))
        assert dict.fromkeys(jobs, 1) == {job: len(stage.google.retries(job)) for job in jobs}
        assert {1} == {message.data["attempt"] for message in stage.follow_ups}
