"""States of a ledger entry: every transition, and which questions an entry answers."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.domain.answers import (
    AlreadyRunning,
    Answer,
    Cooldown,
    NewJob,
    NotSent,
    OutcomeUnknown,
)
from handlers.domain.decisions import RetryPolicy, decide
from handlers.domain.events import Delivery, JobEvent
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Cause, Fault, Reason, Rejection, RetryLater
from tests.unit.fakes import START

JOB = JobEvent(job_id="job", user_id="alice", credential_id="alice", published_at=START)
ENTRY = LedgerEntry(
    job_id="job",
    root_job_id="root",
    retries_before=1,
    user_id="alice",
    credential_id="alice",
    updated_at=START,
    expire_at=START,
)
UNTIL = START + timedelta(hours=1)
DENIED = Rejection(Reason.ACCESS_DENIED, "Start a new export.")
PARKED = Rejection(Reason.OUTCOME_UNKNOWN, "look")
SPENT = Rejection(Reason.RETRY_BUDGET_EXHAUSTED, "spent")


def entry(**fields: Any) -> LedgerEntry:
    return replace(ENTRY, **fields)


def policy(budget: int, *, park: bool = False) -> RetryPolicy:
    return RetryPolicy(budget=budget, event_max_age=timedelta(days=14), park_ambiguous=park, doubt_pause=120)


def claimed(calls: int = 0) -> LedgerEntry:
    return entry(state="claimed", calls_made=calls, doubts_waited_for=calls, lease_owner="me", claim_count=1)


def claim(found: LedgerEntry) -> LedgerEntry:
    return found.claimed(JOB, owner="me", lease_seconds=150)


@pytest.mark.parametrize(
    ("before", "transition", "state", "used", "in_doubt"),
    [
        (entry(), claim, "claimed", 1, 0),
        (entry(calls_made=1), claim, "claimed", 2, 1),
        (claimed(), claim, "claimed", 2, 1),  # its lease is over
        (claimed(1), claim, "claimed", 3, 2),
        (entry(state="rejected", reason="ACCESS_DENIED"), claim, "claimed", 1, 0),
        (claimed(), lambda found: found.retried("new"), "retried", 2, 0),
        (claimed(1), lambda found: found.retried("new"), "retried", 3, 1),
        (claimed(2), lambda found: found.adopted("new"), "retried", 2, 0),
        (claimed(1), lambda found: found.rejected(DENIED), "rejected", 2, 1),
        (claimed(1), lambda found: found.deferred(UNTIL, b"", "{}"), "deferred", 2, 1),
        (claimed(1), lambda found: found.in_doubt("x"), "open", 3, 2),
        (claimed(1), lambda found: found.released(), "open", 2, 1),
        (claimed(1).rejected(DENIED), lambda found: found.reopened(), "open", 2, 1),
        (claimed(1).rejected(PARKED), lambda found: found.reopened(), "open", 2, 0),
        (claimed(2).rejected(SPENT), lambda found: found.reopened(), "open", 1, 0),
    ],
)
def test_transition_counts_calls(
    before: LedgerEntry, transition: Callable[[LedgerEntry], LedgerEntry], state: str, used: int, in_doubt: int
) -> None:
    after = transition(before)
    assert (state, used, in_doubt) == (after.state, after.retries_used, after.chain_calls_in_doubt)


@pytest.mark.parametrize(
    ("answer", "state", "nack", "calls"),
    [
        (NewJob("new"), "retried", None, 1),
        (NewJob("job"), "rejected", None, 0),
        (AlreadyRunning("new"), "retried", None, 1),
        (AlreadyRunning("job"), "rejected", None, 0),
        (DENIED, "rejected", None, 0),
        (Cooldown(UNTIL), "deferred", None, 0),
        (NotSent("x"), "open", RetryLater, 0),
        (RetryLater("x"), "open", RetryLater, 0),
        (Fault("x"), "open", Fault, 0),
        (OutcomeUnknown("x"), "open", RetryLater, 1),
        (OutcomeUnknown("x", ours=True), "open", Fault, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("park", [False, True])
def test_decision_on_an_answer(answer: Answer, state: str, nack: type | None, calls: int, park: bool) -> None:
    made = decide(answer, claimed(), policy(3, park=park), JOB, Delivery(data=b"{}"))
    if park and isinstance(answer, OutcomeUnknown):
        state, nack = "rejected", None
        assert "OUTCOME_UNKNOWN" == made.entry.reason
    assert (state, calls) == (made.entry.state, made.entry.calls_made)
    assert nack is (type(made.nack) if made.nack else None)


@pytest.mark.parametrize(
    ("found", "final"),
    [
        (entry(), False),
        (entry(calls_made=1), False),
        (claimed().retried("new"), True),
        (claimed().deferred(UNTIL, b"", ""), True),
        (entry(state="rejected", reason="OUTCOME_UNKNOWN"), True),
        *[
            (entry(state="rejected", reason=reason), True)
            for reason in Reason
            if reason not in (Reason.MALFORMED_EVENT, Reason.OUTCOME_UNKNOWN, Reason.EVENT_EXPIRED)
        ],
        (entry(state="rejected", reason="EVENT_EXPIRED"), False),  # release 1.0 wrote that of another event
    ],
)
def test_entry_answers_an_earlier_event(found: LedgerEntry, final: bool) -> None:
    assert final is found.is_final_for(JOB, START, START)


@pytest.mark.parametrize(
    ("found", "final"),
    [
        (claimed().retried("new"), True),
        (entry(state="rejected", reason="OUTCOME_UNKNOWN"), True),
        (entry(state="rejected", reason="ACCESS_DENIED"), False),
        (entry(state="rejected", reason="ACCESS_DENIED", decided_at=START - timedelta(seconds=1)), False),
        (entry(state="rejected", reason="ACCESS_DENIED", decided_at=START + timedelta(days=1)), True),
        (claimed().deferred(UNTIL, b"", ""), True),
    ],
)
def test_entry_answers_a_later_event(found: LedgerEntry, final: bool) -> None:
    later = replace(JOB, published_at=START + timedelta(seconds=2))
    assert final is found.is_final_for(later, START + timedelta(seconds=1), START + timedelta(seconds=3))


@pytest.mark.parametrize(
    ("found", "budget", "pause"),
    [
        (entry(), 3, 0),
        (entry(calls_made=1), 4, 120),
        (entry(calls_made=2, doubts_waited_for=1), 4, 3600),
        (entry(calls_made=1), 2, 3600),  # no call is left: a storm must not use up the budget by itself
        (entry(calls_made=1, doubts_waited_for=1), 4, 0),  # waited for, and released since
        (claimed(), 4, 120),
        (claimed(1), 5, 3600),
    ],
)
def test_doubt_pause(found: LedgerEntry, budget: int, pause: float) -> None:
    assert pause == policy(budget).pause_before(found)


@pytest.mark.parametrize(("calls", "told"), [(0, "Start a new export."), (1, "A call had no answer")])
def test_detail_with_calls_in_doubt_starts_no_export(calls: int, told: str) -> None:
    assert claimed(calls).rejected(DENIED).detail.startswith(told)


def test_used_up_grant_with_calls_in_doubt_tells_to_look_first() -> None:
    used_up = Rejection(Reason.REAUTHORIZATION_REQUIRED, "Reset it.", Cause.ONE_TIME_GRANT_USED)
    assert ("Reset it.", True) == (
        claimed(0).rejected(used_up).detail,
        "an export may be running" in claimed(1).rejected(used_up).detail,
    )


def test_chain_is_handed_to_the_new_job() -> None:
    link = claimed(1).retried("new").entry_of_new_job()
    assert link
    assert ("new", "root", 3, 1, "open") == (
        link.job_id,
        link.root_job_id,
        link.retries_before,
        link.in_doubt_before,
        link.state,
    )
    assert entry().entry_of_new_job() is None
