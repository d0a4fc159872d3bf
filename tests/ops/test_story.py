"""A chain is found by its links, and each entry is told as what it means."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from handlers.entries import Entry
from handlers.events import ArchiveJobFailed
from msgspec.structs import replace

from handlers.ledger import Claim, Ledger, Stored
from handlers.memory_store import MemoryStore
from handlers.retry_failed_job import Rules
from ops.story import Told, chain_of, span, told

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
REDRIVE = "python -m ops redrive rejected --job job --go"
RULES = Rules(budget=3, event_max_age=timedelta(days=14), park_ambiguous=False, deadline=90)


def entry(job_id: str = "job", root: str = "job", **fields: Any) -> Entry:
    known: dict[str, Any] = {"root_job_id": root, "attempt": 0, "updated_at": NOW, "expire_at": NOW, "fence": 1}
    return Entry(job_id=job_id, **known | fields)


def tell(age: float = 0.0, rules: Rules = RULES, **fields: Any) -> Told:
    return told(Stored(entry(**fields), None, age), rules, NOW)


async def chain_ids(store: MemoryStore, job_id: str) -> list[str]:
    return [stored.entry.job_id for stored in await chain_of(store, job_id)]


@pytest.mark.parametrize("asked", ["first", "second", "third"])
async def test_from_any_of_its_jobs_the_whole_chain_is_found(asked: str) -> None:
    store = MemoryStore()
    ledger = Ledger(store, lease_seconds=1, keep=timedelta(1), now=lambda: NOW)
    for job, new in (("first", "second"), ("second", "third")):
        claim = await ledger.claim(ArchiveJobFailed(job_id=job, user_id="alice", credential_id="alice"))
        assert isinstance(claim, Claim)
        await ledger.record(claim, claim.entry.retried(new))
    assert ["first", "second", "third"] == await chain_ids(store, asked)


async def test_of_a_job_that_the_ledger_does_not_know_there_is_no_chain() -> None:
    assert [] == await chain_of(MemoryStore(), "job")


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([entry("third", "first")], ["third"]),
        ([entry("first", "first", new_job_id="second"), entry("third", "first")], ["first", "third"]),
        ([entry("third", "third", new_job_id="third")], ["third"]),
        (
            [entry("third", "other", new_job_id="other"), entry("other", "other", new_job_id="third")],
            ["other", "third"],
        ),
    ],
    ids=["the root is unknown", "a link is missing", "a job of its own", "a ring"],
)
async def test_a_chain_with_gaps_or_rings_is_told_as_far_as_it_goes(entries: list[Entry], found: list[str]) -> None:
    store = MemoryStore()
    for one in entries:
        await store.write(one, None)
    assert found == await chain_ids(store, "third")


def test_a_claim_is_held_until_its_lease_ends_on_the_stores_clock() -> None:
    held = tell(age=60, state="claimed", lease_seconds=150)
    assert "Held by a delivery until 2026-11-23 18:01:30 UTC (90 s from now) at the latest." == held.next
    assert NOW + timedelta(seconds=90) == held.lease_ends_at


def test_a_lapsed_claim_is_taken_over_and_counts_one_call() -> None:
    lapsed = tell(age=200, state="claimed", lease_seconds=150)
    assert (
        "Its delivery died or was cut off, and the lease lapsed 50 s ago: the next one takes it over, counts one call "
        "in doubt and asks Google to retry it, as retry 2 of 3."
    ) == lapsed.next


@pytest.mark.parametrize(
    ("park", "fields", "comes"),
    [
        (False, {"attempt": 2}, "asks Google to retry it, as retry 3 of 3"),
        (False, {"attempt": 2, "calls_counted": 1}, "rejects it as RETRY_BUDGET_EXHAUSTED"),
        (True, {"calls_counted": 1}, "rejects it as OUTCOME_UNKNOWN"),
        (True, {}, "asks Google to retry it, as retry 1 of 3"),
    ],
)
def test_of_an_open_job_it_is_told_what_the_next_delivery_does(park: bool, fields: dict[str, Any], comes: str) -> None:
    rules = replace(RULES, park_ambiguous=park)
    assert f"The next delivery {comes}." == tell(rules=rules, **fields).next


def test_of_a_job_that_was_last_seen_too_long_ago_it_is_told_that_it_may_be_too_old() -> None:
    assert (
        "EVENT_EXPIRED, unless its event says that it failed within 14 days"
        in tell(updated_at=NOW - timedelta(days=15)).next
    )


def test_a_lapsed_claim_that_uses_up_the_budget_is_told_to_do_so() -> None:
    assert "RETRY_BUDGET_EXHAUSTED" in tell(age=200, state="claimed", lease_seconds=150, attempt=2).next


FORGIVE = REDRIVE.replace("--job", "--reason RETRY_BUDGET_EXHAUSTED --job")


@pytest.mark.parametrize(
    ("fields", "comes"),
    [
        (
            {"state": "retried", "new_job_id": "new"},
            "Done. A further delivery only publishes the follow-up, new, again.",
        ),
        (
            {"state": "deferred", "not_before": NOW + timedelta(hours=3)},
            "Waits until 2026-11-23 21:00:00 UTC (3 h from now), then the scheduled run puts its event back.",
        ),
        (
            {"state": "deferred", "not_before": NOW},
            "Its time has come: the next scheduled run puts its event back.",
        ),
        ({"state": "open", "not_before": NOW}, "The scheduled run puts its event back."),
        ({"state": "open", "fence": 0}, "Made by a retry; nobody has reported it as failed."),
        ({"state": "rejected", "reason": "EVENT_EXPIRED"}, "Done. The user needs a new export."),
        ({"state": "rejected", "reason": "RETRY_BUDGET_EXHAUSTED", "attempt": 3}, "Done. The user needs a new export."),
        (
            {"state": "rejected", "reason": "RETRY_BUDGET_EXHAUSTED", "calls_counted": 3},
            f"Done. If Google carried out none of its calls in doubt (an outage): {FORGIVE}",
        ),
        (
            {"state": "rejected", "reason": "REAUTHORIZATION_REQUIRED"},
            f"Done, until the user has consented again and the new token is stored; then: {REDRIVE}",
        ),
        (
            {"state": "rejected", "reason": "ACCESS_DENIED"},
            f"Done for good. If you have put right what stood behind it: {REDRIVE}",
        ),
    ],
)
def test_of_every_state_it_is_told_what_comes_next(fields: dict[str, Any], comes: str) -> None:
    assert comes == tell(**fields).next


@pytest.mark.parametrize(
    ("age", "fields", "pointed"),
    [
        (601, {"state": "open"}, True),
        (601, {"state": "claimed", "lease_seconds": 150}, True),
        (599, {"state": "open"}, False),
        (601, {"state": "claimed", "lease_seconds": 700}, False),
        (601, {"state": "open", "fence": 0}, False),
        (601, {"state": "open", "not_before": NOW}, False),
        (601, {"state": "retried", "new_job_id": "new"}, False),
    ],
)
def test_where_deliveries_should_have_come_and_did_not_the_dead_letters_are_pointed_to(
    age: float, fields: dict[str, Any], pointed: bool
) -> None:
    assert pointed == ("python -m ops redrive dead --job job" in tell(age, **fields).next)


def test_the_call_that_made_the_new_job_is_not_in_doubt() -> None:
    assert (1, 2) == (
        tell(state="retried", new_job_id="new", calls_counted=2).entry.calls_in_doubt,
        tell(calls_counted=2).entry.calls_in_doubt,
    )


def test_a_producers_own_data_is_not_told() -> None:
    kept = tell(event=b"their data", attributes='{"their": "attribute"}', holder="word").as_json()
    assert {"event", "attributes", "holder"}.isdisjoint(kept)
    assert ("2026-11-23T18:00:00.000Z", 1, None) == (kept["updatedAt"], kept["fence"], kept["leaseEndsAt"])


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
)
def test_times_are_told_in_a_unit_that_does_them_justice(seconds: float, said: str) -> None:
    assert said == span(timedelta(seconds=seconds))
