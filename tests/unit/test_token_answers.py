"""Contract, section 9, the token endpoint and the secrets: every row, the canary, and the OAuth client's file."""

import codecs
import json
from typing import Any

import pytest

from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.domain.outcomes import Fault, Retried
from local.google_apis import MARK
from tests.unit.fakes import CLIENT, CLIENT_SECRET, SECRET_PREFIX, Answer, grpc_error
from tests.unit.instance import Instance, failed, verdict

AGAIN = "REAUTHORIZATION_REQUIRED"
SCOPE = "https://www.googleapis.com/auth/dataportability."
GRANTED: Answer = (200, {"access_token": f"{MARK}-access"})
INVALID_GRANT: Answer = (400, {"error": "invalid_grant"})
UNAUTHORIZED: Answer = (401, {"error": "unauthorized_client", "error_description": "Unauthorized"})


def token(**fields: Any) -> Answer:
    return 200, {"access_token": f"{MARK}-access"} | fields


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (token(), "retried as job-again"),
        (token(error=None, scope=""), "retried as job-again"),
        (token(scope=f"openid {SCOPE}chrome.history"), "retried as job-again"),
        (token(scope=None, expires_in="soon"), "retried as job-again"),
        (token(scope="openid email"), f"{AGAIN} NO_SCOPE"),
        (token(scope="https://www.googleapis.com/auth/dataportability"), f"{AGAIN} NO_SCOPE"),
        # transient
        ((408, b""), "transient"),
        ((429, {"error": "invalid_grant"}), "transient"),
        ((500, {"error": "invalid_grant"}), "transient"),
        ((502, b"<html>"), "transient"),
        ((400, {"error": "internal_failure"}), "transient"),
        ((400, {"error": "invalid_grant", "error_description": "internal_failure"}), "transient"),
        ((400, {"error": "server_error"}), "transient"),
        ((400, {"error": "temporarily_unavailable"}), "transient"),
        ((403, {"error": "rate_limit_exceeded"}), "transient"),
        ((403, {"error": "x", "error_description": "rate_limit_exceeded"}), "transient"),
        (NotSent("ClientConnectorError"), "transient"),
        (OutcomeUnknown("TimeoutError"), "transient"),
        # the user's
        (INVALID_GRANT, f"{AGAIN} INVALID_GRANT"),
        ((401, {"error": "invalid_grant", "error_subtype": "invalid_rapt"}), f"{AGAIN} INVALID_GRANT"),
        ((400, {"error": "invalid_grant", "access_token": None}), f"{AGAIN} INVALID_GRANT"),
        ((400, {"error": "admin_policy_enforced"}), f"{AGAIN} ADMIN_POLICY"),
        # ours, with the code
        (UNAUTHORIZED, "fault"),
        ((401, {"error": "invalid_client"}), "fault"),
        ((401, {"error": "deleted_client"}), "fault"),
        ((403, {"error": "org_internal"}), "fault"),
        ((400, {"error": "invalid_scope"}), "fault"),
        ((400, {"error": "invalid_request"}), "fault"),
        ((400, {"error": "something_new"}), "fault"),
        (token(error="invalid_grant"), "fault"),
        ((302, {"error": "invalid_grant"}), "fault"),
        # somebody else's
        ((302, b""), "fault"),
        ((307, b"<html>"), "fault"),
        ((400, b"<html>"), "fault"),
        ((403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}}), "fault"),
        ((404, b""), "fault"),
        ((407, b"<html>proxy"), "fault"),
        ((200, b"<html>Sign in"), "fault"),
        ((200, {}), "fault"),
        ((200, [{"access_token": "x"}]), "fault"),
        ((200, {"access_token": f"a {MARK}"}), "fault"),
        ((200, {"access_token": "x\r\nX-Own: header"}), "fault"),
        ((200, {"access_token": ""}), "fault"),
        ((200, {"access_token": "x" * 65_536}), "fault"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_answer_of_the_token_endpoint(instance: Instance, step: Any, expected: str) -> None:
    instance.http.token_script = [step]
    assert expected == await verdict(instance)
    assert expected.startswith("retried") is bool(instance.http.retries)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, {"error": "invalid_client"}), "the token endpoint oauth2.googleapis.com answered 401 invalid_client"),
        ((302, b""), "the token endpoint oauth2.googleapis.com answered 302, with a body that is not Google's"),
        ((400, {"error": f"{MARK} x"}), "the token endpoint oauth2.googleapis.com answered 400, with a body that"),
    ],
)
async def test_fault_of_ours_names_host_status_and_code(instance: Instance, answer: Answer, told: str) -> None:
    instance.http.token_script = [answer]
    outcome = await instance.deliver()
    assert isinstance(outcome, Fault)
    assert outcome.detail.startswith(told)


# unauthorized_client


@pytest.mark.parametrize(
    ("canary", "expected"),
    [
        (INVALID_GRANT, f"{AGAIN} OTHER_CLIENT"),
        (UNAUTHORIZED, "fault"),
        ((401, {"error": "invalid_client"}), "fault"),
        (GRANTED, "fault"),
        ((403, b"<html>"), "fault"),
        ((503, b""), "transient"),
        (OutcomeUnknown("TimeoutError"), "transient"),
    ],
)
async def test_canary_tells_whose_client_it_is(canary: Any, expected: str) -> None:
    instance = Instance(CANARY_CREDENTIAL="canary")
    instance.grant("canary", f"{MARK}-canary")
    instance.http.token_script = [UNAUTHORIZED, canary]
    assert expected == await verdict(instance)
    assert [f"{MARK}-refresh-alice", f"{MARK}-canary"] == [form["refresh_token"] for form in instance.http.token_forms]


async def test_canary_without_a_secret_blames_nobody() -> None:
    instance = Instance(CANARY_CREDENTIAL="canary")
    instance.http.token_script = [UNAUTHORIZED]
    assert "fault" == await verdict(instance)


async def test_client_that_worked_for_anybody_is_right(instance: Instance) -> None:
    instance.grant("bob", f"{MARK}-refresh-bob")
    assert isinstance(await instance.deliver(failed("bobs", userId="bob")), Retried)
    instance.http.token_script = [UNAUTHORIZED]
    assert f"{AGAIN} OTHER_CLIENT" == await verdict(instance)


async def test_client_that_is_another_now_is_not_proven(instance: Instance) -> None:
    instance.grant("bob", f"{MARK}-refresh-bob")
    await instance.deliver(failed("bobs", userId="bob"))
    instance.secrets.add(CLIENT_SECRET, json.dumps({"web": CLIENT | {"client_id": "another"}}))
    instance.http.token_script = [UNAUTHORIZED]
    assert "fault" == await verdict(instance)
    assert ["a-client", "another"] == [form["client_id"] for form in instance.http.token_forms[-2:]]


# secrets

KMS = "Cloud KMS key is not enabled."
KEY = "projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1 is in DISABLED state."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (grpc_error("NOT_FOUND"), f"{AGAIN} NO_SECRET"),
        (grpc_error("FAILED_PRECONDITION", "Secret Version [x/1] is in DISABLED state."), f"{AGAIN} SECRET_DISABLED"),
        (
            grpc_error("FAILED_PRECONDITION", "Secret Version [KMS/1] is in DESTROYED state."),
            f"{AGAIN} SECRET_DISABLED",
        ),
        (grpc_error("FAILED_PRECONDITION", KMS), "fault"),
        (grpc_error("FAILED_PRECONDITION", KEY), "fault"),
        (grpc_error("FAILED_PRECONDITION", "The CryptoKeyVersion used to encrypt this is destroyed"), "fault"),
        (grpc_error("FAILED_PRECONDITION", "Something else entirely."), "fault"),
        (grpc_error("PERMISSION_DENIED"), "fault"),
        (grpc_error("RESOURCE_EXHAUSTED"), "transient"),
        (grpc_error("UNAVAILABLE"), "transient"),
        (b"", f"{AGAIN} NO_REFRESH_TOKEN"),
        (b" \n", f"{AGAIN} NO_REFRESH_TOKEN"),
        (b'{"refresh_token": ""}', f"{AGAIN} NO_REFRESH_TOKEN"),
        (b'{"refresh_token": null}', f"{AGAIN} NO_REFRESH_TOKEN"),
        # what can be no refresh token
        (f'"{MARK}"', "fault"),
        (f"'{MARK}'", "fault"),
        (f"<{MARK}>", "fault"),
        (f'["{MARK}"]', "fault"),
        (f"REFRESH_TOKEN={MARK}", "fault"),
        (f"refresh_token: {MARK}", "fault"),
        (f"refresh-token={MARK}", "fault"),
        ("null", "fault"),
        (f"{MARK}\u00a0", "fault"),
        (f"\u2028{MARK}", "fault"),
        (f"\x1c{MARK}", "fault"),
        (f"{MARK}\n{MARK}", "fault"),
        (f"{MARK}\u200b", "fault"),
        (f"{MARK}\u00a0x", "fault"),
        (f"1%2F%2F{MARK}", "fault"),
        (f"1%2f%2f{MARK}", "fault"),
        (f"ya29.{MARK}", "fault"),
        (f"4/{MARK}", "fault"),
        (f"4%2F{MARK}", "fault"),
        (b"{}", "fault"),
        (f'{{"refreshToken": "{MARK}"}}', "fault"),
        (b'{"refresh_token": 5}', "fault"),
        (b'{"web": {}}', "fault"),
        (f'{{"refresh_token": "ya29.{MARK}"}}', "fault"),
        (b"{broken", "fault"),
        (b"\xff", "fault"),
        (b'{"refresh_token":' + b"[" * 100_000, "fault"),
        (f"{MARK}" * 200, "fault"),
        # what is one
        (f"1//{MARK}-Ab_~", "retried as job-again"),
        (f" {MARK}\r\n", "retried as job-again"),
        (codecs.BOM_UTF8 + f'{{"refresh_token": " {MARK}\\n", "token": null}}'.encode(), "retried as job-again"),
    ],
    ids=lambda value: str(value).replace(MARK, "…")[:50],
)
async def test_secret_of_a_refresh_token(instance: Instance, content: Any, expected: str) -> None:
    instance.replace_secret("alice", content)
    assert expected == await verdict(instance)
    if expected == "fault":
        assert [] == instance.http.requests  # Google is not asked with it


@pytest.mark.parametrize(
    ("canary", "expected"),
    [
        (None, "fault"),
        (MARK, f"{AGAIN} NO_SECRET"),
        (grpc_error("FAILED_PRECONDITION", "Secret Version [x/1] is in DISABLED state."), f"{AGAIN} NO_SECRET"),
        (grpc_error("UNAVAILABLE"), "transient"),
    ],
)
async def test_canary_tells_a_wrong_prefix_from_a_missing_secret(canary: Any, expected: str) -> None:
    instance = Instance(CANARY_CREDENTIAL="canary")
    instance.secrets.secrets.pop(f"{SECRET_PREFIX}alice")
    if canary:
        instance.replace_secret("canary", canary)
    assert expected == await verdict(instance)


async def test_canary_itself_comes_back_as_invalid_grant() -> None:
    instance = Instance(CANARY_CREDENTIAL="canary")
    instance.grant("canary", f"{MARK}-canary")
    instance.http.token_script = [INVALID_GRANT]
    assert f"{AGAIN}/INVALID_GRANT" == await instance.reason(failed(userId="smoke", credentialId="canary"))


@pytest.mark.parametrize(
    ("prefix", "name", "location"),
    [
        ("token-", "projects/a-project/secrets/token-alice/versions/latest", ""),
        ("projects/other/secrets/token-", "projects/other/secrets/token-alice/versions/latest", ""),
        (
            "projects/other/locations/europe-west3/secrets/t-",
            "projects/other/locations/europe-west3/secrets/t-alice/versions/latest",
            "europe-west3",
        ),
    ],
)
async def test_secret_prefix_may_be_a_full_name(prefix: str, name: str, location: str) -> None:
    instance = Instance(REFRESH_TOKEN_SECRET_PREFIX=prefix)
    instance.secrets.add(name.split("/")[-3], f"{MARK}-refresh")
    assert isinstance(await instance.deliver(), Retried)
    assert (name in instance.secrets.names, location in instance.clients.locations) == (True, True)


# the OAuth client's file


def client(**fields: Any) -> str:
    return json.dumps({"web": CLIENT | fields})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"web":{}}',
        b'{"web":null}',
        client().encode().replace(b"a-client", b"\xff"),
        b'{"theirs":' + b"[" * 100_000,
        grpc_error("NOT_FOUND"),
        grpc_error("FAILED_PRECONDITION", "Secret Version [x/1] is in DISABLED state."),
        grpc_error("PERMISSION_DENIED"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_broken_client_file_is_a_fault_of_ours(instance: Instance, payload: Any) -> None:
    instance.secrets.secrets[CLIENT_SECRET] = payload if isinstance(payload, Exception) else [payload]
    assert "fault" == await verdict(instance)
    assert [] == instance.http.requests


@pytest.mark.parametrize(
    ("uri", "hosts", "taken"),
    [
        ("https://oauth2.googleapis.com/token", "", True),
        ("https://oauth2.eu.googleapis.com:443/token", "", True),
        ("https://accounts.google.com/o/oauth2/token", "", True),
        ("http://localhost:8080/token", "", True),
        ("http://127.0.0.1:1/token", "", True),
        ("http://[::1]:1/token", "", True),
        ("https://OAuth2.GoogleAPIs.com/token", "", True),
        ("https://oauth.example/token", "oauth.example", True),
        ("https://oauth.example/token", "a.example, OAuth.Example", True),
        ("https://www.googleapis.com/oauth2/v4/token", "", True),
        ("https://oauth.example/any/path?query", "oauth.example", True),
        ("https://storage.googleapis.com/upload/storage/v1/b/evil/o?uploadType=media&name=token", "", False),
        ("https://storage.googleapis.com/upload/storage/v1/b/evil/o/token", "", False),
        ("https://oauth2.googleapis.com/token?name=token", "", False),
        ("https://evil.example/token", "", False),
        ("https://evil.example/token", "oauth.example", False),
        ("https://sub.oauth.example/token", "oauth.example", False),
        ("http://oauth.example/token", "oauth.example", False),
        ("http://oauth2.googleapis.com/token", "", False),
        ("https://googleapis.com.evil.example/token", "", False),
        ("https://evilgoogleapis.com/token", "", False),
        ("https://oauth2.googleapis.com@evil.example/token", "", False),
        ("https://localhost@evil.example/", "", False),
        ("https://oauth2.googleapis.com\\@evil.example/", "", False),
        ("https://oauth2.googleapis.com:x/token", "", False),
        ("https://[x", "", False),
        ("file:///etc/passwd", "", False),
        ("", "", False),
    ],
)
async def test_token_hosts_bound_where_a_refresh_token_goes(uri: str, hosts: str, taken: bool) -> None:
    instance = Instance(TOKEN_HOSTS=hosts)
    instance.secrets.add(CLIENT_SECRET, client(token_uri=uri))
    assert ("retried as job-again" if taken else "fault") == await verdict(instance)
    assert taken or not instance.http.requests


async def test_installed_client_does_too(instance: Instance) -> None:
    instance.secrets.add(CLIENT_SECRET, codecs.BOM_UTF8 + json.dumps({"installed": CLIENT}).encode())
    assert isinstance(await instance.deliver(), Retried)
    assert [
        {
            "grant_type": "refresh_token",
            "client_id": "a-client",
            "client_secret": f"{MARK}-client",
            "refresh_token": f"{MARK}-refresh-alice",
        }
    ] == instance.http.token_forms
