"""A chain is found by its links, and each entry is told as what it means."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.domain.decisions import RetryPolicy
from handlers.domain.ledger_entry import LedgerEntry
from handlers.memory_store import MemoryStore
from handlers.ports import Unreadable, UnreadableEntry, VersionedEntry
from ops.story import Told, chain_of, duration, job_id_of, tell, tell_watch, watches_of
from tests.ops.desk import POLICY

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
REDRIVE = "python -m ops redrive rejected --job job --go"


def entry(job_id: str = "job", root: str = "job", **fields: Any) -> LedgerEntry:
    known: Any = {"root_job_id": root, "retries_before": 0, "updated_at": NOW, "expire_at": NOW, "claim_count": 1}
    return LedgerEntry(job_id=job_id, **known | fields)


def told(age: float = 0.0, policy: RetryPolicy = POLICY, **fields: Any) -> Told:
    return told_of(entry(**fields), age, policy)


def told_of(found: LedgerEntry, age: float, policy: RetryPolicy = POLICY) -> Told:
    return tell(VersionedEntry(found, None, NOW - timedelta(seconds=age), NOW), policy, NOW)


async def chain_ids(store: MemoryStore, job_id: str) -> list[str]:
    return [job_id_of(found) for found in await chain_of(store, job_id)]


@pytest.mark.parametrize("asked", ["first", "second", "third"])
async def test_whole_chain_is_found_from_any_of_its_jobs(asked: str) -> None:
    store = MemoryStore()
    links = [("first", "second"), ("second", "third"), ("third", "")]
    for job, new in links:
        await store.write(entry(job, "first", new_job_id=new), None)
    assert ["first", "second", "third"] == await chain_ids(store, asked)


async def test_unknown_job_has_no_chain() -> None:
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
async def test_chain_with_gaps_or_rings_is_told_as_far_as_it_goes(entries: list[LedgerEntry], found: list[str]) -> None:
    store = MemoryStore()
    for one in entries:
        await store.write(one, None)
    assert found == await chain_ids(store, "third")


class Broken(MemoryStore):
    """Some of its entries cannot be read. It notes what it is asked for."""

    def __init__(self, *broken: str) -> None:
        super().__init__()
        self.broken = broken
        self.asked: list[str] = []

    async def load(self, job_id: str) -> VersionedEntry | None:
        self.asked.append(job_id)
        if job_id in self.broken:
            raise UnreadableEntry(f"ledger entry {job_id!a} cannot be read")
        return await super().load(job_id)


@pytest.mark.parametrize("broken", ["first", "second", "third"])
async def test_broken_entry_of_a_chain_is_named(broken: str) -> None:
    store = Broken(broken)
    for job, new in [("first", "second"), ("second", "third"), ("third", "")]:
        await store.write(entry(job, "first", new_job_id=new), None)
    chain = await chain_of(store, "third")
    assert [broken] == [one.job_id for one in chain if isinstance(one, Unreadable)]
    assert "third" in map(job_id_of, chain)


@pytest.mark.parametrize("link", ["a/b", "x/y/z", "line\nbreak"])
async def test_link_that_is_no_jobs_id_becomes_no_documents_path(link: str) -> None:
    store = Broken()
    await store.write(entry(new_job_id=link), None)
    assert [False, True] == [isinstance(one, Unreadable) for one in await chain_of(store, "job")]
    assert link not in store.asked


def test_claim_is_held_until_its_lease_ends_on_the_stores_clock() -> None:
    held = told(age=60, state="claimed", lease_seconds=150)
    assert "Held by a delivery until 2026-11-23 18:01:30 UTC (90 s from now) at the latest." == held.next
    assert NOW + timedelta(seconds=90) == held.lease_ends_at


def test_lease_that_was_edited_to_last_for_ever_is_told() -> None:
    assert "Held by a delivery until 2026-11-24 18:00:00 UTC" in told(state="claimed", lease_seconds=1e300).next


def test_lapsed_claim_is_taken_over_and_counts_one_call() -> None:
    lapsed = told(age=200, state="claimed", lease_seconds=150)
    assert (
        "Its delivery died or was cut off, and the lease lapsed 50 s ago: the next one takes it over, counts one call "
        "in doubt and asks Google to retry it, as retry 2 of 3."
    ) == lapsed.next


@pytest.mark.parametrize(
    ("park", "fields", "comes"),
    [
        (False, {"retries_before": 2}, "asks Google to retry it, as retry 3 of 3"),
        (False, {"retries_before": 2, "calls_made": 1}, "rejects it as RETRY_BUDGET_EXHAUSTED"),
        (True, {"calls_made": 1}, "rejects it as OUTCOME_UNKNOWN"),
        (True, {}, "asks Google to retry it, as retry 1 of 3"),
    ],
)
def test_open_job_is_told_what_its_next_delivery_does(park: bool, fields: dict[str, Any], comes: str) -> None:
    policy = replace(POLICY, park_ambiguous=park)
    assert f"The next delivery {comes}." == told(age=4000, policy=policy, **fields).next.partition(" If Pub")[0]


def test_call_in_doubt_makes_the_next_delivery_wait_for_its_pause() -> None:
    assert (
        "The next delivery waits until 2026-11-23 18:01:00 UTC, since a call had no answer, and then asks Google to "
        "retry it, as retry 2 of 3."
    ) == told(age=60, calls_made=1).next


def test_job_that_was_last_seen_long_ago_may_be_too_old() -> None:
    old = told(updated_at=NOW - timedelta(days=15))
    assert "EVENT_EXPIRED, unless its event says that it failed within 14 days" in old.next


def test_lapsed_claim_that_uses_up_the_budget_is_told_to_do_so() -> None:
    lapsed = told(age=4000, state="claimed", lease_seconds=150, retries_before=2)
    assert "RETRY_BUDGET_EXHAUSTED" in lapsed.next


def by_name(reason: str) -> str:
    return REDRIVE.replace("--job", f"--reason {reason} --job")


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
        ({"state": "deferred", "not_before": NOW}, "Its time has come: the next scheduled run puts its event back."),
        ({"state": "open", "not_before": NOW}, "The scheduled run puts its event back."),
        ({"state": "open", "claim_count": 0}, "Made by a retry; nobody has reported it as failed."),
        (
            {"state": "open", "claim_count": 0, "retries_before": 3},
            "Made by the chain's last retry: if it was reported as failed, it was rejected, without a trace here.",
        ),
        ({"state": "rejected", "reason": "EVENT_EXPIRED"}, "Done. The user needs a new export."),
        (
            {"state": "rejected", "reason": "RETRY_BUDGET_EXHAUSTED", "retries_before": 3},
            "Done. The user needs a new export.",
        ),
        (
            {"state": "rejected", "reason": "RETRY_BUDGET_EXHAUSTED", "in_doubt_before": 1},
            "Done. An export of an earlier call may be running: look before the user starts a new one.",
        ),
        (
            {"state": "rejected", "reason": "RETRY_BUDGET_EXHAUSTED", "calls_made": 1},
            "Done. An export may be running. If Google carried out none of its calls in doubt: "
            + by_name("RETRY_BUDGET_EXHAUSTED"),
        ),
        (
            {"state": "rejected", "reason": "OUTCOME_UNKNOWN", "calls_made": 1},
            f"Waits for a person: an export may be running. If none is: {by_name('OUTCOME_UNKNOWN')}",
        ),
        (
            {"state": "rejected", "reason": "REAUTHORIZATION_REQUIRED"},
            f"Done, until the user has consented again and the new token is stored; then: {REDRIVE}",
        ),
        (
            {"state": "rejected", "reason": "ACCESS_DENIED"},
            f"Done, until its event is published again. If you have fixed the cause: {REDRIVE}",
        ),
    ],
)
def test_each_state_tells_what_comes_next(fields: dict[str, Any], comes: str) -> None:
    assert comes == told(**fields).next


@pytest.mark.parametrize(
    ("age", "fields", "pointed"),
    [
        (601, {"state": "open"}, True),
        (601, {"state": "claimed", "lease_seconds": 150}, False),
        (4201, {"state": "claimed", "lease_seconds": 150, "retries_before": 2}, True),
        (599, {"state": "open"}, False),
        (719, {"state": "open", "calls_made": 1}, False),
        (721, {"state": "open", "calls_made": 1}, True),
        (601, {"state": "claimed", "lease_seconds": 700}, False),
        (601, {"state": "open", "claim_count": 0}, False),
        (601, {"state": "open", "not_before": NOW}, False),
        (601, {"state": "retried", "new_job_id": "new"}, False),
    ],
)
def test_dead_letters_are_pointed_to_where_deliveries_did_not_come(
    age: float, fields: dict[str, Any], pointed: bool
) -> None:
    assert pointed == ("python -m ops redrive dead --job job" in told(age, **fields).next)


@pytest.mark.parametrize("age", [0, 601])
@pytest.mark.parametrize("reason", ["OUTCOME_UNKNOWN", "RETRY_BUDGET_EXHAUSTED"])
def test_reopened_job_points_to_its_rejection_until_it_is_called_for(reason: str, age: float) -> None:
    """The redrive that reopened it may have died before its event was put back."""
    reopened = entry(state="rejected", reason=reason, calls_made=3).reopened()
    redrive = f"It was reopened; if its event was not put back: {by_name(reason)}"
    assert redrive in told_of(reopened, age).next
    assert (age > 600) == ("If Pub/Sub has given it up: python -m ops redrive dead" in told_of(reopened, age).next)
    assert redrive not in told_of(reopened.in_doubt("no answer"), age).next


@pytest.mark.parametrize(
    ("fields", "state", "following"),
    [
        (
            {"state": "deferred", "not_before": NOW + timedelta(minutes=50)},
            "watched",
            "2026-11-23 18:50:00 UTC (50 min",
        ),
        ({"state": "deferred", "not_before": NOW}, "watched", "The next look is due: the scheduled run puts its event"),
        ({"state": "open"}, "watched", "Its event is back on the started topic"),
        ({"state": "ended", "reason": "COMPLETE"}, "COMPLETE", "Ended as COMPLETE; that is published."),
        (
            {"state": "rejected", "reason": "UNKNOWN", "cause": "JOB_NOT_FOUND"},
            "UNKNOWN",
            "Ended as UNKNOWN (JOB_NOT_FOUND); that is published. A later started event begins again.",
        ),
    ],
)
def test_watched_job_is_told_with_its_next_look(fields: dict[str, Any], state: str, following: str) -> None:
    look = tell_watch(VersionedEntry(entry(user_id="alice", **fields), None, NOW, NOW), NOW)
    assert ("job", state, "alice") == (look["archiveJobId"], look["state"], look["userId"])
    assert following in look["next"]
    assert ("notBefore" in look) == ("50 min" in following)


async def test_watch_tells_of_those_jobs_alone_that_it_knows() -> None:
    store = Broken("broken")
    await store.write(entry("job"), None)
    found = await watches_of(store, ["unknown", "job", "broken"])
    assert ["job", "broken"] == [job_id_of(one) for one in found]
    assert {"archiveJobId", "unreadable", "next"} == tell_watch(found[1], NOW).keys()


def test_ids_of_jobs_have_the_names_of_the_log() -> None:
    job = told(root="root", state="retried", new_job_id="new").as_json()
    ids = {name: value for name, value in job.items() if name.endswith("obId")}
    assert {"archiveJobId": "job", "rootArchiveJobId": "root", "newArchiveJobId": "new"} == ids


def test_producers_own_data_is_not_told() -> None:
    kept = told(event=b"their data", attributes='{"their": "attribute"}', lease_owner="word").as_json()
    assert {"event", "attributes", "holder"}.isdisjoint(kept)
    assert ("2026-11-23T18:00:00.000Z", 1, None) == (kept["updatedAt"], kept["fence"], kept["leaseEndsAt"])


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
)
def test_duration_has_a_unit_of_its_size(seconds: float, said: str) -> None:
    assert said == duration(timedelta(seconds=seconds))
