"""Rules of the main job: what a delivery ends as, what Google is asked, what is published."""

import asyncio
import base64
import gc
import json
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.draining import Draining
from handlers.entries import Entry
from handlers.events import parse_failed
from handlers.ledger import Ledger, Stored
from handlers.memory_store import MemoryStore
from handlers.outcomes import Broken, Deferred, Misconfigured, NotNow, Reason, Rejected, Retried, Throttled, Unavailable
from handlers.ports import NoAnswer, NotSent
from handlers.retry_failed_job import _Work
from handlers.telemetry import log
from local.google_apis import MARK
from tests.unit.world import NOW, TOKEN_URI, Answer, FakeTopic, Script, World, error_info, failed, google_error


async def test_a_failed_job_is_retried_once_and_its_follow_up_published() -> None:
    world = World()
    assert Retried("job-again") == await world.deliver(failed())
    assert world.http.retries == ["job"]
    assert world.retried.messages == [
        {
            "archiveJobId": "job-again",
            "retriedArchiveJobId": "job",
            "rootArchiveJobId": "job",
            "userId": "alice",
            "credentialId": "alice",
            "attempt": 1,
            "retriedAt": "2026-11-23T18:00:00.000Z",
        }
    ]
    assert world.retried.attributes == [{"eventType": "archive-job-retried", "userId": "alice", "dedupKey": "job"}]


async def test_the_call_carries_the_users_token_no_body_and_a_length_of_zero() -> None:
    world = World()
    await world.deliver(failed())
    url, headers, body = world.http.requests[-1]
    assert url == "https://portability.example/v1/archiveJobs/job:retry"
    assert (headers["Authorization"], headers["Content-Length"], body) == ("Bearer made-up-secret-access-1", "0", b"")


async def test_a_job_delivered_again_is_answered_from_the_ledger_with_the_same_follow_up() -> None:
    world = World()
    await world.deliver(failed())
    world.time += timedelta(hours=1)
    assert Retried("job-again") == await world.deliver(failed())
    assert world.http.retries == ["job"]
    assert world.retried.messages[0] == world.retried.messages[1]


async def test_a_redelivery_of_an_answered_job_costs_no_secret_and_no_token() -> None:
    world = World()
    await world.deliver(failed())
    again = World()
    again.case = replace(world.case, tokens=again.credentials)  # another instance, which has no token yet
    assert Retried("job-again") == await again.deliver(failed(userId="bob"), attempt=2)
    assert ([], []) == (again.secrets.reads, again.http.requests)
    assert "alice" == again.journal.fields["userId"]


async def test_of_ten_deliveries_at_once_one_calls_google_and_the_others_are_to_come_again() -> None:
    world = World()
    outcomes = await asyncio.gather(*(world.deliver(failed()) for _ in range(10)))
    assert world.http.retries == ["job"]
    assert outcomes.count(Retried("job-again")) == 1
    assert sum(isinstance(outcome, NotNow) for outcome in outcomes) == 9


async def test_a_follow_up_is_a_valid_failed_event_and_the_chain_ends_at_the_budget() -> None:
    world = World()
    await world.deliver(failed())
    for _ in range(2):
        await world.deliver(world.retried.messages[-1])
    assert [message["attempt"] for message in world.retried.messages] == [1, 2, 3]
    assert {"job"} == {message["rootArchiveJobId"] for message in world.retried.messages}
    outcome = await world.deliver(world.retried.messages[-1])
    assert isinstance(outcome, Rejected)
    assert outcome.reason == Reason.RETRY_BUDGET_EXHAUSTED
    assert len(world.http.retries) == 3


async def test_the_ledger_knows_the_chain_of_a_job_that_a_retry_made() -> None:
    world = World()
    await world.deliver(failed())
    await world.deliver(failed("job-again"))
    assert (world.retried.messages[1]["rootArchiveJobId"], world.retried.messages[1]["attempt"]) == ("job", 2)


@pytest.mark.parametrize(("told", "counted"), [(0, 2), (1, 2), (2, 3)])
async def test_where_event_and_ledger_disagree_on_the_attempt_the_larger_counts(told: int, counted: int) -> None:
    world = World()
    await world.deliver(failed())
    await world.deliver(failed("job-again", attempt=told))
    assert counted == world.retried.messages[1]["attempt"]


async def test_an_event_may_name_another_credential_and_a_resource_name() -> None:
    world = World()
    world.secrets.content["token-second"] = b"made-up-secret-refresh-second"
    await world.deliver(failed("archiveJobs/job", credentialId="second", rootArchiveJobId="archiveJobs/first"))
    assert world.http.token_forms[0]["refresh_token"] == ["made-up-secret-refresh-second"]
    message = world.retried.messages[0]
    assert (message["retriedArchiveJobId"], message["rootArchiveJobId"]) == ("job", "first")


async def test_ten_jobs_of_one_user_at_once_cost_one_secret_access_and_one_refresh() -> None:
    world = World()
    await asyncio.gather(*(world.deliver(failed(f"job-{number}")) for number in range(10)))
    assert sorted(world.secrets.reads) == ["client", "token-alice"]
    assert len(world.http.token_forms) == 1
    assert len(world.retried.messages) == 10


@pytest.mark.parametrize(("attempt", "beside"), [(0, True), (1, True), (2, False)])
async def test_the_token_is_got_beside_the_claim_but_after_it_at_a_redelivery(attempt: int, beside: bool) -> None:
    world, asked = World(), asyncio.Event()

    async def answering() -> Answer:
        asked.set()
        return 200, {"access_token": "token"}

    class Waiting(MemoryStore):
        async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
            if entry.state == "claimed":
                with suppress(TimeoutError):
                    await asyncio.wait_for(asked.wait(), 20 if beside else 0.05)
                assert beside == asked.is_set()
            return await super().write(entry, version, link)

    world.http.token_script = [answering]
    ledger = Ledger(Waiting(), lease_seconds=150, keep=timedelta(days=1), now=lambda: NOW)
    world.case = replace(world.case, ledger=ledger)
    assert Retried("job-again") == await world.deliver(failed(), attempt=attempt)


async def test_the_call_is_given_seven_ninths_of_the_time_less_what_has_passed() -> None:
    world = World(deadline=90.0)
    await world.deliver(failed())
    assert 40 < world.http.seconds[-1] <= 70


# what goes wrong before the call, and costs nothing


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ((503, b""), NotNow),
        ((429, {"error": "rate_limit_exceeded"}), NotNow),
        (NotSent("ClientConnectorError"), NotNow),
        (NoAnswer("TimeoutError"), NotNow),
        ((400, {"error": "invalid_request"}), Broken),
        ((401, {"error": "invalid_client"}), Broken),
    ],
)
async def test_a_fault_in_getting_the_token_releases_the_claim_and_counts_nothing(step: Any, outcome: type) -> None:
    world = World()
    world.http.token_script = [step]
    assert outcome is type(await world.deliver(failed()))
    world.http.token_script = []
    assert Retried("job-again") == await world.deliver(failed())
    assert (world.http.retries, world.retried.messages[0]["attempt"]) == (["job"], 1)


async def test_a_call_that_was_not_sent_releases_the_claim_and_counts_nothing() -> None:
    world = World()
    world.script("job", NotSent("ClientConnectorError"), (200, {"archiveJobId": "new"}))
    assert isinstance(await world.deliver(failed()), NotNow)
    assert 0 == world.journal.fields["calls"]
    assert Retried("new") == await world.deliver(failed())
    assert world.retried.messages[0]["attempt"] == 1


class Slow(MemoryStore):
    """A store whose answers take a moment, as those of a real one."""

    async def load(self, job_id: str) -> Stored | None:
        await asyncio.sleep(0.01)
        return await super().load(job_id)

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        await asyncio.sleep(0.01)
        return await super().write(entry, version, link)


async def test_there_is_time_to_record_what_a_call_has_come_to_at_the_last_moment() -> None:
    world, store = World(deadline=2.7), Slow()

    async def connects() -> Any:
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            raise NotSent("cut off while it was connecting") from None

    async def waits() -> Any:
        await asyncio.Future()

    world.script("unsent", connects)
    world.script("sent", waits)
    ledger = Ledger(store, lease_seconds=150, keep=timedelta(days=1), now=lambda: NOW)
    world.case = replace(world.case, ledger=ledger)
    outcomes = await asyncio.gather(*(world.deliver(failed(job)) for job in ("unsent", "sent")))
    assert [NotNow, NotNow] == [type(outcome) for outcome in outcomes]
    kept = [stored.entry for job in ("unsent", "sent") if (stored := await store.load(job))]
    assert [("open", 0), ("open", 1)] == [(entry.state, entry.used) for entry in kept]


@pytest.mark.parametrize(
    "answer",
    [
        google_error(429, "RESOURCE_EXHAUSTED", error_info("RATE_LIMIT_EXCEEDED")),
        google_error(409, "ABORTED"),
        google_error(403, "PERMISSION_DENIED", error_info("SERVICE_DISABLED")),
    ],
)
async def test_an_answer_that_nothing_was_carried_out_counts_nothing(answer: Any) -> None:
    world = World()
    world.script("job", answer, answer, answer, answer, (200, {"archiveJobId": "new"}))
    for _ in range(4):
        assert isinstance(await world.deliver(failed()), NotNow | Broken)
    assert Retried("new") == await world.deliver(failed())
    assert world.retried.messages[0]["attempt"] == 1


async def test_a_bug_before_the_call_releases_the_claim() -> None:
    world = World()
    world.secrets.content["token-alice"] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await world.deliver(failed())
    world.secrets.content["token-alice"] = b"made-up-secret-refresh-alice"
    assert Retried("job-again") == await world.deliver(failed())


# 401


async def test_after_401_the_token_is_refreshed_once_and_the_call_sent_once_more() -> None:
    world = World()
    world.script("job", google_error(401, "UNAUTHENTICATED"), (200, {"archiveJobId": "new"}))
    assert Retried("new") == await world.deliver(failed())
    bearers = [headers["Authorization"] for url, headers, _ in world.http.requests if url != TOKEN_URI]
    assert bearers == ["Bearer made-up-secret-access-1", "Bearer made-up-secret-access-2"]
    assert world.retried.messages[0]["attempt"] == 1


async def test_401_with_a_token_refreshed_just_now_asks_for_consent() -> None:
    world = World()
    world.script("job", google_error(401, "UNAUTHENTICATED"))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert outcome.reason == Reason.REAUTHORIZATION_REQUIRED
    assert len(world.http.retries) == 2


# 403


async def warm() -> World:
    """An instance that remembers the user's refresh token from a while ago."""
    world = World()
    await world.deliver(failed("earlier"))
    await asyncio.sleep(0.01)  # uvloop's clock ticks in milliseconds
    return world


async def test_before_403_is_final_a_remembered_refresh_token_is_read_again() -> None:
    world = await warm()
    world.secrets.content["token-alice"] = f"{MARK}-refresh-with-more-scopes".encode()
    world.script("job", google_error(403, "PERMISSION_DENIED"), (200, {"archiveJobId": "new"}))
    assert Retried("new") == await world.deliver(failed())
    assert [f"{MARK}-refresh-with-more-scopes"] == world.http.token_forms[-1]["refresh_token"]
    assert (2, 1) == (world.journal.fields["calls"], world.retried.messages[-1]["attempt"])
    assert "failedStep" not in world.journal.fields


@pytest.mark.parametrize("remembered", [True, False])
async def test_403_is_final_where_the_refresh_token_is_the_newest(remembered: bool) -> None:
    world = await warm() if remembered else World()
    world.script("job", google_error(403, "PERMISSION_DENIED"))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert (Reason.ACCESS_DENIED, 1) == (outcome.reason, world.http.retries.count("job"))
    assert 1 + remembered == world.secrets.reads.count("token-alice")


async def test_403_with_the_newest_refresh_token_too_is_final() -> None:
    world = await warm()
    world.secrets.content["token-alice"] = f"{MARK}-refresh-with-no-more-scopes".encode()
    world.script("job", google_error(403, "PERMISSION_DENIED"))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert (Reason.ACCESS_DENIED, 2) == (outcome.reason, world.http.retries.count("job"))


async def test_403_is_final_where_the_refresh_token_was_read_again_for_this_very_delivery() -> None:
    world = World()
    world.http.token_script = [
        (200, {"access_token": "old", "expires_in": 0}),
        (400, {"error": "invalid_grant"}),
        (200, {"access_token": "new"}),
    ]
    await world.deliver(failed("earlier"))
    await asyncio.sleep(0.01)
    world.secrets.content["token-alice"] = f"{MARK}-refresh-after-consent".encode()
    world.script("job", google_error(403, "PERMISSION_DENIED"))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert (Reason.ACCESS_DENIED, 2) == (outcome.reason, world.secrets.reads.count("token-alice"))


@pytest.mark.parametrize("first", [401, 403])
@pytest.mark.parametrize(("second", "reason"), [(401, Reason.REAUTHORIZATION_REQUIRED), (403, Reason.ACCESS_DENIED)])
async def test_no_third_call_is_made_whatever_the_secret_holds(first: int, second: int, reason: Reason) -> None:
    world = await warm()
    world.secrets.content["token-alice"] = f"{MARK}-refresh-with-more-scopes".encode()
    world.script("job", google_error(first), google_error(second), (200, {"archiveJobId": "new"}))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert (reason, 2) == (outcome.reason, world.http.retries.count("job"))


async def test_a_user_is_not_denied_while_the_secret_cannot_be_read() -> None:
    world = await warm()
    world.secrets.content["token-alice"] = Unavailable("not there just now")
    world.script("job", google_error(403, "PERMISSION_DENIED"))
    assert isinstance(await world.deliver(failed()), NotNow)
    stored = await world.store.load("job")
    assert stored
    assert ("open", 0) == (stored.entry.state, stored.entry.calls_counted)


# what comes late


def late(answer: Answer) -> Script:
    """After more than the share of the deadline by which a delivery has to have its first token."""

    async def answering() -> Answer:
        await asyncio.sleep(1.5)
        return answer

    return answering


async def test_with_no_token_after_a_third_of_the_time_a_delivery_is_handed_back_with_no_call() -> None:
    world = World(deadline=3.6)
    world.http.token_script = [late((200, {"access_token": "token"}))]
    assert isinstance(await world.deliver(failed()), NotNow)
    assert [] == world.http.retries


async def test_a_late_answer_is_an_answer() -> None:
    world = World(deadline=3.6)
    world.script("job", late((200, {"archiveJobId": "new"})))
    assert Retried("new") == await world.deliver(failed())


@pytest.mark.parametrize("denied", [False, True], ids=["the first token", "one by a newer grant"])
async def test_a_delivery_whose_time_is_over_takes_the_token_from_nobody_else_who_waits(denied: bool) -> None:
    world, given_up = await warm() if denied else World(), asyncio.Event()

    async def slow() -> Answer:
        await given_up.wait()
        return 200, {"access_token": "token"}

    world.http.token_script = [slow]
    for job in ("one", "two") if denied else ():
        world.script(job, google_error(403, "PERMISSION_DENIED"))
    patient = world.case
    world.case = replace(patient, rules=replace(patient.rules, deadline=0.3))
    hasty = asyncio.create_task(world.deliver(failed("one")))
    await asyncio.sleep(0)
    world.case = patient
    other = asyncio.create_task(world.deliver(failed("two")))
    assert isinstance(await hasty, NotNow)
    given_up.set()
    assert (Rejected if denied else Retried) is type(await other)


async def test_after_a_late_401_there_is_time_for_another_token() -> None:
    world = World(deadline=3.6)
    world.script("job", late(google_error(401, "UNAUTHENTICATED")), (200, {"archiveJobId": "new"}))
    assert Retried("new") == await world.deliver(failed())


async def test_after_a_late_403_there_is_time_to_look_for_a_newer_grant() -> None:
    world = World(deadline=3.6)
    await world.deliver(failed("earlier"))
    await asyncio.sleep(0.01)
    world.script("job", late(google_error(403, "PERMISSION_DENIED")))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert (Reason.ACCESS_DENIED, 1) == (outcome.reason, world.http.retries.count("job"))


async def test_after_a_late_401_a_call_is_not_begun_that_would_have_no_time() -> None:
    world = World(deadline=3.6)
    world.http.token_script = [(200, {"access_token": "token"}), late((200, {"access_token": "another"}))]
    world.script("job", late(google_error(401, "UNAUTHENTICATED")), (200, {"archiveJobId": "new"}))
    assert isinstance(await world.deliver(failed()), NotNow)
    stored = await world.store.load("job")
    assert stored
    assert (1, 0) == (len(world.http.retries), stored.entry.calls_counted)


# calls in doubt


@pytest.mark.parametrize("doubtful", [(503, b"<html>"), (500, b""), (200, b"{}"), NoAnswer("TimeoutError")])
async def test_a_call_in_doubt_is_sent_again_and_counted(doubtful: Any) -> None:
    world = World()
    world.script("job", doubtful, (200, {"archiveJobId": "new"}))
    assert isinstance(await world.deliver(failed()), NotNow)
    assert Retried("new") == await world.deliver(failed())
    assert world.retried.messages[0]["attempt"] == 2


async def test_a_call_that_ends_in_a_bug_counts_and_the_bug_is_told(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.script("job", RuntimeError("nobody expects this"), (200, {"archiveJobId": "new"}))
    log.addHandler(caplog.handler)
    assert isinstance(await world.deliver(failed()), NotNow)
    log.removeHandler(caplog.handler)
    assert [("ERROR", True)] == [(record.levelname, bool(record.exc_info)) for record in caplog.records]
    assert Retried("new") == await world.deliver(failed())
    assert world.retried.messages[0]["attempt"] == 2


async def test_calls_counted_never_exceed_the_budget() -> None:
    world = World()
    world.script("job", (503, b""))
    outcomes = [await world.deliver(failed()) for _ in range(6)]
    assert len(world.http.retries) == 3
    assert [o.reason for o in outcomes if isinstance(o, Rejected)] == [Reason.RETRY_BUDGET_EXHAUSTED] * 3
    assert world.rejected.messages[-1]["attempt"] == 3


async def test_a_call_in_doubt_is_parked_where_the_settings_say_so_and_never_sent_again() -> None:
    world = World(park_ambiguous=True)
    world.script("job", (503, b""))
    outcomes = [await world.deliver(failed()) for _ in range(2)]
    assert [o.reason for o in outcomes if isinstance(o, Rejected)] == [Reason.OUTCOME_UNKNOWN] * 2
    assert (len(world.http.retries), len(world.rejected.messages)) == (1, 2)


@pytest.mark.parametrize("park", [False, True])
async def test_a_lapsed_claim_counts_as_a_call_in_doubt(park: bool) -> None:
    world = World(lease_seconds=0.01, park_ambiguous=park)
    died = asyncio.Event()

    async def die() -> Any:
        died.set()
        await asyncio.Future()

    world.script("job", die, (200, {"archiveJobId": "new"}))
    delivery = asyncio.create_task(world.deliver(failed()))
    await died.wait()
    delivery.cancel()
    await asyncio.sleep(0.02)
    outcome = await world.deliver(failed())
    if park:
        assert isinstance(outcome, Rejected)
        assert (outcome.reason, len(world.http.retries)) == (Reason.OUTCOME_UNKNOWN, 1)
    else:
        assert (Retried("new"), 2) == (outcome, world.retried.messages[0]["attempt"])


async def test_an_answer_that_comes_after_the_claim_was_taken_over_is_not_recorded() -> None:
    world = World(lease_seconds=0.01)
    sent, late = asyncio.Event(), asyncio.Event()

    async def answer_late() -> Any:
        sent.set()
        await late.wait()
        return 200, {"archiveJobId": "late"}

    world.script("job", answer_late, (200, {"archiveJobId": "second"}))
    first = asyncio.create_task(world.deliver(failed()))
    await sent.wait()
    await asyncio.sleep(0.02)
    assert Retried("second") == await world.deliver(failed())
    late.set()
    assert isinstance(await first, NotNow)
    assert Retried("second") == await world.deliver(failed())
    assert {"second"} == {message["archiveJobId"] for message in world.retried.messages}


# deferrals


async def test_a_cooldown_is_deferred_acknowledged_and_not_called_again_before_its_time() -> None:
    world = World()
    until = NOW + timedelta(hours=20)
    info = error_info("RESOURCE_EXHAUSTED_TIME_BASED", timestamp_after_24hrs=until.isoformat())
    world.script("job", google_error(429, "RESOURCE_EXHAUSTED", info), (200, {"archiveJobId": "new"}))
    assert [Deferred(until)] * 2 == [await world.deliver(failed()) for _ in range(2)]
    assert (world.http.retries, world.retried.messages + world.rejected.messages) == (["job"], [])
    world.time = until
    assert Retried("new") == await world.deliver(failed())
    assert world.retried.messages[0]["attempt"] == 1


async def test_a_deferral_keeps_the_event_exactly_as_it_came() -> None:
    world = World()
    info = error_info("RESOURCE_EXHAUSTED_ONE_TIME", timestamp_after_24hrs=(NOW + timedelta(hours=1)).isoformat())
    world.script("job", google_error(400, "FAILED_PRECONDITION", info))
    data = b' {"userId":"alice", "archiveJobId":"job","theirs":[1,{}]}'
    await world.deliver(data, attributes={"own": "attribute"})
    stored = await world.store.load("job")
    assert stored
    assert (data, '{"own":"attribute"}') == (stored.entry.event, stored.entry.attributes)


# adoption


async def test_an_export_that_runs_already_is_adopted() -> None:
    world = World()
    world.script("job", google_error(409, "ALREADY_EXISTS", error_info("ALREADY_EXISTS_ONE_TIME", job_id="running")))
    assert Retried("running") == await world.deliver(failed())


async def test_a_job_is_never_its_own_follow_up() -> None:
    world = World()
    world.script("job", google_error(409, "ALREADY_EXISTS", error_info("ALREADY_EXISTS_ONE_TIME", job_id="job")))
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert outcome.reason == Reason.JOB_NOT_RETRYABLE


# rejections


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{", b'{"userId":"alice"}', b'{"archiveJobId":5,"userId":"a"}'])
async def test_a_malformed_event_is_rejected_whole_and_costs_nothing(data: bytes) -> None:
    world = World()
    outcome = await world.deliver(data)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == Reason.MALFORMED_EVENT
    assert (world.http.requests, world.secrets.reads) == ([], [])
    message = world.rejected.messages[0]
    read: dict[str, Callable[[str], bytes]] = {"text": str.encode, "base64": base64.b64decode}
    assert data == read[message["eventEncoding"]](message["event"])


async def test_a_rejection_says_everything_that_is_known() -> None:
    world = World()
    world.script("job", google_error(404, "NOT_FOUND"))
    event = json.dumps(failed(attempt=1, rootArchiveJobId="first"))
    await world.deliver(event.encode())
    message = world.rejected.messages[0]
    detail = message.pop("detail")
    assert detail.startswith("Google knows no such archive job")
    assert {
        "reason": "JOB_NOT_FOUND",
        "archiveJobId": "job",
        "rootArchiveJobId": "first",
        "userId": "alice",
        "credentialId": "alice",
        "attempt": 1,
        "rejectedAt": "2026-11-23T18:00:00.000Z",
        "event": event,
        "eventEncoding": "text",
    } == message
    assert world.rejected.attributes == [
        {"eventType": "archive-job-retry-rejected", "reason": "JOB_NOT_FOUND", "userId": "alice", "dedupKey": "job"}
    ]


async def test_a_malformed_event_is_matched_to_what_of_it_is_sound() -> None:
    world = World()
    await world.deliver({"archiveJobId": "job", "userId": "alice", "attempt": "one"})
    await world.deliver({"userId": "a/b"})
    assert [message["archiveJobId"] for message in world.rejected.messages] == ["job", ""]
    assert [attributes["dedupKey"] for attributes in world.rejected.attributes] == ["job", "message-1"]
    assert ["userId" in attributes for attributes in world.rejected.attributes] == [True, False]


async def test_a_malformed_event_tells_its_sound_fields_in_the_form_of_a_rejection() -> None:
    world = World()
    event = {
        "archiveJobId": "archiveJobs/job",
        "rootArchiveJobId": "archiveJobs/root",
        "userId": 5,
        "credentialId": "second",
        "attempt": 10**30,
        "failedAt": NOW.isoformat(),
    }
    await world.deliver(event)
    told = {name: world.rejected.messages[0][name] for name in event if name != "failedAt"}
    assert {
        "archiveJobId": "job",
        "rootArchiveJobId": "root",
        "userId": "",
        "credentialId": "second",
        "attempt": 2**31 - 1,
    } == told
    assert "job" == world.rejected.attributes[0]["dedupKey"]


async def test_what_google_refused_for_good_is_answered_from_the_ledger() -> None:
    world = World()
    world.script("job", google_error(403, "PERMISSION_DENIED"), (200, {"archiveJobId": "new"}))
    outcomes = [await world.deliver(failed()) for _ in range(2)]
    assert [o.reason for o in outcomes if isinstance(o, Rejected)] == [Reason.ACCESS_DENIED] * 2
    assert (len(world.http.retries), len(world.rejected.messages)) == (1, 2)


async def test_a_job_rejected_for_consent_is_retried_when_consent_is_there_again() -> None:
    world = World()
    world.http.token_script = [(400, {"error": "invalid_grant"})]
    outcome = await world.deliver(failed())
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, world.http.retries) == (Reason.REAUTHORIZATION_REQUIRED, [])
    world.http.token_script = []
    assert Retried("job-again") == await world.deliver(failed())


@pytest.mark.parametrize(("days", "expired"), [(13.9, False), (14.1, True)])
async def test_an_event_expires_by_its_own_time_or_else_by_its_publish_time(days: float, expired: bool) -> None:
    long_ago = NOW - timedelta(days=days)
    world = World()
    outcomes = [
        await world.deliver(failed("said", failedAt=long_ago.isoformat())),
        await world.deliver(failed("unsaid"), published_at=long_ago),
    ]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Rejected)]
    assert [Reason.EVENT_EXPIRED] * 2 * expired == reasons
    assert Retried("both-again") == await world.deliver(failed("both", failedAt=NOW.isoformat()), published_at=long_ago)


# publishing


@pytest.mark.parametrize(("failure", "outcome"), [(Unavailable("down"), NotNow), (Misconfigured("no role"), Broken)])
async def test_a_delivery_is_not_acknowledged_before_pubsub_has_the_follow_up(
    failure: Exception, outcome: type
) -> None:
    world = World()
    world.retried.failure = failure
    assert outcome is type(await world.deliver(failed()))
    world.retried.failure = None
    assert Retried("job-again") == await world.deliver(failed())
    assert world.http.retries == ["job"]


async def test_a_delivery_is_over_in_its_time_though_publishing_hangs() -> None:
    class Hangs(FakeTopic):
        async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
            await asyncio.Future()

    world = World(deadline=2.0)
    world.case = replace(world.case, retried=Hangs())
    async with asyncio.timeout(3.8):
        assert isinstance(await world.deliver(failed()), NotNow)


async def test_the_answer_is_in_the_ledger_before_the_follow_up_is_published() -> None:
    world = World()
    world.retried.failure = Unavailable("down")
    await world.deliver(failed())
    stored = await world.store.load("job")
    assert stored
    assert (stored.entry.state, stored.entry.new_job_id) == ("retried", "job-again")


async def test_a_call_is_not_begun_without_time_to_record_its_answer() -> None:
    class StandsStill(MemoryStore):
        async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
            time.sleep(0.1)  # noqa: ASYNC251, as an instance does that gets no CPU
            return await super().write(entry, version, link)

    world = World(deadline=0.1)
    await world.credentials.begin("alice")
    world.case = replace(
        world.case, ledger=Ledger(StandsStill(), lease_seconds=150, keep=timedelta(days=45), now=lambda: NOW)
    )
    assert NotNow("no time was left for the call to Google") == await world.deliver(failed())
    assert world.http.retries == []


async def test_a_deferral_of_an_event_too_large_for_the_ledger_keeps_the_fields_of_the_contract() -> None:
    world = World()
    info = error_info("RESOURCE_EXHAUSTED_ONE_TIME", timestamp_after_24hrs=(NOW + timedelta(hours=1)).isoformat())
    world.script("job", google_error(429, "RESOURCE_EXHAUSTED", info))
    event = failed(attempt=1, rootArchiveJobId="root", failedAt=NOW.isoformat(), theirs="x" * 1_000_000)
    assert isinstance(await world.deliver(event), Deferred)
    stored = await world.store.load("job")
    assert stored
    assert parse_failed(json.dumps(event).encode()) == parse_failed(stored.entry.event)
    assert 1000 > len(stored.entry.event)


async def test_a_claim_that_arrived_though_its_answer_did_not_costs_nothing() -> None:
    world = World(deadline=1.8)

    class AnswersLost(Slow):
        async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
            written = await super().write(entry, version, link)
            if entry.state == "claimed" and entry.fence == 1:
                await asyncio.Future()
            return written

    store = AnswersLost()
    ledger = Ledger(store, lease_seconds=150, keep=timedelta(days=1), now=lambda: NOW)
    world.case = replace(world.case, ledger=ledger)
    assert isinstance(await world.deliver(failed()), NotNow)
    assert Retried("job-again") == await world.deliver(failed())
    assert 1 == world.retried.messages[0]["attempt"]


async def test_a_claim_in_doubt_is_withdrawn_though_the_ledger_refuses_to_tell_of_it() -> None:
    world = World()

    class LosesAnswerAndRole(MemoryStore):
        faults: list[Exception]

        async def load(self, job_id: str) -> Stored | None:
            if len(self.faults) == 1:
                raise self.faults.pop()
            return await super().load(job_id)

        async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
            written = await super().write(entry, version, link)
            if len(self.faults) == 2:
                raise self.faults.pop()
            return written

    store = LosesAnswerAndRole()
    store.faults = [Misconfigured("no role"), Unavailable("down")]  # of the next read, and of the write before it
    ledger = Ledger(store, lease_seconds=150, keep=timedelta(days=1), now=lambda: NOW)
    world.case = replace(world.case, ledger=ledger)
    assert isinstance(await world.deliver(failed()), Broken)
    stored = await store.load("job")
    assert stored
    assert ("open", 0) == (stored.entry.state, stored.entry.calls_counted)


async def test_a_ledger_that_has_no_room_is_a_503_at_once_with_one_call_to_it() -> None:
    world = World()
    calls = []

    class Full(MemoryStore):
        async def load(self, job_id: str) -> Stored | None:
            calls.append("load")
            raise Throttled("no room")

        async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
            calls.append("write")
            raise Throttled("no room")

    ledger = Ledger(Full(), lease_seconds=150, keep=timedelta(days=1), now=lambda: NOW)
    world.case = replace(world.case, ledger=ledger)
    for attempt, call in ((1, "write"), (2, "load")):
        assert isinstance(await world.deliver(failed(), attempt=attempt), NotNow)
        assert call == calls.pop()
        assert not calls
    assert not world.http.retries


async def test_the_log_tells_a_new_job_that_could_not_be_recorded() -> None:
    world = World(deadline=0.3)

    class Full(MemoryStore):
        async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
            if entry.state == "retried":
                raise Unavailable("down")
            return await super().write(entry, version, link)

    ledger = Ledger(Full(), lease_seconds=150, keep=timedelta(days=1), now=lambda: NOW)
    world.case = replace(world.case, ledger=ledger)
    assert isinstance(await world.deliver(failed()), NotNow)
    assert "job-again" == world.journal.fields["newArchiveJobId"]


async def test_a_text_that_json_would_blow_up_beyond_a_message_is_kept_in_base64() -> None:
    world = World()
    await world.deliver(bytes(3_000_000))
    message = world.rejected.messages[0]
    assert ("base64", bytes(3_000_000)) == (message["eventEncoding"], base64.b64decode(message["event"]))
    await world.deliver(b"x" * 9_000_000)
    assert "text" == world.rejected.messages[1]["eventEncoding"]


# SIGTERM


async def test_a_delivery_that_has_not_called_google_when_the_instance_is_to_end_is_handed_back() -> None:
    world = World()
    begin = world.case.draining.begin

    async def end_of_instance() -> Any:
        begin()
        return 200, {"access_token": "token"}

    world.http.token_script = [end_of_instance]
    assert isinstance(await world.deliver(failed()), NotNow)
    assert [] == world.http.retries
    stored = await world.store.load("job")
    assert stored
    assert ("open", 0) == (stored.entry.state, stored.entry.used)


async def test_a_call_in_hand_when_the_instance_is_to_end_is_finished() -> None:
    world = World()

    async def end_of_instance() -> Any:
        world.case.draining.begin()
        await asyncio.sleep(0.01)
        return 200, {"archiveJobId": "new"}

    world.script("job", end_of_instance)
    assert Retried("new") == await world.deliver(failed())


async def test_a_call_that_is_not_answered_before_the_instance_ends_is_recorded_as_in_doubt() -> None:
    world = World(draining=Draining(seconds=0.02))

    async def silence() -> Any:
        world.case.draining.begin()
        await asyncio.Future()

    world.script("job", silence)
    assert isinstance(await world.deliver(failed()), NotNow)
    stored = await world.store.load("job")
    assert stored
    assert ("open", 1) == (stored.entry.state, stored.entry.used)


async def not_sent() -> Any:
    raise NotSent("ClientConnectorError")


async def no_answer() -> Any:
    raise NoAnswer("TimeoutError")


@pytest.mark.parametrize(
    ("token", "retry"),
    [
        ((400, {"error": "invalid_grant"}), (200, {"archiveJobId": "new"})),
        ((503, b""), (200, {"archiveJobId": "new"})),
        ((401, {"error": "invalid_client"}), (200, {"archiveJobId": "new"})),
        ((200, {"access_token": "access"}), google_error(404, "NOT_FOUND")),
        ((200, {"access_token": "access"}), google_error(429, "RESOURCE_EXHAUSTED")),
        ((200, {"access_token": "access"}), google_error(403, "PERMISSION_DENIED", error_info("SERVICE_DISABLED"))),
        ((200, {"access_token": "access"}), not_sent),
        ((200, {"access_token": "access"}), no_answer),
    ],
)
async def test_nothing_of_a_delivery_stays_in_memory_until_the_collector_runs(token: Any, retry: Any) -> None:
    """A large event would: its exception holds the traceback, that the frame, and that the event."""
    world = World()
    world.http.token_script = [token]
    world.script("job", retry)
    before = weakref.WeakSet(at_work())
    gc.disable()
    try:
        await world.deliver(failed())
        await asyncio.sleep(0)
        assert [] == [work for work in at_work() if work not in before]
    finally:
        gc.enable()


def at_work() -> list[_Work]:
    return [each for each in gc.get_objects() if isinstance(each, _Work)]
