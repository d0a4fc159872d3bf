"""Any status and body: nobody is rejected without Google's word, and nobody is told what stood in an answer."""

import asyncio
import json
import random
import re
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from handlers.domain.outcomes import Deferred, Fault, Outcome, Rejected, Retried, RetryLater
from local.google_apis import MARK
from tests.properties.inputs import (
    QUOTED,
    answers,
    details,
    errors,
    foreign,
    is_own,
    job_ids,
    oauth_bodies,
    rejected,
    statuses,
)
from tests.unit.fakes import Answer
from tests.unit.instance import Instance

STATES = {Retried: "retried", Rejected: "rejected", Deferred: "deferred", RetryLater: "open", Fault: "open"}


def deliver(*steps: Answer, token: Any = None) -> tuple[Instance, Outcome]:
    instance = Instance()
    instance.script("job", *steps)
    instance.http.token_script = [token] if token else []
    return instance, asyncio.run(instance.deliver())


@given(foreign)
def test_foreign_answer_rejects_nobody(answer: tuple[int, bytes]) -> None:
    rejected()
    instance, outcome = deliver(answer)
    assert isinstance(outcome, RetryLater | Fault)
    assert ([], 1) == (instance.topics.messages, len(instance.http.retries))


@given(
    st.lists(foreign, min_size=1, max_size=3),
    st.lists(st.integers(10, 900), min_size=3, max_size=12),
    st.integers(0, 2),
)
def test_storm_of_foreign_answers_within_an_hour_rejects_nobody(
    storm: list[Answer], pauses: list[int], attempt: int
) -> None:
    """Of the API and of the token endpoint, at whatever times Pub/Sub delivers again."""

    async def run() -> None:
        instance, passed = Instance(), 0
        instance.script("job", *storm)
        for number, pause in enumerate(pauses):
            granted: Answer = (200, {"access_token": f"{MARK}-access", "expires_in": 0})
            instance.http.token_script = [storm[number % len(storm)] if pause % 3 == 0 else granted]
            outcome = await instance.deliver({"archiveJobId": "job", "userId": "alice", "attempt": attempt})
            assert isinstance(outcome, RetryLater | Fault)
            passed += pause
            if passed >= 3600:
                return
            instance.clock.wait(pause)

    rejected()
    asyncio.run(run())


@given(answers())
def test_answer_ends_a_delivery_in_one_outcome(answer: tuple[int, bytes]) -> None:
    status, body = answer
    assume(MARK.encode() not in body)  # a new job's id is no secret
    instance, outcome = deliver(answer)
    entry = asyncio.run(instance.entry())
    assert entry
    assert STATES[type(outcome)] == entry.state
    assert (1 if isinstance(outcome, Retried | Rejected) else 0) == len(instance.topics.messages)
    assert len(instance.http.retries) <= 1 + (status == 401)
    if isinstance(outcome, Retried):
        return
    rejected()
    told = "" if isinstance(outcome, Fault) else repr(outcome)  # which quotes Google's own first sentence
    assert QUOTED not in f"{told} {instance.rejected} {instance.line} {entry!r}"
    own_job = status == 200 and re.search(rb'"archiveJobId": *"(archiveJobs/)?job"', body)
    assert not isinstance(outcome, Rejected | Deferred) or is_own(status, body) or own_job


@given(statuses, errors, st.randoms())
def test_order_of_an_errors_details_means_nothing(status: int, error: dict[str, Any], chance: random.Random) -> None:
    kinds = [str(each.get("@type")) for each in error["details"] if isinstance(each, dict)]
    assume(len(kinds) == len(set(kinds)))  # each type occurs at most once, https://google.aip.dev/193
    told = []
    for _ in range(2):
        _, outcome = deliver((status, {"error": error | {"code": status}}))
        told.append(repr(outcome))
        chance.shuffle(error["details"])
    assert told[0] == told[1]


@given(details, job_ids)
def test_job_is_adopted_only_where_google_names_one(listed: list[Any], job: str) -> None:
    _, outcome = deliver((409, {"error": {"code": 409, "status": "ALREADY_EXISTS", "details": listed}}))
    if isinstance(outcome, Retried):
        metadata = [each.get("metadata") for each in listed if isinstance(each, dict)]
        named = [each.get("job_id") for each in metadata if isinstance(each, dict)]
        assert outcome.new_job_id in [str(each).removeprefix("archiveJobs/") for each in named]


@given(statuses, oauth_bodies)
def test_answer_of_the_token_endpoint_blames_whom_it_names(status: int, body: bytes) -> None:
    instance, outcome = deliver(token=(status, body))
    assert MARK not in f"{outcome!r} {instance.line}"
    if isinstance(outcome, Retried):
        assert status == 200
        assert json.loads(body)["access_token"] == instance.http.bearers[0]
        return
    rejected()
    if isinstance(outcome, Rejected):
        content = json.loads(body)
        named = 400 <= status < 500 and content.get("error") in ("invalid_grant", "admin_policy_enforced")
        assert named or (status == 200 and "access_token" in content and "scope" in content)


@given(
    st.binary(max_size=80) | st.text(max_size=40).map(str.encode), st.sampled_from((b"", b"1//", b"{", b'"', b"ya29."))
)
def test_any_secret_is_a_token_or_nobodys_fault(payload: bytes, start: bytes) -> None:
    """A user is asked for consent only where the secret is empty."""
    instance = Instance()
    instance.replace_secret("alice", start + payload)
    outcome = asyncio.run(instance.deliver())
    if isinstance(outcome, Rejected):
        assert not (start + payload).decode("utf-8-sig").strip()
    assert isinstance(outcome, Retried | Rejected | Fault)
    if not isinstance(outcome, Retried):
        rejected()
        assert [] == instance.http.requests
