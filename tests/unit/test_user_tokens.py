"""Access tokens: fetched once for all who wait, cached while they live, and got from the secret each time."""

import asyncio
import itertools
import json
from typing import Any

import pytest

from handlers.domain.outcomes import Rejected, Retried, RetryLater, Transient
from handlers.google.single_flight import SingleFlight
from handlers.google.user_tokens import UserTokens
from handlers.ports import AccessToken
from local.google_apis import MARK
from tests.unit.fakes import CLIENT, CLIENT_SECRET, SECRET_PREFIX, Answer
from tests.unit.instance import Instance, LogLines, failed

INVALID_GRANT: Answer = (400, {"error": "invalid_grant"})
ALICE = f"{SECRET_PREFIX}alice"


def tokens(instance: Instance) -> UserTokens:
    found = instance.container.tokens
    assert isinstance(found, UserTokens)
    return found


async def get(instance: Instance, credential: str = "alice") -> AccessToken:
    token = await tokens(instance).get(credential)
    assert isinstance(token, AccessToken)
    return token


def granted(name: str, **fields: Any) -> Answer:
    return 200, {"access_token": f"{MARK}-{name}"} | fields


async def test_flight_that_has_finished_is_joined_by_nobody() -> None:
    """Its result is older than whoever asks now, even before the loop has told that it is done."""
    flights, numbers = SingleFlight(), itertools.count()

    async def fetch() -> int:
        return next(numbers)

    first = flights.join("key", fetch)
    await asyncio.sleep(0)  # it runs, and what it calls when it is done comes after this
    assert (0, None) == (first.result(), flights.running("key"))
    assert 1 == await flights.join("key", fetch)


async def test_token_of_the_newer_secret_is_got_whatever_others_have_cached_since(instance: Instance) -> None:
    used = await get(instance)
    await tokens(instance).replace("alice", used)  # another delivery's, of the same secret
    instance.grant("alice", f"{MARK}-refresh-newer")
    other = await tokens(instance).replace_if_newer("alice", used)
    assert isinstance(other, AccessToken)
    assert other.secret_version != used.secret_version


async def test_token_of_the_newer_secret_is_not_shared_with_an_earlier_look(instance: Instance) -> None:
    used, asked, may = await get(instance), asyncio.Event(), asyncio.Event()

    async def early() -> Answer:
        asked.set()
        await may.wait()
        return granted("early")

    instance.http.token_script = [early, granted("late")]
    looking = asyncio.create_task(tokens(instance).replace("alice", used))
    await asked.wait()
    instance.grant("alice", f"{MARK}-refresh-newer")
    newer = asyncio.create_task(tokens(instance).replace_if_newer("alice", used))
    for _ in range(10):
        await asyncio.sleep(0)
    may.set()
    await looking
    other = await newer
    assert isinstance(other, AccessToken)
    assert (f"{MARK}-late", True) == (other.value, other.secret_version != used.secret_version)


async def test_token_is_cached_while_it_lives(instance: Instance) -> None:
    assert {f"{MARK}-access-1"} == {(await get(instance)).value for _ in range(3)}
    assert [CLIENT_SECRET, ALICE] == sorted(instance.secrets.reads)


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (3599, 3479),
        (None, 3479),
        ("3599", 3479),
        (240, 120),
        (100, 50),
        (0, 0),
        (-5, 0),
        (1e308, 3479),
        (10**400, 3479),
        ("inf", 3479),
        ("nan", 3479),
        ([], 3479),
    ],
    ids=str,
)
async def test_token_lifetime_keeps_a_margin(instance: Instance, expires_in: Any, seconds: float) -> None:
    instance.http.token_script = [granted("token", expires_in=expires_in)]
    begun = asyncio.get_running_loop().time()
    token = await get(instance)
    assert begun + seconds <= token.expires_at <= asyncio.get_running_loop().time() + seconds


async def test_token_margin_is_above_the_handler_deadline() -> None:
    instance = Instance(HANDLER_DEADLINE_SECONDS="300", CLAIM_LEASE_SECONDS="400")
    begun = asyncio.get_running_loop().time()
    assert 3599 - 300 >= (await get(instance)).expires_at - begun - 1


async def test_expired_token_reads_the_secret_anew(instance: Instance) -> None:
    instance.http.token_script = [granted("short", expires_in=0), granted("next")]
    await get(instance)
    instance.grant("alice", f"{MARK}-refresh-new")
    assert f"{MARK}-next" == (await get(instance)).value
    assert f"{MARK}-refresh-new" == instance.http.token_forms[-1]["refresh_token"]
    assert 2 == instance.secrets.reads.count(ALICE)


async def test_replaced_token_is_not_handed_out_again(instance: Instance) -> None:
    used = await get(instance)
    assert f"{MARK}-access-2" == (await replaced(instance, used)).value
    assert f"{MARK}-access-2" == (await replaced(instance, used)).value
    assert f"{MARK}-access-2" == (await get(instance)).value


async def replaced(instance: Instance, used: AccessToken) -> AccessToken:
    token = await tokens(instance).replace("alice", used)
    assert isinstance(token, AccessToken)
    return token


async def test_replaced_token_is_gone_though_there_is_no_other(instance: Instance) -> None:
    used = await get(instance)
    instance.http.token_script = [(503, b"")]
    with pytest.raises(Transient):
        await tokens(instance).replace("alice", used)
    assert tokens(instance).cached("alice") is None


async def test_many_users_read_the_client_file_once(instance: Instance) -> None:
    for number in range(20):
        instance.grant(f"user-{number}", f"{MARK}-refresh-{number}")
    got = await asyncio.gather(*(get(instance, f"user-{number}") for number in range(20)))
    assert (20, 1) == (len({token.value for token in got}), instance.secrets.reads.count(CLIENT_SECRET))


async def test_shared_fetch_survives_a_cancelled_waiter(instance: Instance) -> None:
    first, second = (asyncio.create_task(get(instance)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert f"{MARK}-access-1" == (await second).value
    assert 1 == len(instance.http.token_forms)


async def test_shared_fetch_shares_a_fault(instance: Instance) -> None:
    instance.http.token_script = [(503, b""), granted("next")]
    results = await asyncio.gather(*(get(instance) for _ in range(5)), return_exceptions=True)
    assert [Transient] * 5 == [type(result) for result in results]
    assert (1, f"{MARK}-next") == (len(instance.http.token_forms), (await get(instance)).value)


async def test_shared_rejection_is_looked_up_once_more(instance: Instance) -> None:
    """A delivery that came after the user consented is not told the rejection of one that came before."""
    asked, may = asyncio.Event(), asyncio.Event()

    async def reject_late() -> Answer:
        asked.set()
        await may.wait()
        return INVALID_GRANT

    instance.http.token_script = [reject_late, granted("after-consent")]
    first = asyncio.create_task(instance.deliver(failed("first")))
    await asked.wait()
    instance.grant("alice", f"{MARK}-refresh-after-consent")
    second = asyncio.create_task(instance.deliver(failed("second")))
    await asyncio.sleep(0)
    may.set()
    assert (Rejected, Retried) == (type(await first), type(await second))
    assert f"{MARK}-refresh-after-consent" == instance.http.token_forms[-1]["refresh_token"]


async def test_many_rejections_at_once_cost_two_refreshes(instance: Instance) -> None:
    instance.http.token_script = [INVALID_GRANT]
    outcomes = await asyncio.gather(*(instance.deliver(failed(f"job-{number}")) for number in range(10)))
    assert {Rejected} == {type(outcome) for outcome in outcomes}
    assert (2, 2) == (instance.secrets.reads.count(ALICE), len(instance.http.token_forms))


async def test_deadline_of_one_delivery_takes_no_token_from_another() -> None:
    instance, may = Instance(HANDLER_DEADLINE_SECONDS="0.3"), asyncio.Event()

    async def slow() -> Answer:
        await may.wait()
        return granted("slow")

    instance.http.token_script = [slow]
    hasty = asyncio.create_task(instance.deliver())
    await asyncio.sleep(0)
    patient = asyncio.create_task(get(instance))
    assert isinstance(await hasty, RetryLater)
    may.set()
    assert f"{MARK}-slow" == (await patient).value


@pytest.mark.parametrize(
    "answer", [(401, {"error": "invalid_client"}), INVALID_GRANT, (401, {"error": "deleted_client"})]
)
async def test_cached_client_file_is_read_anew_before_a_verdict(instance: Instance, answer: Answer) -> None:
    instance.grant("bob", f"{MARK}-refresh-bob")
    await get(instance)
    instance.secrets.add(CLIENT_SECRET, json.dumps({"web": CLIENT | {"client_secret": f"{MARK}-rotated"}}))
    instance.http.token_script = [answer, granted("new")]
    assert f"{MARK}-new" == (await get(instance, "bob")).value
    assert f"{MARK}-rotated" == instance.http.token_forms[-1]["client_secret"]
    assert 1 == instance.secrets.reads.count(f"{SECRET_PREFIX}bob")


async def test_unchanged_client_file_is_not_tried_twice(instance: Instance) -> None:
    await get(instance)
    instance.grant("bob", f"{MARK}-refresh-bob")
    instance.http.token_script = [INVALID_GRANT]
    await tokens(instance).get("bob")
    assert 2 == len(instance.http.token_forms)


@pytest.mark.parametrize("answers", [[(404, b"<html>")], [(503, b"")]])
async def test_mended_client_file_counts_at_the_next_delivery(instance: Instance, answers: list[Answer]) -> None:
    instance.http.token_script = [*answers, granted("new")]
    await instance.deliver()
    instance.secrets.add(CLIENT_SECRET, json.dumps({"web": CLIENT | {"client_id": "mended"}}))
    assert isinstance(await instance.deliver(), Retried)
    assert "mended" == instance.http.token_forms[-1]["client_id"]


async def test_new_refresh_token_is_warned_of_and_not_told(instance: Instance, logged: LogLines) -> None:
    instance.http.token_script = [granted("access", refresh_token=f"{MARK}-rotated")]
    await get(instance)
    assert ["WARNING"] == [line["severity"] for line in logged.lines]


async def test_token_redacts_itself(instance: Instance) -> None:
    task = asyncio.create_task(tokens(instance).get("alice"))
    token = await task
    assert MARK not in f"{token!r} {task!r} {tokens(instance)!r} {token}"
