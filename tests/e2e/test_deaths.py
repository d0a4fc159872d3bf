"""Processes that stand still or are ended: nothing is lost or doubled. Those that are killed: test_crash_storm.py."""

import asyncio
import os
import signal
from typing import Any

from local.stage import Stage
from tests.e2e.ends import new_jobs, until_ended


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
