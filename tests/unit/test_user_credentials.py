"""Rules of access tokens: fetched once, kept while they live, and every error put to the right account."""

import asyncio
import codecs
import json
from typing import Any

import pytest
from rich.pretty import pretty_repr

from handlers.outcomes import Fault, Misconfigured, Reason, Refused, Unavailable
from handlers.ports import NoAnswer, NotSent
from handlers.secret_store import NoSecret
from handlers.telemetry import log
from tests.unit.world import CLIENT_FILE, World


async def fetch(world: World, credential: str = "alice", **options: Any) -> str:
    token = await asyncio.shield(world.credentials.begin(credential, **options))
    return token.value


async def fault(world: World) -> Fault:
    with pytest.raises(Fault) as caught:
        await fetch(world)
    return caught.value


async def test_the_refresh_request_names_no_scope() -> None:
    world = World()
    await fetch(world)
    assert world.http.token_forms == [
        {
            "grant_type": ["refresh_token"],
            "client_id": ["a-client"],
            "client_secret": ["made-up-secret-client"],
            "refresh_token": ["made-up-secret-refresh-alice"],
        }
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b"made-up-secret-refresh-alice",
        b" made-up-secret-refresh-alice\n",
        b'{"refresh_token":"made-up-secret-refresh-alice","token":null}',
        b'\xef\xbb\xbf{"refresh_token":"made-up-secret-refresh-alice"}',
    ],
)
async def test_a_refresh_token_is_stored_bare_or_in_json(payload: bytes) -> None:
    world = World()
    world.secrets.content["token-alice"] = payload
    await fetch(world)
    assert world.http.token_forms[0]["refresh_token"] == ["made-up-secret-refresh-alice"]


async def test_a_desktop_client_file_does_too() -> None:
    world = World()
    world.secrets.content["client"] = json.dumps({"installed": CLIENT_FILE["web"]}).encode()
    assert await fetch(world) == "made-up-secret-access-1"


async def test_a_token_is_kept_while_it_lives() -> None:
    world = World()
    world.http.token_script = [(200, {"access_token": "made-up-secret-access-1", "expires_in": None})]
    assert [await fetch(world) for _ in range(3)] == ["made-up-secret-access-1"] * 3
    assert 1 == len(world.http.token_forms)
    assert sorted(world.secrets.reads) == ["client", "token-alice"]


async def test_an_expired_token_is_refreshed_without_another_secret_access() -> None:
    world = World()
    world.http.token_script = [(200, {"access_token": "short", "expires_in": 0}), (200, {"access_token": "next"})]
    assert [await fetch(world) for _ in range(2)] == ["short", "next"]
    assert sorted(world.secrets.reads) == ["client", "token-alice"]


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [(3599, 3479), (None, 3479), (240, 120), (100, 50)],
    ids=["long", "unsaid", "short", "shorter"],
)
async def test_a_token_is_used_until_two_minutes_before_its_end_or_for_half_of_a_short_life(
    expires_in: float | None, seconds: float
) -> None:
    world, now = World(), asyncio.get_running_loop().time
    world.http.token_script = [(200, {"access_token": "token", "expires_in": expires_in})]
    begun = now()
    token = await asyncio.shield(world.credentials.begin("alice"))
    assert begun + seconds <= token.expires_at <= now() + seconds


async def test_a_refused_token_is_not_handed_out_again_but_a_newer_one_is() -> None:
    world = World()
    refused = await world.credentials.begin("alice")
    assert await fetch(world, refused=refused) == "made-up-secret-access-2"
    assert await fetch(world, refused=refused) == "made-up-secret-access-2"


async def test_a_refused_token_is_not_handed_out_though_there_is_no_other() -> None:
    world = World()
    refused = await world.credentials.begin("alice")
    world.http.token_script = [(503, b"")]
    with pytest.raises(Unavailable):
        await fetch(world, refused=refused)
    with pytest.raises(Unavailable):
        await fetch(world)


async def test_asked_anew_the_secret_is_read_though_a_token_is_at_hand() -> None:
    world = World()
    await fetch(world)
    world.secrets.content["token-alice"] = b"made-up-secret-refresh-after-consent"
    token = await world.credentials.begin("alice", anew=True)
    assert "made-up-secret-refresh-after-consent" == token.refresh_token
    assert token == await world.credentials.begin("alice")


async def test_many_users_at_once_read_the_client_file_once() -> None:
    world = World()
    for number in range(20):
        world.secrets.content[f"token-{number}"] = b"made-up-secret-refresh"
    await asyncio.gather(*(fetch(world, str(number)) for number in range(20)))
    assert world.secrets.reads.count("client") == 1


async def test_a_shared_fetch_goes_on_when_one_who_waits_gives_up() -> None:
    world = World()
    first, second = (asyncio.create_task(fetch(world)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "made-up-secret-access-1"
    assert len(world.http.token_forms) == 1


async def test_those_who_wait_together_share_a_failure_and_the_next_one_tries_anew() -> None:
    world = World()
    world.http.token_script = [(503, b""), (200, {"access_token": "next"})]
    results = await asyncio.gather(*(fetch(world) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == 5
    assert (len(world.http.token_forms), await fetch(world)) == (1, "next")


async def test_a_refusal_is_not_shared_with_who_came_after_the_user_consented() -> None:
    world = World()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def refuse_late() -> Any:
        asked.set()
        await answered.wait()
        return 400, {"error": "invalid_grant"}

    world.http.token_script = [refuse_late, (200, {"access_token": "after-consent"})]
    first = asyncio.create_task(fetch(world))
    await asked.wait()
    world.secrets.content["token-alice"] = b"made-up-secret-refresh-after-consent"
    second = asyncio.create_task(fetch(world))
    await asyncio.sleep(0)
    answered.set()
    with pytest.raises(Refused):
        await first
    assert "after-consent" == await second
    assert ["made-up-secret-refresh-after-consent"] == world.http.token_forms[-1]["refresh_token"]


async def test_ten_jobs_of_a_user_without_consent_cost_two_reads_and_two_refreshes() -> None:
    world = World()
    world.http.token_script = [(400, {"error": "invalid_grant"})]
    results = await asyncio.gather(*(fetch(world) for _ in range(10)), return_exceptions=True)
    assert 10 == sum(isinstance(result, Refused) for result in results)
    assert (2, 2) == (world.secrets.reads.count("token-alice"), len(world.http.token_forms))


@pytest.mark.parametrize("error", ["invalid_grant", "admin_policy_enforced"])
async def test_a_grant_that_is_gone_asks_for_consent(error: str) -> None:
    world = World()
    world.http.token_script = [(400, {"error": error, "error_description": "words", "access_token": None})]
    refusal = await fault(world)
    assert isinstance(refusal, Refused)
    assert refusal.reason == Reason.REAUTHORIZATION_REQUIRED


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"error": "invalid_client"}),
        (400, {"error": "unauthorized_client"}),
        (400, {"error": "invalid_scope"}),
        (400, {"error": "invalid_request"}),
        (400, {"error": "unsupported_grant_type"}),
        (400, {"error": "something_new"}),
        (302, {}),
        (302, {"error": "invalid_grant"}),
        (403, {"error": {"code": 403, "status": "PERMISSION_DENIED"}}),
    ],
)
async def test_a_refused_client_or_request_is_ours(answer: Any) -> None:
    world = World()
    world.http.token_script = [answer]
    assert isinstance(await fault(world), Misconfigured)


@pytest.mark.parametrize(
    "answer",
    [
        (408, {}),
        (429, {"error": "invalid_grant"}),
        (500, {"error": "invalid_grant"}),
        (502, b"<html>"),
        (503, b""),
        (200, b"not JSON"),
        (200, {"no": "token"}),
        (400, b"<html>"),
        (200, {"access_token": "a token\r\nX-Own: header"}),
        (400, {"error": "temporarily_unavailable"}),
        (403, {"error": "rate_limit_exceeded"}),
        NoAnswer("TimeoutError"),
    ],
)
async def test_a_token_endpoint_that_fails_or_talks_nonsense_is_unavailable(answer: Any) -> None:
    world = World()
    world.http.token_script = [answer]
    assert isinstance(await fault(world), Unavailable)


@pytest.mark.parametrize("error", ["invalid_grant", "something_new", {"code": 0}])
async def test_a_token_is_a_token_whatever_stands_beside_it(error: Any) -> None:
    world = World()
    world.http.token_script = [(200, {"access_token": "token", "error": error})]
    assert "token" == await fetch(world)


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        ("https://www.googleapis.com/auth/dataportability.chrome.history openid", True),
        ("openid email", False),
        ("", False),
    ],
)
async def test_a_grant_without_a_data_portability_scope_costs_no_retry(scope: str, granted: bool) -> None:
    world = World()
    world.http.token_script = [(200, {"access_token": "token", "scope": scope})]
    if granted:
        assert await fetch(world) == "token"
    else:
        assert isinstance(await fault(world), Refused)


async def test_before_a_user_is_asked_for_consent_a_remembered_refresh_token_is_read_again() -> None:
    world = World()
    world.http.token_script = [
        (200, {"access_token": "old", "expires_in": 0}),
        (400, {"error": "invalid_grant"}),
        (200, {"access_token": "new"}),
    ]
    await fetch(world)
    world.secrets.content["token-alice"] = b"made-up-secret-refresh-after-new-consent"
    assert await fetch(world) == "new"
    assert world.http.token_forms[-1]["refresh_token"] == ["made-up-secret-refresh-after-new-consent"]


async def test_a_remembered_refresh_token_is_read_again_though_the_client_file_was_read_just_now() -> None:
    world = World()
    world.http.token_script = [
        (200, {"access_token": "old", "expires_in": 0}),
        (503, b""),  # after which the client file is read anew
        (400, {"error": "invalid_grant"}),
        (200, {"access_token": "new"}),
    ]
    await fetch(world)
    assert isinstance(await fault(world), Unavailable)
    world.secrets.content["token-alice"] = b"made-up-secret-refresh-after-new-consent"
    assert "new" == await fetch(world)
    assert 2 == world.secrets.reads.count("client")


async def test_a_rotated_client_secret_is_read_again_before_anyone_is_alerted() -> None:
    world = World()
    await fetch(world)
    world.secrets.content["token-bob"] = b"made-up-secret-refresh-bob"
    rotated = {"web": CLIENT_FILE["web"] | {"client_secret": "rotated"}}
    world.secrets.content["client"] = json.dumps(rotated).encode()
    world.http.token_script = [(401, {"error": "invalid_client"}), (200, {"access_token": "new"})]
    assert await fetch(world, "bob") == "new"
    assert world.http.token_forms[-1]["client_secret"] == ["rotated"]


@pytest.mark.parametrize("answer", [(401, {"error": "deleted_client"}), (404, b"<html>"), NotSent("no such host")])
async def test_a_client_file_that_was_put_right_is_used_from_the_next_delivery_on(answer: Any) -> None:
    world = World()
    world.http.token_script = [answer, (200, {"access_token": "new"})]
    await fault(world)
    right = {"web": CLIENT_FILE["web"] | {"client_id": "another-client"}}
    world.secrets.content["client"] = codecs.BOM_UTF8 + json.dumps(right).encode()
    assert "new" == await fetch(world)
    assert ["another-client"] == world.http.token_forms[-1]["client_id"]


async def test_what_another_client_got_is_tried_with_todays_client_before_anyone_is_told() -> None:
    world = World()
    await fetch(world)
    world.secrets.content["token-bob"] = b"made-up-secret-refresh-bob"
    renewed = {"web": CLIENT_FILE["web"] | {"client_secret": "made-up-secret-of-today"}}
    world.secrets.content["client"] = json.dumps(renewed).encode()
    world.http.token_script = [(400, {"error": "invalid_grant"}), (200, {"access_token": "new"})]
    assert await fetch(world, "bob") == "new"
    assert ["made-up-secret-of-today"] == world.http.token_forms[-1]["client_secret"]
    assert 1 == world.secrets.reads.count("token-bob")


async def test_secrets_that_have_not_changed_are_not_tried_twice() -> None:
    world = World()
    world.http.token_script = [
        (200, {"access_token": "old", "expires_in": 0}),
        (400, {"error": "invalid_grant"}),
    ]
    await fetch(world)
    await fault(world)
    assert len(world.http.token_forms) == 2


async def test_a_refresh_token_that_was_read_just_now_is_not_read_again() -> None:
    world = World()
    world.secrets.content["token-bob"] = b"made-up-secret-refresh-bob"
    await fetch(world, "bob")
    world.http.token_script = [(400, {"error": "invalid_grant"})]
    await fault(world)
    assert 1 == world.secrets.reads.count("token-alice")


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (NoSecret("not there"), Refused),
        (NoSecret("disabled or destroyed"), Refused),
        (b"  ", Refused),
        (b'{"refresh_token": null}', Refused),
        (b"{}", Refused),
        (b"{broken", Misconfigured),
        (b'{"refresh_token": 5}', Misconfigured),
        (b"\xff", Misconfigured),
        (Unavailable("down"), Unavailable),
        (Misconfigured("no role"), Misconfigured),
    ],
)
async def test_a_missing_refresh_token_asks_for_consent_and_a_broken_secret_is_ours(payload: Any, kind: type) -> None:
    world = World()
    world.secrets.content["token-alice"] = payload
    assert kind is type(await fault(world))


@pytest.mark.parametrize(
    "payload",
    [
        NoSecret("not there"),
        b"",
        b"[]",
        b"{}",
        b'{"web":{}}',
        json.dumps(CLIENT_FILE).encode().replace(b"a-client", b"\xff"),
        b'{"theirs":' + b"[" * 100_000,
        json.dumps({"web": CLIENT_FILE["web"] | {"token_uri": "http://oauth2.example/token"}}).encode(),
        json.dumps({"web": CLIENT_FILE["web"] | {"token_uri": "http://localhost@oauth2.example/"}}).encode(),
    ],
)
async def test_a_client_file_that_is_missing_broken_or_unsafe_is_ours(payload: Any) -> None:
    world = World()
    world.secrets.content["client"] = payload
    assert isinstance(await fault(world), Misconfigured)
    assert world.http.requests == []


@pytest.mark.parametrize("error", ["made-up-secret-refresh-alice", "made-up-secret-access-1 made-up-secret-client"])
async def test_no_fault_and_no_value_tells_a_secret(error: str, caplog: pytest.LogCaptureFixture) -> None:
    log.addHandler(caplog.handler)
    world = World()
    token = await world.credentials.begin("alice")
    world.http.token_script = [(400, {"error": error, "error_description": error})]
    world.secrets.content["token-alice"] = b"made-up-secret-refresh-bob"
    with pytest.raises(Misconfigured) as caught:
        await asyncio.shield(world.credentials.begin("alice", refused=token))
    log.removeHandler(caplog.handler)
    values = (token, world.credentials._client)
    told = f"{caught.value!r} {values!r} {pretty_repr(values)} {caplog.text}"
    for secret in ("made-up-secret-refresh-alice", "made-up-secret-access-1", "made-up-secret-client"):
        assert secret not in told
