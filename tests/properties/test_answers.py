"""Any status and body from Google has exactly one meaning, and nobody is told what stood in it."""

import asyncio
import json
import random
from datetime import timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from handlers.outcomes import (
    Broken,
    Deferred,
    Fault,
    Misconfigured,
    NotNow,
    Reason,
    Refused,
    Rejected,
    Retried,
    Unavailable,
)
from handlers.portability import answer_of
from handlers.ports import AccessToken, Cooldown, NewJob, TokenRefused, Unknown
from local.google_apis import MARK
from tests.properties.inputs import (
    QUOTED,
    details,
    google_bodies,
    google_errors,
    job_ids,
    oauth_bodies,
    refused,
    statuses,
)
from tests.unit.world import NOW, World, failed


@given(statuses, google_bodies)
def test_any_answer_has_one_meaning_that_its_status_allows(status: int, body: bytes) -> None:
    answer = answer_of(status, body, NOW)
    match answer:
        case NewJob(job_id):
            assert status in (200, 409)
            assert job_id
        case Cooldown(until):
            assert status in (400, 403, 409, 429)
            assert NOW < until <= NOW + timedelta(days=31)
        case TokenRefused():
            assert status == 401
        case Unknown():
            assert status in (200, 408, 499) or not 300 <= status < 500
        case Misconfigured():
            assert 300 <= status < 500
        case Unavailable():
            assert 400 <= status < 500
        case Refused(reason=reason):
            assert 400 <= status < 500
            assert reason in (Reason.ACCESS_DENIED, Reason.JOB_NOT_FOUND, Reason.JOB_NOT_RETRYABLE)
        case _:
            raise AssertionError(answer)
    if not isinstance(answer, NewJob):
        refused()
        assert QUOTED not in f"{answer!r} {answer}"


@given(statuses, google_errors, st.randoms())
def test_the_order_of_an_errors_details_means_nothing(status: int, content: dict, chance: random.Random) -> None:  # type: ignore[type-arg]
    kinds = [str(each.get("@type")) for each in content["error"]["details"] if isinstance(each, dict)]
    if len(kinds) == len(set(kinds)):  # each type occurs at most once, https://google.aip.dev/193
        first = answer_of(status, json.dumps(content).encode(), NOW)
        chance.shuffle(content["error"]["details"])
        assert repr(first) == repr(answer_of(status, json.dumps(content).encode(), NOW))


@given(statuses, google_bodies)
def test_any_answer_ends_a_delivery_in_one_outcome_and_the_ledger_in_its_state(status: int, body: bytes) -> None:
    assume(MARK.encode() not in body)  # a new job's id is no secret
    world = World()
    world.script("job", (status, body))
    outcome = asyncio.run(world.deliver(failed()))
    stored = asyncio.run(world.store.load("job"))
    assert stored
    states = {Retried: "retried", Rejected: "rejected", Deferred: "deferred", NotNow: "open", Broken: "open"}
    assert states[type(outcome)] == stored.entry.state
    assert (1 if outcome.status == 204 and not isinstance(outcome, Deferred) else 0) == len(
        world.retried.messages + world.rejected.messages
    )
    assert len(world.http.retries) <= 1 + (status == 401)
    told = f"{outcome!r} {world.retried.messages} {world.rejected.messages} {world.journal.fields} {stored.entry!r}"
    if not isinstance(outcome, Retried):
        assert QUOTED not in told


@given(statuses, oauth_bodies)
def test_any_answer_of_the_token_endpoint_is_a_token_or_a_fault_of_whom_it_names(status: int, body: bytes) -> None:
    world = World()
    world.http.token_script = [(status, body)]

    async def ask() -> AccessToken | Fault:
        try:
            return await world.credentials.begin("alice")
        except Fault as fault:
            return fault

    found, said = asyncio.run(ask()), body.decode(errors="replace")
    assert MARK not in f"{found!r} {found}"
    match found:
        case AccessToken(value):
            assert status == 200
            assert value == json.loads(said)["access_token"]
        case Refused():  # the user is told only what the answer said of the user's grant
            refused()
            assert status == 200 or 400 <= status < 500
            assert json.loads(said).get("error") in ("invalid_grant", "admin_policy_enforced") or "scope" in said
        case _:
            refused()


@given(details, job_ids)
def test_a_job_is_adopted_only_where_google_names_one(errors: list, job: str) -> None:  # type: ignore[type-arg]
    content = {"error": {"status": "ALREADY_EXISTS", "details": errors}}
    match answer_of(409, json.dumps(content).encode(), NOW):
        case NewJob(job_id):
            assert any(
                isinstance(each, dict)
                and isinstance(each.get("metadata"), dict)
                and str(each["metadata"].get("job_id", "")).removeprefix("archiveJobs/") == job_id
                for each in errors
            )
