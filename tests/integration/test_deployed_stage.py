"""The deployed stage is to Google's own clients what Google Cloud is: they need nothing but the environment."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from local.deployed_stage import DATABASE, OAUTH, PUBSUB, SECRET_MANAGER, DeployedStage
from local.function_server import ROOT
from local.scripted import Answer, Drop, Silence
from local.secrets import Fault

SHORT = {"CALL_SECONDS": "2"}  # for calls that have no end
TOKEN = "secret dataportability-refresh-token-alice"


@pytest.fixture
async def stage(google_cloud: dict[str, Any]) -> AsyncIterator[DeployedStage]:
    async with DeployedStage(**google_cloud) as stage:
        stage.add_user("alice")
        yield stage


async def told(stage: DeployedStage, calls: Sequence[str], **environment: str) -> list[str]:
    """What a program with the stage's environment says of these calls: see tests/integration/clients.py."""
    # gRPC reads the small letters only
    env = {"PATH": os.environ["PATH"], "https_proxy": stage.proxy.url, **stage.environment, **environment}
    command = [sys.executable, "-m", "tests.integration.clients", *calls]
    process = await asyncio.create_subprocess_exec(
        *command, env=env, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return output.decode().splitlines()


async def test_every_service_and_no_other_host_is_reached_by_its_real_name(stage: DeployedStage) -> None:
    in_region = f"projects/{stage.project}/locations/europe-west1/secrets/dataportability-refresh-token-alice"
    calls = [
        TOKEN,
        f"secret {in_region}",
        "publish 5 googclient_traceparent=00",
        f"ledger {DATABASE}",
        "ledger (default)",
        "post https://dataportability.googleapis.com/v1/archiveJobs/j:retry",
        "post https://oauth2.googleapis.com/token",
        "post https://elsewhere.example/",
    ]
    *answers, elsewhere = await told(stage, calls)
    document = "ok {'field': 'value'}"
    assert ["ok 41", "ok 41", "ok None", document, document, "ok 401", "ok 400"] == answers
    assert elsewhere.startswith("ClientHttpProxyError 403")
    assert ["elsewhere.example:443"] == stage.proxy.refused


async def test_a_named_database_needs_its_routing_twice(stage: DeployedStage) -> None:
    named = f"projects/{stage.project}/databases/{DATABASE}"
    calls = [
        f"generated {DATABASE}",
        f"generated {DATABASE} google-cloud-resource-prefix={named}",
        "generated (default)",
        "ledger absent",
    ]
    refused, *answered, absent = await told(stage, calls)
    assert refused == "InvalidArgument 400 Invalid request routing header"
    assert ["ok [True]"] * 2 == answered
    assert absent.startswith("NotFound 404 The database absent does not exist")


async def test_a_message_beyond_a_limit_is_refused(stage: DeployedStage) -> None:
    beyond = [
        "10000001",
        f"1 key={'x' * 1025}",
        f"1 {'k' * 257}=value",
        "1 google=x",
        "1 " + " ".join(f"k{number}=x" for number in range(101)),
    ]
    answers = await told(stage, [f"publish {message}" for message in beyond])
    assert ["InvalidArgument 400"] * len(beyond) == [answer[:19] for answer in answers]
    assert [] == stage.follow_ups


async def test_a_token_that_is_over_is_refused(google_cloud: dict[str, Any]) -> None:
    async with DeployedStage(**google_cloud, own_token_seconds=0) as stage:
        [answer] = await told(stage, [TOKEN])
        assert answer.startswith("Unauthenticated 401")


async def test_a_metadata_server_in_trouble_is_seen(stage: DeployedStage) -> None:
    stage.metadata.script("ping", [Silence(), Drop()])
    stage.metadata.script("token", [Answer(404, b"")])
    environment = {"GCE_METADATA_TIMEOUT": "1", "GCE_METADATA_DETECT_RETRIES": "1"}
    silent, away, gone, again = await told(stage, ["own"] * 4, **environment)
    assert "ok" not in (silent[:2], away[:2])
    assert gone.startswith("RefreshError")
    assert again == f"ok {stage.metadata.account}"


async def test_a_method_fails_falls_silent_or_breaks_as_it_is_told(stage: DeployedStage) -> None:
    large = Fault(grpc.StatusCode.INVALID_ARGUMENT, "with its stack", trailer_bytes=100_000)
    aborted = Fault(grpc.StatusCode.ABORTED, "no")
    stage.secret_manager.script("AccessSecretVersion", [aborted, aborted, Drop(), Silence()])
    stage.pubsub.script("Publish", [large])
    [*faults, dropped, silent, again] = await told(stage, ["publish 1", *[TOKEN] * 5], **SHORT)
    assert ["InvalidArgument 400 with its stack", "Aborted 409 no", "Aborted 409 no"] == faults
    assert dropped.startswith("ServiceUnavailable 503")
    assert silent.startswith("DeadlineExceeded 504")
    assert again == "ok 41"


async def test_a_way_out_that_is_silent_or_gone_is_seen(stage: DeployedStage) -> None:
    stage.proxy.silence([PUBSUB])
    for target in (SECRET_MANAGER, OAUTH):
        stage.proxy.close(target)
    published, secret, token = await told(
        stage, ["publish 1", TOKEN, "post https://oauth2.googleapis.com/token"], **SHORT
    )
    assert published.startswith(("DeadlineExceeded", "ServiceUnavailable"))
    assert secret.startswith("ServiceUnavailable")
    assert token.startswith("ClientHttpProxyError 403")
    stage.proxy.silence([])
    assert ["ok None"] == await told(stage, ["publish 1"])
