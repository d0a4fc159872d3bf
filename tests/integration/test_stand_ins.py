"""The stand-ins say no where Google says no, do what a script says, and remember every call."""

import asyncio
import itertools
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import google_crc32c
import grpc
import pytest
import uvloop
from google.api_core import exceptions
from google.cloud.secretmanager_v1 import SecretManagerServiceAsyncClient
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcAsyncIOTransport,
)

from local import google_errors
from local.google_apis import GoogleApis
from local.grants import MARK
from local.scripted import ANY, Answer, Drop, Silence
from local.secrets import Fault, SecretManager, State

REFRESH_TOKEN = f"{MARK}-refresh-token"


@pytest.fixture
async def google() -> AsyncIterator[GoogleApis]:
    async with GoogleApis() as google:
        google.consent(REFRESH_TOKEN)
        yield google


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        yield http


async def refresh(http: aiohttp.ClientSession, google: GoogleApis, **changes: str | None) -> tuple[int, Any]:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH_TOKEN,
        "client_id": google.client_id,
        "client_secret": google.client_secret,
    } | changes
    data = {name: value for name, value in form.items() if value is not None}
    async with http.post(f"{google.url}/token", data=data) as response:
        return response.status, await response.json()


async def retry(
    http: aiohttp.ClientSession, google: GoogleApis, job_id: str = "job", token: str | None = None, body: bytes = b""
) -> tuple[int, Any]:
    bearer = token or (await refresh(http, google))[1]["access_token"]
    headers = {"Authorization": f"Bearer {bearer}", "Content-Length": str(len(body))}
    async with http.post(f"{google.url}/v1/archiveJobs/{job_id}:retry", data=body, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if "json" in response.content_type else text


async def raw(google: GoogleApis, request: str) -> str:
    """The status line that a hand-written request gets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", google.port)
    writer.write(request.replace("\n", "\r\n").encode())
    answer = (await reader.readline()).decode()
    writer.close()
    return answer


# The token endpoint


async def test_a_refresh_token_becomes_an_access_token(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    status, body = await refresh(http, google)
    assert status == 200
    assert MARK in body.pop("access_token")
    assert body == {
        "expires_in": 3599,
        "scope": "https://www.googleapis.com/auth/dataportability.myactivity.search",
        "token_type": "Bearer",
    }


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"refresh_token": None}, 400, "invalid_request"),
        ({"client_id": None}, 400, "invalid_request"),
        ({"client_secret": None}, 400, "invalid_request"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"scope": "any"}, 400, "invalid_scope"),
        ({"refresh_token": "unknown"}, 400, "invalid_grant"),
    ],
)
async def test_a_wrong_token_request_is_refused_in_googles_words(
    google: GoogleApis, http: aiohttp.ClientSession, changes: dict[str, str | None], status: int, error: str
) -> None:
    answered, body = await refresh(http, google, **changes)
    assert (answered, body["error"]) == (status, error)


async def test_revoked_consent_ends_the_refresh_token_and_its_access_tokens(
    google: GoogleApis, http: aiohttp.ClientSession
) -> None:
    token = (await refresh(http, google))[1]["access_token"]
    google.revoke(REFRESH_TOKEN)
    status, body = await refresh(http, google)
    assert (status, body["error"]) == (400, "invalid_grant")
    assert (await retry(http, google, token=token))[0] == 401


async def test_an_access_token_lives_as_long_as_it_says(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    google.consent(REFRESH_TOKEN, expires_in=0)
    status, body = await retry(http, google)
    assert (status, body["error"]["details"][0]["reason"]) == (401, "ACCESS_TOKEN_EXPIRED")


async def test_the_client_file_is_as_googles_console_downloads_it(google: GoogleApis) -> None:
    client = json.loads(google.client_file())["web"]
    assert client["token_uri"] == f"{google.url}/token"
    assert (client["client_id"], client["client_secret"]) == (google.client_id, google.client_secret)


# archiveJobs.retry


async def test_an_unscripted_retry_makes_a_new_job_each_time(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    answers = [await retry(http, google, "job-1") for _ in range(2)]
    ids = [body["archiveJobId"] for _, body in answers]
    assert [status for status, _ in answers] == [200, 200]
    assert google.new_jobs == dict.fromkeys(ids, "job-1")
    assert len(google.new_jobs) == 2


async def test_a_retry_needs_an_explicit_length(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    token = (await refresh(http, google))[1]["access_token"]
    head = f"POST /v1/archiveJobs/job:retry HTTP/1.1\nHost: x\nAuthorization: Bearer {token}\n"
    assert " 411 " in await raw(google, head + "\n")
    assert " 411 " in await raw(google, head + "Transfer-Encoding: chunked\n\n0\n\n")
    assert " 200 " in await raw(google, head + "Content-Length: 0\n\n")


async def test_a_retry_has_no_body(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    status, body = await retry(http, google, body=b"{}")
    assert (status, body["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "CREDENTIALS_MISSING"),
        ("Authorization: Basic x\n", "CREDENTIALS_MISSING"),
        ("Authorization: Bearer unknown\n", "ACCESS_TOKEN_INVALID"),
    ],
)
async def test_a_retry_needs_a_token_that_is_known(google: GoogleApis, authorization: str, reason: str) -> None:
    head = f"POST /v1/archiveJobs/job:retry HTTP/1.1\nHost: x\n{authorization}Content-Length: 0\n\n"
    assert " 401 " in await raw(google, head)
    assert not google.new_jobs


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "job:retry"), ("POST", ":retry"), ("POST", "a/b:retry"), ("POST", "job:cancel"), ("POST", "job")],
)
async def test_what_is_no_retry_of_one_job_is_not_found(google: GoogleApis, method: str, path: str) -> None:
    head = f"{method} /v1/archiveJobs/{path} HTTP/1.1\nHost: x\nContent-Length: 0\n\n"
    assert " 404 " in await raw(google, head)


async def test_a_script_is_followed_step_by_step_and_then_all_is_well(
    google: GoogleApis, http: aiohttp.ClientSession
) -> None:
    google.script_retry("job-1", [google_errors.unavailable(), google_errors.bad_gateway(), Answer(200, b"")])
    answers = [await retry(http, google, "job-1") for _ in range(4)]
    assert [status for status, _ in answers] == [503, 502, 200, 200]
    assert "<!DOCTYPE html>" in answers[1][1]
    assert (await retry(http, google, "job-2"))[0] == 200


async def test_a_script_for_any_meets_those_that_have_none(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    google.script_retry(ANY, itertools.repeat(google_errors.not_found()))
    google.script_retry("job-1", [google_errors.not_failed()])
    statuses = [(await retry(http, google, job))[0] for job in ("job-1", "job-1", "job-2")]
    assert statuses == [400, 404, 404]


async def test_a_refusal_uses_up_no_step_of_the_script(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    google.script_retry("job-1", [google_errors.unavailable()])
    assert (await retry(http, google, "job-1", token="unknown"))[0] == 401
    assert (await retry(http, google, "job-1"))[0] == 503


async def test_a_connection_can_be_dropped_after_the_request_was_read(
    google: GoogleApis, http: aiohttp.ClientSession
) -> None:
    google.script_retry("job-1", [Drop()])
    token = (await refresh(http, google))[1]["access_token"]
    with pytest.raises(aiohttp.ClientError):
        await retry(http, google, "job-1", token)
    assert len(google.retries("job-1")) == 1
    assert (await retry(http, google, "job-1", token))[0] == 200


async def test_silence_lasts_until_the_caller_gives_up(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    google.script_token(REFRESH_TOKEN, [Silence()])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await refresh(http, google)
    assert len(google.refreshes(REFRESH_TOKEN)) == 1


async def test_every_call_takes_the_given_latency(http: aiohttp.ClientSession) -> None:
    async with GoogleApis(token_latency_seconds=0.1, retry_latency_seconds=0.2) as google:
        google.consent(REFRESH_TOKEN)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await retry(http, google)
        assert loop.time() - begun >= 0.3


async def test_closed_with_a_request_in_hand_they_complain_of_nothing(
    http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with GoogleApis(token_latency_seconds=0.2) as google:
        asking = asyncio.create_task(http.post(f"{google.url}/token"))
        while not google.requests:  # noqa: ASYNC110 no event tells it
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.15)
        # the answer is ready, and the server's patience over, at one and the same moment: the loop is held up over both
        asyncio.get_running_loop().call_later(0.02, time.sleep, 0.3)
    await asyncio.gather(asking, return_exceptions=True)
    assert caplog.records == []


def test_on_uvloop_a_request_whose_caller_is_gone_at_once_is_carried_out_as_well() -> None:
    def ask_and_go(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with an RST

    async def asked() -> None:
        async with GoogleApis() as google:
            for _ in range(200):
                await asyncio.to_thread(ask_and_go, google.port)
            async with asyncio.timeout(2):
                while google.counts["other"] < 200:  # noqa: ASYNC110 no event tells it
                    await asyncio.sleep(0.01)

    uvloop.run(asked())


async def test_every_request_is_recorded(google: GoogleApis, http: aiohttp.ClientSession) -> None:
    for job in ("job-1", "job-2"):
        await retry(http, google, job)
    [first], [second] = google.retries("job-1"), google.retries("job-2")
    assert first.at < second.at
    assert (first.method, first.path, first.body) == ("POST", "/v1/archiveJobs/job-1:retry", b"")
    assert first.headers["Authorization"].startswith("Bearer ")
    assert MARK not in repr(first)
    assert (google.counts["retry"], google.counts["token"]) == (2, 2)


def test_googles_errors_carry_what_a_program_may_act_on() -> None:
    def details(answer: Answer) -> dict[str, Any]:
        return {detail["@type"].rpartition(".")[2]: detail for detail in answer.body["error"].get("details", [])}

    until = datetime(2026, 11, 24, 18, 0, tzinfo=UTC)
    assert details(google_errors.already_exists("job-2"))["ErrorInfo"]["metadata"] == {"job_id": "job-2"}
    cooldown = details(google_errors.cooldown(until))["ErrorInfo"]
    assert cooldown["metadata"]["timestamp_after_24hrs"] == "2026-11-24T18:00:00Z"
    assert details(google_errors.rate_limited(45))["RetryInfo"]["retryDelay"] == "45s"
    assert set(details(google_errors.access_denied())) == {"DebugInfo"}
    assert details(google_errors.project_refused("BILLING_DISABLED"))["ErrorInfo"]["domain"] == "googleapis.com"


# Secret Manager


@pytest.fixture
async def secrets(project: str) -> AsyncIterator[SecretManager]:
    async with SecretManager(project) as secrets:
        yield secrets


@pytest.fixture
async def client(secrets: SecretManager) -> AsyncIterator[SecretManagerServiceAsyncClient]:
    async with grpc.aio.insecure_channel(secrets.address) as channel:
        yield SecretManagerServiceAsyncClient(transport=SecretManagerServiceGrpcAsyncIOTransport(channel=channel))


async def access(
    client: SecretManagerServiceAsyncClient, project: str, secret: str = "secret", version: str = "latest"
) -> Any:
    name = f"projects/{project}/secrets/{secret}/versions/{version}"
    return await client.access_secret_version(name=name, retry=None, timeout=5)


async def test_the_latest_version_is_read_with_its_checksum(
    secrets: SecretManager, client: SecretManagerServiceAsyncClient, project: str
) -> None:
    for payload in ("first", b"second"):
        secrets.add_version("secret", payload)
    response = await access(client, project)
    assert (response.payload.data, response.payload.data_crc32c) == (b"second", google_crc32c.value(b"second"))
    assert response.name.endswith("/secrets/secret/versions/2")
    assert (await access(client, project, version="1")).payload.data == b"first"
    assert [call.secret_id for call in secrets.accesses_to("secret")] == ["secret", "secret"]


@pytest.mark.parametrize("state", [State.DISABLED, State.DESTROYED])
async def test_a_disabled_or_destroyed_latest_version_is_no_secret(
    secrets: SecretManager, client: SecretManagerServiceAsyncClient, project: str, state: State
) -> None:
    for payload in ("first", "second"):
        secrets.add_version("secret", payload)
    secrets.set_state("secret", state)
    with pytest.raises(exceptions.FailedPrecondition, match=state.name):
        await access(client, project)
    assert (await access(client, project, version="1")).payload.data == b"first"
    secrets.set_state("secret", State.ENABLED)
    assert (await access(client, project)).payload.data == b"second"


async def test_what_is_not_there_is_not_found_and_another_projects_is_denied(
    secrets: SecretManager, client: SecretManagerServiceAsyncClient, project: str
) -> None:
    secrets.add_version("secret", "payload")
    for secret, version in (("absent", "latest"), ("secret", "2"), ("secret", "0")):
        with pytest.raises(exceptions.NotFound):
            await access(client, project, secret, version)
    with pytest.raises(exceptions.PermissionDenied):
        await access(client, "another-project")
    with pytest.raises(exceptions.InvalidArgument):
        await access(client, project, "a/b")


async def test_secret_manager_fails_as_scripted_and_then_recovers(
    secrets: SecretManager, client: SecretManagerServiceAsyncClient, project: str
) -> None:
    secrets.add_version("secret", "payload")
    secrets.script("secret", [Fault(), Fault(grpc.StatusCode.PERMISSION_DENIED, "no", delay_seconds=0.3)])
    with pytest.raises(exceptions.ServiceUnavailable):
        await access(client, project)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(exceptions.PermissionDenied):
        await access(client, project)
    assert loop.time() - begun >= 0.3
    assert (await access(client, project)).payload.data == b"payload"
    assert len(secrets.accesses) == 3


async def test_secret_manager_can_fall_silent(
    secrets: SecretManager, client: SecretManagerServiceAsyncClient, project: str
) -> None:
    secrets.script(ANY, [Silence()])
    with pytest.raises(exceptions.DeadlineExceeded):
        await client.access_secret_version(
            name=f"projects/{project}/secrets/secret/versions/latest", retry=None, timeout=0.3
        )
