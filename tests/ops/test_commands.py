"""The commands as a person runs them: processes of their own, on emulators and against what refuses them."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.pubsub_v1 import types

from handlers.domain.outcomes import Misconfigured, StepError, Transient
from handlers.settings import from_environment
from local import google_errors
from local.stage import OAUTH_CLIENT, WATCH, Stage
from local.topics import DEAD, FAILED, REJECTED, STARTED, connected
from ops.cloud import explain
from tests.ops.desk import SECONDS, Desk, failed, rejection
from tests.ops.running import QUICK, clean, here, ops, started

BOTH = ("--reason", "ACCESS_DENIED", "--reason", "OUTCOME_UNKNOWN")


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
async def stage_with(kept: str, **stage: Any) -> AsyncIterator[tuple[Stage, dict[str, str]]]:
    """A stage whose own consumers do not eat up what comes on one topic: subscription `kept` holds it too."""
    async with AsyncExitStack() as stack:
        on_stage = await stack.enter_async_context(Stage(**stage))
        address = on_stage.environment["PUBSUB_EMULATOR_HOST"]
        _, subscriber = await stack.enter_async_context(connected(address))
        project = f"projects/{on_stage.project}"
        request = types.Subscription(name=f"{project}/subscriptions/kept", topic=f"{project}/topics/{kept}")
        await subscriber.create_subscription(request=request, timeout=SECONDS)
        yield on_stage, on_stage.environment


async def test_rejected_and_parked_jobs_are_retried_once_they_are_redriven(google_cloud: Any) -> None:
    async with stage_with(REJECTED, **google_cloud, settings={"AMBIGUOUS_RETRY": "park"}) as (stage, environment):
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
        jobs = json.loads(told.out)["jobs"]
        assert [("denied", "retried", 2), (new, "open", 0)] == [
            (job["archiveJobId"], job["state"], job["fence"]) for job in jobs
        ]
        kept = [datetime.fromisoformat(job["expireAt"]) - datetime.fromisoformat(job["updatedAt"]) for job in jobs]
        assert [timedelta(days=from_environment(environment).ledger_days)] * 2 == kept
        assert f"Chain denied → {new}, with 1 of 3 retries used" in (await ops("story", new, **environment)).out


async def test_dead_letter_is_retried_once_its_cause_is_fixed_and_it_is_redriven(firestore_emulator: str) -> None:
    ways: Any = {"firestore": firestore_emulator, "max_delivery_attempts": 5, "back_off": (0.1, 0.1)}
    async with stage_with(DEAD, **ways) as (stage, environment):
        await stage.start_function()
        stage.add_user("alice")
        client_file = stage.google.client_file()
        stage.secrets.add_version(OAUTH_CLIENT, "rubbish")
        await stage.publish({"archiveJobId": "job", "userId": "alice"}, own="attribute")
        await stage.until(lambda: stage.dead_letters)
        looked = await ops("redrive", "dead", "--subscription", "kept", "--json", *QUICK, **environment)
        [message] = json.loads(looked.out)["messages"]
        assert ("UNDELIVERED", "job", "alice", "alice", 5) == tuple(
            message[name] for name in ("reason", "archiveJobId", "userId", "credentialId", "deliveries")
        )

        stage.secrets.add_version(OAUTH_CLIENT, client_file)
        redriven = await ops("redrive", "dead", "--subscription", "kept", "--go", *QUICK, **environment)
        assert (0, True) == (redriven.code, "1 of 1 put back" in redriven.out)
        await stage.until(lambda: stage.follow_ups)


# stopped


@pytest.mark.parametrize(
    ("desk", "number"),
    [("google", signal.SIGINT), ("embedded", signal.SIGTERM)],
    indirect=["desk"],
)
async def test_run_that_is_stopped_loses_nothing_and_releases_the_rest(desk: Desk, number: int) -> None:
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


def test_end_of_the_terminal_stops_a_run() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # or it would end this process where the run does not heed it
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as thread:
            silent.settimeout(30)
            connection = thread.submit(silent.accept)
            connection.add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGHUP))
            ran = here("list", "--project", "p", FIRESTORE_EMULATOR_HOST=f"127.0.0.1:{silent.getsockname()[1]}")
            connection.result()[0].close()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert 130 == ran.code


# what a person sees


@only_embedded
async def test_pipe_gets_plain_lines_and_terminal_gets_colours(desk: Desk) -> None:
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


ODD = "\x1b[2J\x9b1m\u202e[bold]\nforged\x07\u2028"
NO_TERMINAL_MAY_SEE = set("\x1b\x9b\u202e\x07\u2028")


@only_embedded
async def test_message_cannot_tell_the_terminal_anything(desk: Desk) -> None:
    await desk.publish(REJECTED, rejection(failed(), datetime.now(UTC), detail=ODD), ODD.encode())
    shown = await ops("redrive", "rejected", *QUICK, **of(desk))
    assert NO_TERMINAL_MAY_SEE.isdisjoint(shown.out)
    assert "\ufffd[2J\ufffd1m\ufffd[bold]\ufffdforged\ufffd\ufffd" in shown.out
    told = await ops("redrive", "rejected", "--json", *QUICK, **of(desk))
    assert told.out.isascii()
    assert NO_TERMINAL_MAY_SEE.isdisjoint(told.out)
    assert ODD in [message["detail"] for message in json.loads(told.out)["messages"]]


@only_embedded
async def test_where_none_matches_the_reasons_that_would_are_named(desk: Desk) -> None:
    used_up = rejection(failed(), datetime.now(UTC), "RETRY_BUDGET_EXHAUSTED")
    await desk.publish(REJECTED, used_up, used_up, rejection(failed(), datetime.now(UTC), "OUTCOME_UNKNOWN"), b"odd")
    shown = await ops("redrive", "rejected", *QUICK, **of(desk))
    assert "4 messages, 0 matching" in shown.out
    assert "Would match: --reason OUTCOME_UNKNOWN (1), --reason RETRY_BUDGET_EXHAUSTED (2)" in shown.out


@only_embedded
async def test_look_that_its_limit_cuts_is_said_to_be_incomplete(desk: Desk) -> None:
    await desk.publish(DEAD, *map(failed, "abc"))
    cut = ("redrive", "dead", "--limit", "2", *QUICK)
    shown = await ops(*cut, **of(desk))
    assert "archive-job-dead: 3 messages, 3 matching\nThis run takes 2 of these" in shown.out
    told = json.loads((await ops(*cut, "--json", **of(desk))).out)
    assert (False, 2) == (told["complete"], len(told["messages"]))
    told = json.loads((await ops("redrive", "dead", "--limit", "3", "--json", *QUICK, **of(desk))).out)
    assert (True, 3) == (told["complete"], len(told["messages"]))


@only_embedded
async def test_rejections_of_one_cause_are_put_back(desk: Desk) -> None:
    for cause in ("NO_SECRET", "INVALID_GRANT"):
        told = json.loads(rejection(failed(cause), datetime.now(UTC), "REAUTHORIZATION_REQUIRED", job=cause))
        await desk.publish(REJECTED, json.dumps(told | {"cause": cause}).encode())
    shown = await ops("redrive", "rejected", "--reason", "NO_SECRET", "--go", *QUICK, **of(desk))
    assert (0, True) == (shown.code, "1 of 1 put back" in shown.out)
    assert ["NO_SECRET"] == [rejection_job(one.data) for one in await desk.waiting(FAILED, 1)]


@only_embedded
async def test_dead_letter_that_is_malformed_goes_back_to_be_rejected(desk: Desk) -> None:
    await desk.publish(DEAD, b"rubbish")
    shown = await ops("redrive", "dead", "--go", *QUICK, **of(desk))
    assert (0, True) == (shown.code, "1 of 1 put back" in shown.out)
    assert [b"rubbish"] == [one.data for one in await desk.waiting(FAILED, 1)]


@only_embedded
async def test_look_says_what_redrive_would_skip(desk: Desk) -> None:
    await desk.publish(REJECTED, rejection(failed(), datetime.now(UTC)))
    the_watchs = rejection(failed(), datetime.now(UTC), "MALFORMED_EVENT")
    await desk.publish(REJECTED, the_watchs, attributes={"source": "archive-job-started"})
    named = ("--reason", "ACCESS_DENIED", "--reason", "MALFORMED_EVENT")
    shown = await ops("redrive", "rejected", *named, *QUICK, **of(desk))
    assert (0, True) == (shown.code, "With --go, 1 of these are put back" in shown.out)
    assert "it came from archive-job-started" in shown.out


@only_embedded
async def test_discard_takes_only_what_is_named_and_only_with_go(desk: Desk) -> None:
    await desk.publish(REJECTED, rejection(failed(), datetime.now(UTC)), b"odd")
    unnamed = await ops("discard", "rejected", "--go", **of(desk))
    assert (2, True) == (unnamed.code, "Name what is to go" in unnamed.err)
    dry = await ops("discard", "rejected", "--reason", "UNREADABLE", *QUICK, **of(desk))
    assert "Nothing was changed. With --go, 1 of these are discarded." in dry.out
    assert 2 == len(await desk.waiting(REJECTED, 2))
    gone = await ops("discard", "rejected", "--reason", "UNREADABLE", "--go", *QUICK, **of(desk))
    assert (0, True) == (gone.code, "1 of 1 discarded." in gone.out)
    assert [rejection_job(one.data) for one in await desk.waiting(REJECTED, 1)] == ["job"]


def rejection_job(data: bytes) -> str:
    return str(json.loads(data)["archiveJobId"])


@only_embedded
async def test_empty_subscription_is_said_to_be_empty(desk: Desk) -> None:
    shown = await ops("redrive", "dead", "--go", *QUICK, **of(desk))
    assert (0, True) == (shown.code, "archive-job-dead: 0 messages, 0 matching" in shown.out)


@only_embedded
async def test_skipped_message_fails_the_run_and_is_named(desk: Desk) -> None:
    await desk.publish(REJECTED, rejection(failed(), datetime.now(UTC), "OUTCOME_UNKNOWN"))
    shown = await ops("redrive", "rejected", "--go", "--reason", "OUTCOME_UNKNOWN", *QUICK, **of(desk))
    assert 1 == shown.code
    assert "0 of 1 put back" in shown.out
    assert "job job: its job is answered for good in the function's own memory" in shown.out


def test_unknown_job_is_told_where_else_to_look(firestore_emulator: str, project: str) -> None:
    told = here("story", "job-1", "--project", project, FIRESTORE_EMULATOR_HOST=firestore_emulator)
    assert (1, "") == (told.code, told.out)
    assert f"The ledger of {project} (archiveJobRetries in database (default)) knows no job job-1." in told.err
    for source in ("dead", "rejected"):
        assert f"python -m ops redrive {source} --job job-1" in told.err


async def test_story_of_a_watched_job_tells_its_next_look(firestore_emulator: str) -> None:
    async with Stage(firestore=firestore_emulator) as stage:
        await stage.start_function(target=WATCH)
        await stage.publish({"archiveJobId": "job", "userId": "alice"}, topic=STARTED)
        await stage.until(lambda: stage.deliveries)
        told = await ops("story", "job", **stage.environment)
        assert (0, True) == (
            told.code,
            "Watch of job, user alice, credential alice: The next look is due at " in told.out,
        )
        [look] = json.loads((await ops("story", "job", "--json", **stage.environment)).out)["watch"]
        assert ("job", stage.deliveries[0]["notBefore"][:19]) == (look["archiveJobId"], look["notBefore"][:19])


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
        (("redrive", "dead", "--user", "a/b"), 2, "a user's or a credential's id: letters, digits, _ and -"),
        (("forget", "--user", "../x", "--project", "p"), 2, "a user's or a credential's id"),
        (("check", "--user", "a b", "--project", "p"), 2, "a user's or a credential's id"),
        (("list", "--state", "lost", "--project", "p"), 2, "'lost' is not one of 'in-doubt', 'parked'"),
    ],
)
def test_wrong_argument_is_told_in_a_sentence(arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = here(*arguments)
    assert (code, True) == (ran.code, said in " ".join(ran.err.split())), ran.err


@pytest.mark.parametrize("command", [("story", "job"), ("list",), ("forget", "--user", "alice")])
def test_ledger_in_the_functions_memory_cannot_be_read(command: tuple[str, ...]) -> None:
    emulators = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1", "SECRET_MANAGER_EMULATOR_HOST": "127.0.0.1:1"}
    ran = here(*command, "--project", "p", RETRY_LEDGER="memory", **emulators)
    assert (1, True) == (ran.code, "nobody can read it" in ran.err)


async def test_missing_subscription_is_named(desk: Desk) -> None:
    ran = await ops("redrive", "dead", "--subscription", "no-such", *QUICK, **of(desk))
    assert 1 == ran.code
    assert f"reading projects/{desk.project}/subscriptions/no-such: NOT_FOUND: " in ran.err
    assert f"Project {desk.project} has none of that name" in ran.err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Misconfigured("reading a/b: PERMISSION_DENIED: no"), "Your account lacks roles/pubsub.editor"),
        (Misconfigured("reading the ledger: PERMISSION_DENIED: no"), "Your account lacks roles/datastore.user"),
        (Misconfigured("listing secrets x…: PERMISSION_DENIED: no"), "Your account lacks roles/secretmanager"),
        (Misconfigured("reading the ledger: NOT_FOUND: gone"), "has no Firestore database (default): set FIRESTORE_"),
        (
            Misconfigured("reading the ledger: FAILED_PRECONDITION: no"),
            "no Firestore database (default) in native mode",
        ),
        (
            Misconfigured("searching the ledger: FAILED_PRECONDITION: The query requires an index."),
            "apply infra/bootstrap again",
        ),
        (Misconfigured("reading the ledger: UNAUTHENTICATED: who"), "gcloud auth application-default login"),
        (Misconfigured("the program's own credentials are refused: RefreshError"), "application-default login"),
        (Transient("the program's own credentials could not be refreshed: TransportError"), "Try again"),
        (Transient("reading the ledger: UNAVAILABLE"), "Try again: nothing is lost by it."),
    ],
)
def test_refused_call_is_told_with_its_remedy(fault: StepError, said: str) -> None:
    assert said in explain(fault, from_environment({"GOOGLE_CLOUD_PROJECT": "p"}))


async def test_refused_credentials_are_found_before_anything_else(tmp_path: Path) -> None:
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
    assert "credentials are refused: RefreshError. On a machine of your own: gcloud auth application-default" in ran.err
