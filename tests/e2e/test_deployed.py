"""The function as it is deployed: no emulator variable, real names, its own account, and what fails out there."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest

from local import google_errors
from local.deployed_stage import (
    DATA_PORTABILITY,
    FIRESTORE,
    OAUTH,
    PUBSUB,
    SECRET_MANAGER,
    SECRET_MANAGER_IN_REGION,
    DeployedStage,
)
from local.front_end import FrontEnd, GrpcStep
from local.scripted import ANY, Answer, Drop, Silence
from local.secrets import Fault
from local.stage import RESUME
from tests.e2e.pushing import Answered, attempts, deliver, until_done

EVENT = {"archiveJobId": "job", "userId": "job"}
SERVICES = {SECRET_MANAGER, PUBSUB, FIRESTORE, OAUTH, DATA_PORTABILITY}
SHORT = {"HANDLER_DEADLINE_SECONDS": "6"}


@pytest.fixture
async def stage(google_cloud: Any) -> AsyncIterator[DeployedStage]:
    async with DeployedStage(**google_cloud, settings=SHORT) as stage:
        stage.add_user("job")
        yield stage


async def test_a_failed_job_is_retried_through_the_only_way_out(google_cloud: Any) -> None:
    async with DeployedStage(**google_cloud) as stage:
        stage.add_user("job")
        await stage.start_function()
        for _ in range(3):
            await stage.publish(EVENT)
        await stage.until(lambda: len(stage.follow_ups) >= 3)  # a redelivery publishes the same job again
        assert stage.google.new_jobs.keys() == {message.data["archiveJobId"] for message in stage.follow_ups}
        assert 1 == len(stage.google.retries("job"))
        assert set(stage.proxy.connects) >= SERVICES
        assert [] == stage.proxy.refused
        assert [] == stage.firestore.refusals + stage.pubsub.refusals + stage.secret_manager.refusals
        assert [] == stage.servers[0].other_output


async def test_a_deferred_job_comes_back_by_the_schedule(stage: DeployedStage) -> None:
    await stage.start_function()
    schedule = await stage.start_function(target=RESUME)
    stage.google.script_retry("job", google_errors.cools_down(1.5))
    await stage.publish(EVENT)
    await stage.until(lambda: any(line["outcome"] == "deferred" for line in stage.deliveries))
    async with aiohttp.ClientSession() as http:
        for _ in range(40):
            async with http.post(schedule.url) as answer:
                assert answer.status < 500
            if stage.follow_ups:
                break
            await asyncio.sleep(0.25)
    await attempts(stage, "job")
    assert 2 == len(stage.google.retries("job"))


async def test_a_secret_is_read_in_its_region_through_a_proxy_named_in_lower_case(google_cloud: Any) -> None:
    prefix = f"projects/{google_cloud['project']}/locations/europe-west1/secrets/dataportability-refresh-token-"
    others: Any = {"settings": {"REFRESH_TOKEN_SECRET_PREFIX": prefix}, "proxy_variable": "https_proxy"}
    async with DeployedStage(**google_cloud, **others) as stage:
        stage.add_user("job")
        server = await stage.start_function()
        await until_done(server)
        await attempts(stage, "job")
        assert set(stage.proxy.connects) >= SERVICES | {SECRET_MANAGER_IN_REGION}
        assert [] == stage.proxy.refused


# Its own account


async def test_a_metadata_server_that_does_not_answer_is_waited_for(stage: DeployedStage) -> None:
    jobs = [f"job-{number}" for number in range(5)]
    for job in jobs:
        stage.add_user(job)
    stage.metadata.script(ANY, itertools.cycle((Silence(), Answer(503, b""))))
    server = await stage.start_function()
    delivering = asyncio.create_task(deliver(server, *jobs))
    longest = 0.0
    async with aiohttp.ClientSession() as http:
        while not delivering.done():
            begun = asyncio.get_running_loop().time()
            async with http.get(server.url) as answer:
                assert answer.status == 405
            longest = max(longest, asyncio.get_running_loop().time() - begun)
            await asyncio.sleep(0.05)
    answered = await delivering
    assert {503} == {answer.status for answer in answered.values()}
    assert max(answer.seconds for answer in answered.values()) < 12
    assert longest < 2  # the loop is free

    stage.metadata.script(ANY, [])
    for job in jobs:
        await until_done(server, job)
    assert dict.fromkeys(jobs, 1) == await attempts(stage, *jobs)


async def test_an_account_that_is_gone_is_a_fault_of_ours(stage: DeployedStage) -> None:
    for kind in ("account", "token"):
        stage.metadata.script(kind, itertools.repeat(Answer(404, b"", {"Metadata-Flavor": "Google"})))
    server = await stage.start_function()
    assert 500 == (await deliver(server, "job"))["job"].status
    for kind in ("account", "token"):
        stage.metadata.script(kind, [])
    await until_done(server)
    assert {"job": 1} == await attempts(stage, "job")


async def test_its_own_token_is_renewed(google_cloud: Any) -> None:
    async with DeployedStage(**google_cloud, own_token_seconds=1) as stage:
        server = await stage.start_function()
        for job in ("first", "second"):
            stage.add_user(job)
        await until_done(server, "first")
        await asyncio.sleep(1.2)
        await until_done(server, "second")
        assert {"first": 1, "second": 1} == await attempts(stage, "first", "second")
        assert dict.fromkeys(("first", "second"), 1) == Counter(call.key for call in stage.google.retries())


# The services


def front_ends(stage: DeployedStage) -> dict[str, FrontEnd]:
    return {"secrets": stage.secret_manager, "ledger": stage.firestore, "topics": stage.pubsub}


async def test_a_fault_of_a_service_is_told_at_once_and_a_passing_one_costs_no_retry(stage: DeployedStage) -> None:
    server = await stage.start_function()
    steps: dict[str, GrpcStep] = {"cut": Drop(), "unavailable": Fault(grpc.StatusCode.UNAVAILABLE)}
    failing_once = {
        f"{name}-{how}": (front_end, step)
        for name, front_end in front_ends(stage).items()
        for how, step in steps.items()
    }
    ways = {"token": OAUTH, "api": DATA_PORTABILITY}
    for job in ("warm", *front_ends(stage), *failing_once, *ways):
        stage.add_user(job)
    await until_done(server, "warm")

    # with large trailers
    fault = Fault(grpc.StatusCode.INVALID_ARGUMENT, "with its stack", trailer_bytes=100_000)
    answered: dict[str, Answered] = {}
    for name, front_end in front_ends(stage).items():
        front_end.script(ANY, itertools.repeat(fault))
        answered |= await deliver(server, name)
        front_end.script(ANY, [])
    assert dict.fromkeys(answered, 500) == {name: answer.status for name, answer in answered.items()}
    assert max(answer.seconds for answer in answered.values()) < 4

    for job, (front_end, step) in failing_once.items():
        front_end.script(ANY, [step])
        await until_done(server, job)
    assert dict.fromkeys(failing_once, 1) == {job: len(stage.google.retries(job)) for job in failing_once}

    # the way out is closed
    for job, target in ways.items():
        port = stage.proxy.close(target)
        assert (503, job) == ((await deliver(server, job))[job].status, job)
        stage.proxy.lead(target, port)
        await until_done(server, job)
    done = ["warm", *failing_once, *ways]
    assert dict.fromkeys(done, 1) == await attempts(stage, *done)


async def test_a_database_that_is_not_there_is_a_fault_of_ours(google_cloud: Any) -> None:
    async with DeployedStage(**google_cloud, settings=SHORT | {"FIRESTORE_DATABASE": "absent"}) as stage:
        stage.add_user("job")
        server = await stage.start_function()
        assert 500 == (await deliver(server, "job"))["job"].status
        assert [] == stage.google.retries()
