"""The deployed stage is to Google's own clients what Google Cloud is: they need nothing but the environment."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from local.deployed_stage import DATABASE, FIRESTORE, OAUTH, DeployedStage
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


async def test_every_service_is_reached_by_its_real_name_and_refuses_what_it_refuses_at_google(
    stage: DeployedStage,
) -> None:
    """No other host is reached. A named database needs its routing twice, and a message keeps to the limits."""
    in_region = f"projects/{stage.project}/locations/europe-west1/secrets/dataportability-refresh-token-alice"
    named = f"projects/{stage.project}/databases/{DATABASE}"
    beyond = [
        "10000001",
        f"1 key={'x' * 1025}",
        f"1 {'k' * 257}=value",
        "1 google=x",
        "1 " + " ".join(f"k{number}=x" for number in range(101)),
    ]
    document = "ok {'field': 'value'}"
    ends = {
        TOKEN: "ok 41",
        f"secret {in_region}": "ok 41",
        "publish 5 googclient_traceparent=00": "ok None",
        f"ledger {DATABASE}": document,
        "ledger (default)": document,
        f"generated {DATABASE}": "InvalidArgument 400 Invalid request routing header",
        f"generated {DATABASE} google-cloud-resource-prefix={named}": "ok [True]",
        "generated (default)": "ok [True]",
        "post https://dataportability.googleapis.com/v1/archiveJobs/j:retry": "ok 401",
        "post https://oauth2.googleapis.com/token": "ok 400",
    }
    begins = {
        **{f"publish {message}": "InvalidArgument 400" for message in beyond},
        "ledger absent": "NotFound 404 The database absent does not exist",
        "post https://elsewhere.example/": "ClientHttpProxyError 403",
    }
    answers = await told(stage, [*begins, *ends])
    told_of = dict(zip([*begins, *ends], answers, strict=True))
    assert begins | ends == told_of | {asked: told_of[asked][: len(text)] for asked, text in begins.items()}
    assert ["elsewhere.example:443"] == stage.proxy.refused
    await stage.until(lambda: stage.follow_ups)
    assert [b"xxxxx"] == [each.raw for each in stage.follow_ups]


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


async def test_a_method_fails_falls_silent_or_breaks_and_a_way_is_closed_as_it_is_told(stage: DeployedStage) -> None:
    large = Fault(grpc.StatusCode.INVALID_ARGUMENT, "with its stack", trailer_bytes=100_000)
    aborted = Fault(grpc.StatusCode.ABORTED, "no")
    stage.secret_manager.script("AccessSecretVersion", [aborted, aborted, Drop(), Silence()])
    stage.pubsub.script("Publish", [large])
    for target in (FIRESTORE, OAUTH):
        stage.proxy.close(target)
    ways = ["ledger (default)", "post https://oauth2.googleapis.com/token"]
    [*faults, dropped, silent, again, ledger, token] = await told(stage, ["publish 1", *[TOKEN] * 5, *ways], **SHORT)
    assert ["InvalidArgument 400 with its stack", "Aborted 409 no", "Aborted 409 no"] == faults
    assert dropped.startswith("ServiceUnavailable 503")
    assert silent.startswith("DeadlineExceeded 504")
    assert again == "ok 41"
    assert ledger.startswith("ServiceUnavailable")
    assert token.startswith("ClientHttpProxyError 403")
