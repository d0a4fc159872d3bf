"""A token endpoint and an API that mean harm: no secret comes out, no two users are mixed, no instance falls."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from local import hostile
from local.deployed_stage import DATA_PORTABILITY, OAUTH, DeployedStage
from local.function_server import FunctionServer
from local.hostile import HostilePeer, Mischief
from tests.e2e.pushing import attempts, deliver, until_done

# No peer makes a delivery last longer; where the machine is too busy to record its end, the claim lapses soon.
TIMES = {"HANDLER_DEADLINE_SECONDS": "5", "CLAIM_LEASE_SECONDS": "10", "DOUBT_PAUSE_SECONDS": "0.1"}
MOST_MIB = 256  # resident, at the highest: half of what the function is given

OF_THE_API: dict[str, Mischief] = {
    "late": hostile.late(30),
    "endless-body": hostile.endless_body,
    "dripping-body": hostile.dripping_body,
    "endless-headers": hostile.endless_headers,
    "megabytes-of-headers": hostile.megabytes_of_headers,
    "bomb": hostile.bomb,
    "cut-off": hostile.cut_off,
    "no-http": hostile.no_http,
    "bearer-as-id": hostile.bearer_as_id,
}
OF_THE_TOKEN_ENDPOINT = {name: mischief for name, mischief in OF_THE_API.items() if name != "bearer-as-id"} | {
    "huge-token": hostile.changed(access_token="made-up-secret" + "x" * 65_536),
    "two-line-token": hostile.changed(access_token="made-up-secret\r\nX-Injected: 1"),
}


def memory_mib(server: FunctionServer) -> float:
    """The most that a worker has had in memory at once."""
    peaks = [
        int(line.split()[1])
        for worker in server.workers
        for line in Path(f"/proc/{worker}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return max(peaks) / 1024


@contextlib.contextmanager
def hostile_peer(stage: DeployedStage, mischiefs: Mapping[str, Mischief]) -> Iterator[None]:
    """In place of both services, and no longer than this lasts."""
    targets = (OAUTH, DATA_PORTABILITY)
    with HostilePeer(stage.google.port, stage.authority, mischiefs) as peer:
        for target in targets:
            stage.proxy.lead(target, peer.port)
        yield
        for target in targets:
            stage.proxy.lead(target, stage.google.port)


async def test_a_hostile_answer_costs_one_delivery_and_tells_nothing_and_no_redirect_is_followed(
    google_cloud: Any,
) -> None:
    async with DeployedStage(**google_cloud, settings=TIMES) as stage:
        server = await stage.start_function()
        of_api = {f"api-{name}": mischief for name, mischief in OF_THE_API.items()}
        of_token = {f"token-{name}": mischief for name, mischief in OF_THE_TOKEN_ENDPOINT.items()}
        jobs = [*of_api, *of_token]
        tokens = {job: stage.add_user(job) for job in (*jobs, "good", "warm")}
        await until_done(server, "warm")
        with hostile_peer(stage, of_api | {tokens[job]: mischief for job, mischief in of_token.items()}):
            delivering = asyncio.create_task(deliver(server, *jobs))
            await until_done(server, "good")
            first = await delivering
            assert {} == {job: answer.status for job, answer in first.items() if answer.status not in (500, 503)}
            assert max(answer.seconds for answer in first.values()) < 10
            assert [] == stage.rejections
            assert memory_mib(server) < MOST_MIB
        redirected = {"of-token": stage.add_user("of-token"), "of-api": "of-api"}
        stage.add_user("of-api")
        with hostile_peer(stage, dict.fromkeys(redirected.values(), hostile.redirect)):
            answered = await deliver(server, *redirected)
        assert dict.fromkeys(redirected, 500) == {job: answer.status for job, answer in answered.items()}
        assert [] == stage.proxy.refused
        patient = await stage.start_function(settings={"HANDLER_DEADLINE_SECONDS": "60", "CLAIM_LEASE_SECONDS": "150"})
        await asyncio.gather(*(until_done(patient, job) for job in jobs))
        cost = await attempts(stage, *jobs)  # each call counts, and nothing else
        assert {job: len(stage.google.retries(job)) for job in jobs} == {job: cost[job] for job in jobs}
        assert {1} == {cost[job] for job in of_token}


async def test_an_answer_nobody_asked_for_is_nobodys(google_cloud: Any) -> None:
    jobs = ["first", "second", "third"]
    async with DeployedStage(**google_cloud) as stage:
        server = await stage.start_function()
        tokens = {job: stage.add_user(job) for job in jobs}
        with hostile_peer(stage, dict.fromkeys((*jobs, *tokens.values()), hostile.twice)):
            for job in jobs:
                assert (await deliver(server, job))[job].status == 204
                await asyncio.sleep(0.1)
            await attempts(stage, *jobs)
            assert tokens == {call.key: stage.google.behind(call) for call in stage.google.retries()}
            named = {message.data["archiveJobId"]: message.data["retriedArchiveJobId"] for message in stage.follow_ups}
            assert stage.google.new_jobs == named
