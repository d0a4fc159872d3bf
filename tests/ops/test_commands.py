"""The commands as a person runs them: processes of their own, on emulators and against what refuses them."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.cloud.firestore_v1.types import BatchGetDocumentsRequest
from google.pubsub_v1 import types

from local import google_errors
from local.grpc_service import Refused, service
from local.stage import OAUTH_CLIENT, Stage
from local.topics import DEAD, FAILED, REJECTED, connected
from tests.ops.desk import SECONDS, Desk, failed, rejection

BOTH = ("--reason", "ACCESS_DENIED", "--reason", "OUTCOME_UNKNOWN")
QUICK = ("--wait", "1")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def clean(**settings: str) -> dict[str, str]:
    """An environment with these settings and no others of this machine's."""
    known = ("PATH", "HOME", "LANG", "SYSTEMROOT")
    return {name: os.environ[name] for name in known if name in os.environ} | settings


async def started(*arguments: str, env: dict[str, str], **streams: Any) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops", *arguments), env=env, cwd=ROOT, **{"stdout": pipe, "stderr": pipe} | streams
    )


async def ops(*arguments: str, **settings: str) -> Ran:
    process = await started(*arguments, env=clean(**settings))
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert "Traceback" not in err.decode()
    return Ran(process.returncode or 0, out.decode(), err.decode())


def of(desk: Desk) -> dict[str, str]:
    """Settings for commands that need no ledger."""
    return {
        "GOOGLE_CLOUD_PROJECT": desk.project,
        "PUBSUB_EMULATOR_HOST": desk.address,
        "RETRY_LEDGER": "memory",
    }


only_embedded = pytest.mark.parametrize("desk", ["embedded"], indirect=True)


# from end to end, with the function


@asynccontextmanager
async def stage_with(kept: str, google_cloud: Any, **stage: Any) -> AsyncIterator[tuple[Stage, dict[str, str]]]:
    """A stage whose own consumers do not eat up what comes on one topic: subscription `kept` holds it too."""
    async with Stage(**google_cloud, **stage) as on_stage, connected(google_cloud["pubsub"]) as (_, subscriber):
        project = f"projects/{on_stage.project}"
        request = types.Subscription(name=f"{project}/subscriptions/kept", topic=f"{project}/topics/{kept}")
        await subscriber.create_subscription(request=request, timeout=SECONDS)
        yield on_stage, on_stage.environment


async def test_jobs_that_were_rejected_for_good_are_retried_once_they_are_redriven(google_cloud: Any) -> None:
    async with stage_with(REJECTED, google_cloud, settings={"AMBIGUOUS_RETRY": "park"}) as (stage, environment):
        await stage.start_function()
        stage.add_user("alice")
        stage.google.script_retry("denied", (google_errors.access_denied(),))
        stage.google.script_retry("parked", (google_errors.unavailable(),))
        for job in ("denied", "parked"):
            await stage.publish({"archiveJobId": job, "userId": "alice", "extra": "theirs"})
        await stage.until(lambda: len(stage.rejections) == 2)
        looked = await ops("redrive", "rejected", "--subscription", "kept", *QUICK, **environment)
        assert (0, True, True) == (looked.code, "ACCESS_DENIED" in looked.out, "OUTCOME_UNKNOWN" in looked.out)
        assert [1, 1] == [len(stage.google.retries(job)) for job in ("denied", "parked")]

        redriven = await ops("redrive", "rejected", "--subscription", "kept", "--go", *BOTH, *QUICK, **environment)
        assert (0, True) == (redriven.code, "2 of 2 put back on archive-job-failed." in redriven.out)
        await stage.until(lambda: len(stage.follow_ups) == 2)
        follow_ups = {message.data["retriedArchiveJobId"]: message.data for message in stage.follow_ups}
        assert {"denied": 1, "parked": 2} == {job: data["attempt"] for job, data in follow_ups.items()}

        new = follow_ups["denied"]["archiveJobId"]
        told = await ops("story", "archiveJobs/denied", "--json", **environment)
        assert [("denied", "retried", 2), (new, "open", 0)] == [
            (job["jobId"], job["state"], job["fence"]) for job in json.loads(told.out)["jobs"]
        ]
        assert f"Chain denied → {new}, with 1 of 3 retries used" in (await ops("story", new, **environment)).out


async def test_a_dead_letter_is_retried_once_its_cause_is_mended_and_it_is_redriven(google_cloud: Any) -> None:
    async with stage_with(DEAD, google_cloud, max_delivery_attempts=5, back_off=(0.1, 0.1)) as (stage, environment):
        await stage.start_function()
        stage.add_user("alice")
        client_file = stage.google.client_file()
        stage.secrets.add_version(OAUTH_CLIENT, "rubbish")
        await stage.publish({"archiveJobId": "job", "userId": "alice"}, own="attribute")
        await stage.until(lambda: stage.dead_letters)
        looked = await ops("redrive", "dead", "--subscription", "kept", "--json", *QUICK, **environment)
        [letter] = json.loads(looked.out)["letters"]
        assert ("UNDELIVERED", "job", "alice", 5) == tuple(
            letter[name] for name in ("reason", "archiveJobId", "userId", "deliveries")
        )

        stage.secrets.add_version(OAUTH_CLIENT, client_file)
        redriven = await ops("redrive", "dead", "--subscription", "kept", "--go", *QUICK, **environment)
        assert (0, True) == (redriven.code, "1 of 1 put back" in redriven.out)
        await stage.until(lambda: stage.follow_ups, seconds=90)


# stopped


@pytest.mark.parametrize(
    ("desk", "number"),
    [("google", signal.SIGINT), ("embedded", signal.SIGTERM), ("embedded", signal.SIGHUP)],
    indirect=["desk"],
)
async def test_who_stops_a_run_loses_nothing_and_keeps_nobody_waiting(desk: Desk, number: int) -> None:
    everything = sorted(failed(f"job-{number}") for number in range(20))
    await desk.publish(DEAD, *everything)
    process = await started("redrive", "dead", "--go", "--rate", "5", "--show", "0", *QUICK, env=clean(**of(desk)))
    assert process.stdout
    while b"UNDELIVERED" not in await process.stdout.readline():
        pass
    await asyncio.sleep(1.5)  # some of the four seconds that all of them take
    process.send_signal(number)
    rest = await process.stdout.read()
    assert 130 == await process.wait()
    assert b"Stopped. What was not put back is available again." in rest
    back = [message.data for message in await desk.waiting(FAILED, 1)]
    left = [message.data for message in await desk.waiting(DEAD, 20 - len(back))]
    assert 1 <= len(back) < 20
    assert everything == sorted(back + left)


# what a person sees


@only_embedded
async def test_a_program_that_reads_along_gets_plain_lines_and_a_terminal_gets_colours(desk: Desk) -> None:
    await desk.publish(DEAD, failed("job" * 60))
    assert "\x1b" not in (plain := await ops("redrive", "dead", *QUICK, **of(desk))).out + plain.err
    assert "job" * 60 in plain.out
    ours, theirs = pty.openpty()
    process = await started(
        "redrive", "dead", *QUICK, env=clean(TERM="xterm", **of(desk)), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = await asyncio.to_thread(read_all, ours)
    assert 0 == await process.wait()
    assert "\x1b[1m" in shown
    assert "looking into archive-job-dead" in shown


def read_all(terminal: int) -> str:
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as reader, contextlib.suppress(OSError):  # of a terminal that is gone
        while chunk := reader.read(65536):
            shown += chunk
    return shown.decode()


@only_embedded
async def test_a_message_cannot_tell_the_terminal_anything(desk: Desk) -> None:
    await desk.publish(REJECTED, rejection(failed(), datetime.now(UTC), user="\x1b[2J[bold]eve\x07"))
    shown = await ops("redrive", "rejected", *QUICK, **of(desk))
    assert {"\x1b", "\x07"}.isdisjoint(shown.out)
    assert "\ufffd[2J[bold]eve\ufffd" in shown.out


@only_embedded
async def test_where_nothing_waits_that_is_said(desk: Desk) -> None:
    shown = await ops("redrive", "dead", "--go", *QUICK, **of(desk))
    assert (0, True) == (shown.code, "archive-job-dead: 0 messages, 0 matching" in shown.out)


@only_embedded
async def test_what_was_left_makes_the_run_fail_and_is_named(desk: Desk) -> None:
    await desk.publish(REJECTED, rejection(failed(), datetime.now(UTC)))
    shown = await ops("redrive", "rejected", "--go", *QUICK, **of(desk))
    assert 1 == shown.code
    assert "0 of 1 put back" in shown.out
    assert "job job: its job is answered for good in the function's own memory" in shown.out


async def test_a_job_that_the_ledger_does_not_know_is_a_helpful_sentence(firestore_emulator: str, project: str) -> None:
    emulators = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1", "FIRESTORE_EMULATOR_HOST": firestore_emulator}
    told = await ops("story", "job-1", "--project", project, **emulators)
    assert (1, "") == (told.code, told.out)
    assert f"The ledger of {project} (archiveJobRetries in database (default)) knows no job job-1." in told.err
    assert "python -m ops redrive dead --job job-1" in told.err


# what refuses


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("story", "job"), 1, "GOOGLE_CLOUD_PROJECT has to be set."),
        (("story", "a/b", "--project", "p"), 2, "an archive job's id: letters, digits and . _ ~ -"),
        (("story", "job", "--project", "p", "--database", "A B"), 1, "FIRESTORE_DATABASE has to be a database's id."),
        (("redrive", "dead", "--newer-than", "soon"), 2, "a number and a unit: 90s, 30m, 12h or 7d"),
        (("redrive", "dead", "--reason", "WHIM"), 2, "'WHIM' is not one of 'UNDELIVERED', 'MALFORMED_EVENT'"),
        (("redrive", "elsewhere"), 2, "'elsewhere' is not one of 'dead', 'rejected'."),
    ],
)
async def test_what_is_asked_for_wrongly_is_said_in_a_sentence(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = await ops(*arguments)
    assert (code, True) == (ran.code, said in " ".join(ran.err.split())), ran.err


async def test_a_ledger_in_the_functions_memory_has_no_stories() -> None:
    ran = await ops("story", "job", "--project", "p", RETRY_LEDGER="memory", PUBSUB_EMULATOR_HOST="127.0.0.1:1")
    assert (1, True) == (ran.code, "nobody can read it" in ran.err)


@pytest.mark.parametrize("desk", ["google"], indirect=True)
async def test_a_subscription_that_is_not_there_is_named(desk: Desk) -> None:
    ran = await ops("redrive", "dead", "--subscription", "no-such", *QUICK, **of(desk))
    assert 1 == ran.code
    assert f"reading projects/{desk.project}/subscriptions/no-such: NOT_FOUND. Project {desk.project} has" in ran.err


@asynccontextmanager
async def refusing(code: grpc.StatusCode) -> AsyncIterator[str]:
    """A Pub/Sub and a Firestore that refuse everything, and the address of both."""

    def refuse(_: Any) -> Any:
        raise Refused(code, "words")

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            service("google.pubsub.v1.Subscriber", {"Pull": (types.PullRequest, refuse)}),
            service("google.firestore.v1.Firestore", {"BatchGetDocuments": (BatchGetDocumentsRequest, refuse)}),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("redrive", "dead"), grpc.StatusCode.PERMISSION_DENIED, "Your account lacks roles/pubsub.editor"),
        (("story", "job"), grpc.StatusCode.PERMISSION_DENIED, "Your account lacks roles/datastore.user"),
        (("story", "job"), grpc.StatusCode.NOT_FOUND, "has no Firestore database (default): set FIRESTORE_DATABASE"),
        (("story", "job"), grpc.StatusCode.FAILED_PRECONDITION, "no Firestore database (default) in native mode"),
        (("story", "job"), grpc.StatusCode.UNAUTHENTICATED, "gcloud auth application-default login"),
    ],
)
async def test_what_google_refuses_is_said_with_what_to_do(command: Any, code: grpc.StatusCode, said: str) -> None:
    async with refusing(code) as address:
        emulators = {"PUBSUB_EMULATOR_HOST": address, "FIRESTORE_EMULATOR_HOST": address}
        ran = await ops(*command, "--project", "p", **emulators)
    assert (1, True) == (ran.code, said in ran.err), ran.err


async def test_credentials_that_ran_out_are_found_before_anything_else(tmp_path: Path) -> None:
    """gRPC would call it UNAVAILABLE, after trying for long."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": "invalid_grant", "error_description": "account gone"}, status=400)

    app = web.Application()
    app.router.add_post("/token", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "account.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "client_email": "someone@example.invalid",
                "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                "token_uri": f"http://127.0.0.1:{runner.addresses[0][1]}/token",
            }
        )
    )
    ran = await ops("story", "job", "--project", "p", GOOGLE_APPLICATION_CREDENTIALS=str(file))
    await runner.cleanup()
    assert 1 == ran.code
    assert (
        "No usable Google credentials (invalid_grant: account gone): gcloud auth application-default login" in ran.err
    )
