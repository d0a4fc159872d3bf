"""The way of one event: what Google is asked, what is published, in which order, and what a fault leaves behind."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Fault, Misconfigured, Outcome, Rejected, Retried, RetryLater, Throttled, Transient
from handlers.memory_store import MemoryStore
from handlers.ports import VersionedEntry
from handlers.telemetry.logging import LogLine
from local.google_apis import MARK
from tests.unit.fakes import SECRET_PREFIX, START, Answer, Clock, Step, error_info, google_error, grpc_error
from tests.unit.instance import Instance, failed, later

INVALID_GRANT: Answer = (400, {"error": "invalid_grant"})
NEW: Answer = (200, {"archiveJobId": "new"})


class ScriptedStore(MemoryStore):
    """A ledger's store whose calls pass `before` and `after`, which may wait or raise."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.calls: list[str] = []
        self.before: Callable[[str, LedgerEntry | None], Awaitable[None] | None] = lambda call, entry: None
        self.after = self.before

    async def load(self, job_id: str) -> VersionedEntry | None:
        await self._pass("load", None, self.before)
        return await super().load(job_id)

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        await self._pass(entry.state, entry, self.before)
        written = await super().write(entry, version, link)
        await self._pass(entry.state, entry, self.after, count=False)
        return written

    async def _pass(self, call: str, entry: LedgerEntry | None, hook: Any, count: bool = True) -> None:
        self.calls += [call] * count
        if waits := hook(call, entry):
            await waits


Stored = tuple[Instance, ScriptedStore]


@pytest.fixture(params=["90"])
def stored(request: pytest.FixtureRequest) -> Stored:
    clock = Clock()
    store = ScriptedStore(clock)
    return Instance(store=store, clock=clock, HANDLER_DEADLINE_SECONDS=request.param), store


deadline = pytest.mark.parametrize("stored", ["1"], indirect=True)


def raise_(fault: Exception) -> None:
    raise fault


# the way to the follow-up


async def test_entries_of_a_job_and_its_new_one_outlive_the_age_of_an_event_by_the_longest_retention() -> None:
    instance = Instance(EVENT_MAX_AGE_DAYS="10")
    await instance.deliver()
    kept_until = [entry.expire_at for job in ("job", "job-again") if (entry := await instance.entry(job))]
    assert [START + timedelta(days=10 + 31)] * 2 == kept_until


async def test_failed_job_is_retried_once(instance: Instance) -> None:
    assert Retried("job-again") == await instance.deliver()
    [(method, url, headers, body)] = instance.http.requests[1:]
    assert ("POST", b"", "0") == (method, body, headers["Content-Length"])
    assert url == "https://dataportability.googleapis.com/v1/archiveJobs/job:retry"
    assert headers["Authorization"] == f"Bearer {MARK}-access-1"
    assert instance.retried == [
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
    assert instance.attributes("archive-job-retried") == [
        {"eventType": "archive-job-retried", "userId": "alice", "dedupKey": "job"}
    ]


async def test_redelivery_republishes_the_same_follow_up(instance: Instance) -> None:
    await instance.deliver()
    instance.clock.wait(3600)
    assert Retried("job-again") == await instance.deliver(attempt=2)
    assert (["job"], 1) == (instance.http.retries, len(instance.http.token_forms))
    assert instance.retried[0] == instance.retried[1]


async def test_redelivery_of_an_answered_job_needs_no_token(instance: Instance) -> None:
    await instance.deliver()
    other = Instance(store=instance.container.store, clock=instance.clock)
    assert Retried("job-again") == await other.deliver(failed(userId="bob", credentialId="work"), attempt=2)
    assert ([], []) == (other.secrets.reads, other.http.requests)
    assert ("alice", "alice") == (other.line["userId"], other.line["credentialId"])  # of the published one


async def test_many_deliveries_at_once_make_one_call(instance: Instance) -> None:
    outcomes = await asyncio.gather(*(instance.deliver(attempt=1) for _ in range(10)))
    assert ["job"] == instance.http.retries
    assert {Retried} <= {type(one) for one in outcomes} <= {Retried, RetryLater}


async def test_chain_ends_at_the_retry_budget(instance: Instance) -> None:
    await instance.deliver()
    for _ in range(2):
        await instance.deliver(instance.retried[-1])
    assert [1, 2, 3] == [message["attempt"] for message in instance.retried]
    assert {"job"} == {message["rootArchiveJobId"] for message in instance.retried}
    assert "RETRY_BUDGET_EXHAUSTED" == await instance.reason(instance.retried[-1])
    assert 3 == len(instance.http.retries)


@pytest.mark.parametrize(("told", "counted"), [({}, 2), ({"attempt": 1}, 2), ({"attempt": 2}, 3)])
async def test_larger_attempt_of_event_and_ledger_counts(
    instance: Instance, told: dict[str, Any], counted: int
) -> None:
    await instance.deliver()
    await instance.deliver(failed("job-again", **told))
    assert ("job", counted) == (instance.retried[1]["rootArchiveJobId"], instance.retried[1]["attempt"])


async def test_event_may_name_another_credential(instance: Instance) -> None:
    instance.grant("second", f"{MARK}-refresh-second")
    await instance.deliver(failed("archiveJobs/job", credentialId="second", rootArchiveJobId="archiveJobs/first"))
    assert f"{MARK}-refresh-second" == instance.http.token_forms[0]["refresh_token"]
    assert ("job", "first") == (instance.retried[0]["retriedArchiveJobId"], instance.retried[0]["rootArchiveJobId"])


# order


async def test_token_is_there_before_the_claim(stored: Stored) -> None:
    instance, store = stored

    async def token() -> Answer:
        store.calls.append("token")
        return 200, {"access_token": f"{MARK}-token", "expires_in": 0}

    instance.http.token_script = [token]
    await instance.deliver(attempt=1)
    assert ["token", "claimed", "retried"] == store.calls
    store.calls.clear()
    await instance.deliver(failed("redelivered"), attempt=2)
    assert ["load", "token", "claimed", "retried"] == store.calls


@pytest.mark.parametrize(
    "step",
    [(503, b""), (429, {}), NotSent("ClientConnectorError"), OutcomeUnknown("TimeoutError"), (401, {"error": "x"})],
)
async def test_token_fault_leaves_no_claim(stored: Stored, step: Step) -> None:
    instance, store = stored
    instance.http.token_script = [step]
    assert isinstance(await instance.deliver(attempt=1), RetryLater | Fault)
    assert ([], [], "token") == (store.calls, instance.http.retries, instance.line["failedStep"])


async def test_bug_in_getting_a_token_leaves_no_claim(stored: Stored) -> None:
    instance, store = stored
    instance.replace_secret("alice", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await instance.deliver(attempt=1)
    assert [] == store.calls


@deadline
async def test_slow_token_ends_the_delivery_without_claim(stored: Stored) -> None:
    instance, store = stored

    async def never() -> Answer:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    instance.http.token_script = [never]
    assert RetryLater("not over in time: token") == await instance.deliver(attempt=1)
    assert [] == store.calls


async def test_follow_up_is_published_to_the_topic_of_another_project() -> None:
    instance = Instance(RETRIED_TOPIC="projects/another/topics/a-topic")
    assert isinstance(await instance.deliver(), Retried)
    assert ["projects/another/topics/a-topic"] == instance.topics.names


@pytest.mark.parametrize(("failure", "outcome"), [("UNAVAILABLE", RetryLater), ("PERMISSION_DENIED", Fault)])
async def test_unpublished_follow_up_is_not_acknowledged(instance: Instance, failure: str, outcome: type) -> None:
    instance.topics.failures["archive-job-retried"] = grpc_error(failure)
    assert outcome is type(await instance.deliver())
    assert "publish" == instance.line["failedStep"]
    instance.topics.failures.clear()
    assert Retried("job-again") == await instance.deliver()
    assert ["job"] == instance.http.retries


# checks that need no token


@pytest.mark.parametrize(
    ("event", "delivery", "reason"),
    [
        ({"failedAt": (START - timedelta(days=14.1)).isoformat()}, {}, "EVENT_EXPIRED"),
        ({"failedAt": (START - timedelta(days=13.9)).isoformat()}, {}, "not"),
        ({}, {"published_at": START - timedelta(days=14.1)}, "EVENT_EXPIRED"),
        ({"failedAt": START.isoformat()}, {"published_at": START - timedelta(days=14.1)}, "not"),
        ({}, {"published_at": None}, "not"),
        ({"attempt": 3}, {}, "RETRY_BUDGET_EXHAUSTED"),
        ({"attempt": 2147483648}, {}, "RETRY_BUDGET_EXHAUSTED"),
        ({"attempt": 2}, {}, "not"),
        ({"attempt": 3, "failedAt": "2020-01-01T00:00:00Z"}, {}, "EVENT_EXPIRED"),
    ],
)
@pytest.mark.parametrize("attempt", [1, 2])
async def test_age_and_attempt_of_the_event(
    instance: Instance, event: dict[str, Any], delivery: dict[str, Any], reason: str, attempt: int
) -> None:
    instance.http.token_script = [(503, b"")] if reason != "not" else []
    assert reason == await instance.reason(failed(**event), attempt=attempt, **delivery)
    if reason != "not":
        assert (None, []) == (await instance.entry(), instance.http.requests)  # no trace, no token


async def test_event_above_the_settings_age_is_expired() -> None:
    instance = Instance(EVENT_MAX_AGE_DAYS="1")
    assert "EVENT_EXPIRED" == await instance.reason(published_at=START - timedelta(days=1.1))


async def test_event_with_a_false_attempt_poisons_no_job(instance: Instance) -> None:
    assert "RETRY_BUDGET_EXHAUSTED" == await instance.reason(failed(attempt=3))
    assert Retried("job-again") == await instance.deliver()
    assert 1 == instance.retried[0]["attempt"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"archiveJobId":5,"userId":"a"}'])
async def test_malformed_event_is_rejected_and_costs_nothing(instance: Instance, data: bytes) -> None:
    assert "MALFORMED_EVENT" == await instance.reason(data)
    assert ([], []) == (instance.http.requests, instance.secrets.reads)


# before the call, and after an answer that says that nothing was done


@pytest.mark.parametrize(
    "step",
    [
        NotSent("ClientConnectorError"),
        (403, b"<html>blocked"),
        google_error(429, "RESOURCE_EXHAUSTED", error_info("RATE_LIMIT_EXCEEDED")),
        google_error(403, "PERMISSION_DENIED", error_info("SERVICE_DISABLED", "googleapis.com")),
    ],
)
async def test_answer_of_nothing_done_costs_no_retry(instance: Instance, step: Step) -> None:
    instance.script("job", step, step, step, step, NEW)
    for _ in range(4):
        assert isinstance(await instance.deliver(), RetryLater | Fault)
        assert ("open", 0) == await instance.state()
        assert (0, "retry") == (instance.line["callsUnknown"], instance.line["failedStep"])
    assert Retried("new") == await instance.deliver()
    assert 1 == instance.retried[0]["attempt"]


@pytest.mark.parametrize("call", ["claimed", "load"])
async def test_throttled_ledger_is_503_at_once(stored: Stored, call: str) -> None:
    instance, store = stored
    store.before = lambda called, entry: raise_(Throttled("quota"))
    assert isinstance(await instance.deliver(attempt=1 if call == "claimed" else 2), RetryLater)
    assert ([call], []) == (store.calls, instance.http.retries)


@deadline
@pytest.mark.parametrize("seconds", [0.7, 1.1])
async def test_cpu_throttled_instance_sends_no_call_whose_answer_would_be_late(stored: Stored, seconds: float) -> None:
    instance, store = stored
    store.after = lambda call, entry: time.sleep(seconds) if call == "claimed" else None
    assert isinstance(await instance.deliver(attempt=1), RetryLater)
    assert ([], ("open", 0)) == (instance.http.retries, await instance.state())


# 401 and 403


async def test_401_gets_another_token_and_one_more_call(instance: Instance) -> None:
    instance.script("job", google_error(401, "UNAUTHENTICATED"), NEW)
    assert Retried("new") == await instance.deliver()
    assert [f"{MARK}-access-1", f"{MARK}-access-2"] == instance.http.bearers
    assert (1, 2) == (instance.retried[0]["attempt"], instance.line["calls"])
    assert "failedStep" not in instance.line


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (google_error(401, "UNAUTHENTICATED"), "not"),
        (google_error(401, "UNAUTHENTICATED", error_info("ACCESS_TOKEN_EXPIRED", "googleapis.com")), "not"),
        (
            google_error(401, "UNAUTHENTICATED", error_info("ACCOUNT_STATE_INVALID", "googleapis.com")),
            "REAUTHORIZATION_REQUIRED/ACCOUNT_STATE",
        ),
        (google_error(403, "PERMISSION_DENIED"), "ACCESS_DENIED"),
    ],
)
async def test_second_call_after_401_is_the_last(instance: Instance, second: Answer, reason: str) -> None:
    instance.script("job", google_error(401, "UNAUTHENTICATED"), second, NEW)
    assert reason == await instance.reason()
    assert (2, 0) == (len(instance.http.retries), (await instance.state())[1])


async def test_401_of_a_gone_grant_shows_at_the_refresh(instance: Instance) -> None:
    instance.http.token_script = [(200, {"access_token": f"{MARK}-access"}), INVALID_GRANT]
    instance.script("job", google_error(401, "UNAUTHENTICATED"))
    assert "REAUTHORIZATION_REQUIRED/INVALID_GRANT" == await instance.reason()
    assert (1, "token") == (len(instance.http.retries), instance.line["failedStep"])


async def test_403_is_final_under_the_newest_secret(instance: Instance) -> None:
    await instance.deliver(failed("earlier"))
    instance.script("job", google_error(403, "PERMISSION_DENIED"), NEW)
    assert "ACCESS_DENIED" == await instance.reason()
    assert (1, 2) == (instance.http.retries.count("job"), instance.secrets.reads.count(f"{SECRET_PREFIX}alice"))


@pytest.mark.parametrize(
    ("second", "reason"), [(NEW, "not"), (google_error(403), "ACCESS_DENIED"), (google_error(401), "not")]
)
async def test_403_under_a_newer_secret_gets_one_more_call(instance: Instance, second: Answer, reason: str) -> None:
    await instance.deliver(failed("earlier"))
    instance.grant("alice", f"{MARK}-refresh-with-more-scopes")
    instance.script("job", google_error(403, "PERMISSION_DENIED"), second, NEW)
    assert reason == await instance.reason()
    assert f"{MARK}-refresh-with-more-scopes" == instance.http.token_forms[-1]["refresh_token"]
    assert 2 == instance.http.retries.count("job")


async def test_unreadable_secret_after_403_denies_nobody(instance: Instance) -> None:
    await instance.deliver(failed("earlier"))
    instance.replace_secret("alice", grpc_error("UNAVAILABLE"))
    instance.script("job", google_error(403, "PERMISSION_DENIED"))
    assert isinstance(await instance.deliver(), RetryLater)
    assert (("open", 0), "token") == (await instance.state(), instance.line["failedStep"])


async def test_bug_after_403_leaves_no_claim(instance: Instance) -> None:
    await instance.deliver(failed("earlier"))
    instance.replace_secret("alice", ZeroDivisionError("a bug"))
    instance.script("job", google_error(403, "PERMISSION_DENIED"))
    with pytest.raises(ZeroDivisionError):
        await instance.deliver()
    assert ("open", 0) == await instance.state()


# no exception leaves a claim behind


@pytest.mark.parametrize("fault", [Misconfigured("no role"), Transient("down"), ValueError("a bug")])
async def test_claim_with_a_lost_answer_is_withdrawn(stored: Stored, fault: Exception) -> None:
    instance, store = stored
    faults = [fault]
    store.after = lambda call, entry: raise_(faults.pop()) if faults else None
    try:
        outcome: Outcome | None = await instance.deliver(attempt=1)
    except ValueError:
        outcome = None
    assert isinstance(outcome, Retried) or ("open", 0) == await instance.state()


@deadline
async def test_claim_is_withdrawn_after_an_outage_of_the_store(stored: Stored) -> None:
    instance, store = stored
    begun = asyncio.get_running_loop().time()

    def no_answer(call: str, entry: LedgerEntry | None) -> None:
        if asyncio.get_running_loop().time() < begun + 1.2:
            raise Transient("no answer")

    store.after = no_answer
    store.before = lambda call, entry: no_answer(call, entry) if call == "load" else None
    assert isinstance(await instance.deliver(attempt=1), RetryLater)
    assert ("open", 0) == await instance.state()


@deadline
async def test_answer_is_recorded_by_an_instance_that_stood_still(stored: Stored) -> None:
    instance, _ = stored

    async def answered() -> Answer:
        time.sleep(1.1)  # noqa: ASYNC251 nothing else runs meanwhile, either
        return NEW

    instance.script("job", answered)
    await instance.deliver(attempt=1)
    assert ("retried", 1) == await instance.state()


async def test_new_job_is_recorded_when_a_fault_of_ours_is_over(stored: Stored) -> None:
    instance, store = stored
    instance.script("job", NEW)
    faults: list[Exception] = [Misconfigured("no role")] * 2
    store.before = lambda call, entry: raise_(faults.pop()) if faults and call == "retried" else None
    assert Retried("new") == await instance.deliver(attempt=1)
    assert (["job"], False) == (instance.http.retries, "failedStep" in instance.line)


@deadline
@pytest.mark.parametrize("fault", [Misconfigured("too large"), ValueError("a bug")])
@pytest.mark.parametrize(
    ("answer", "calls"), [(NEW, 1), (google_error(404, "NOT_FOUND"), 0), ((503, b""), 1), ((403, b"<html>"), 0)]
)
async def test_unrecordable_answer_ends_the_claim(stored: Stored, fault: Exception, answer: Answer, calls: int) -> None:
    instance, store = stored
    instance.script("job", answer)
    refused: list[str] = []

    def refuse(call: str, entry: LedgerEntry | None) -> None:
        """What is written after the claim; a new job for ever."""
        if call == "retried" or (call not in ("claimed", "load") and not refused):
            refused.append(call)
            raise fault

    store.before = refuse
    try:
        assert isinstance(await instance.deliver(attempt=1), Fault)
    except ValueError:
        assert isinstance(fault, ValueError)
    assert ("open", calls) == await instance.state()
    assert answer is not NEW or "new" == instance.line["newArchiveJobId"]


@deadline
async def test_claim_and_answer_are_each_given_time(stored: Stored) -> None:
    instance, store = stored

    async def cut_off_while_connecting() -> Any:
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            return NotSent("cut off")

    async def silent() -> Any:
        await asyncio.Future()

    async def slow() -> None:
        await asyncio.sleep(0.02)

    instance.script("unsent", cut_off_while_connecting)
    instance.script("sent", silent)
    store.before = lambda call, entry: slow()
    outcomes = await asyncio.gather(*(instance.deliver(failed(job)) for job in ("unsent", "sent")))
    assert [RetryLater, RetryLater] == [type(outcome) for outcome in outcomes]
    assert [("open", 0), ("open", 1)] == [await instance.state(job) for job in ("unsent", "sent")]


@deadline
async def test_hanging_publish_ends_at_the_deadline(stored: Stored) -> None:
    instance, _ = stored

    async def hang(*args: Any, **kwargs: Any) -> Any:
        await asyncio.Future()

    instance.topics.publish = hang  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        assert RetryLater("not over in time: publish") == await instance.deliver()


async def test_claim_that_is_given_back_after_the_look_puts_its_job_off() -> None:
    clock = Clock()
    store = ScriptedStore(clock)
    instance = Instance(store=store, clock=clock, RETRY_BUDGET="1")
    claimed = LedgerEntry(
        job_id="job", root_job_id="job", retries_before=0, state="claimed", updated_at=START, expire_at=START
    )
    await store.write(claimed, None)
    clock.wait(7200)

    async def give_back() -> None:
        store.before = lambda call, entry: None
        found = await store.load("job")
        assert found
        await store.write(found.entry.released(), found.version)

    store.before = lambda call, entry: give_back() if call == "claimed" else None
    assert RetryLater("the ledger's entry has changed meanwhile") == await instance.deliver(attempt=2)
    assert ("open", "claim") == ((await instance.state())[0], instance.line["failedStep"])


# shutdown


@pytest.mark.parametrize("at", ["token", "claim"])
async def test_shutdown_before_the_call_hands_the_job_back(stored: Stored, at: str) -> None:
    instance, store = stored

    async def token() -> Answer:
        if at == "token":
            instance.container.shutdown.set()
        return 200, {"access_token": f"{MARK}-token"}

    instance.http.token_script = [token]
    store.after = lambda call, entry: instance.container.shutdown.set() if at == "claim" else None
    assert isinstance(await instance.deliver(attempt=1), RetryLater)
    assert ([], ("open", 0) if at == "claim" else ("", 0)) == (instance.http.retries, await instance.state())
    assert ("claim" if at == "token" else "retry") == instance.line["failedStep"]


async def test_shutdown_during_the_call_lets_it_finish(instance: Instance) -> None:
    async def answer() -> Answer:
        instance.container.shutdown.set()
        await asyncio.sleep(0.01)
        return NEW

    instance.script("job", answer)
    assert Retried("new") == await instance.deliver()


# what the log line tells


async def test_delay_is_from_failure_to_record(instance: Instance) -> None:
    instance.clock.wait(4)
    await instance.deliver(failed("one"))
    assert 4.0 == instance.line["delaySeconds"]
    await instance.deliver(failed("two", failedAt=later(3.5).isoformat()))
    assert 0.5 == instance.line["delaySeconds"]
    await instance.deliver(failed("three", failedAt=later(9).isoformat()))  # a producer's clock that is ahead
    assert 0.0 == instance.line["delaySeconds"]


async def test_delay_of_a_repeated_outcome_is_not_told(instance: Instance) -> None:
    for republished in (False, True):
        await instance.deliver()
        assert (republished, republished) == (instance.line["republished"], "delaySeconds" not in instance.line)


async def test_delay_leaves_out_consent(instance: Instance) -> None:
    instance.http.token_script = [INVALID_GRANT]
    assert isinstance(await instance.deliver(), Rejected)
    instance.http.token_script = []
    instance.clock.wait(60)
    assert isinstance(await instance.deliver(published_at=later(30)), Retried)
    assert "delaySeconds" not in instance.line


async def test_cached_token_is_told(instance: Instance) -> None:
    for cached, job in ((False, "one"), (True, "two")):
        await instance.deliver(failed(job))
        assert cached is instance.line["tokenCached"]


def test_step_times_are_rounded() -> None:
    log = LogLine()
    for _ in range(50):
        log.took("claim", time.perf_counter() - 0.0001)
    log.write(10, "words")
    assert all(round(value, 1) == value for value in (*log.fields["stepsMs"].values(), log.fields["latencyMs"]))


# what an event costs


@pytest.mark.parametrize(
    ("event", "attempt", "costs"),
    [
        (failed("first"), 1, {"reads": 2, "tokens": 1, "retries": 1, "ledger": 2, "publishes": 1}),
        (failed("next"), 1, {"reads": 0, "tokens": 0, "retries": 1, "ledger": 2, "publishes": 1}),
        (failed("done"), 2, {"reads": 0, "tokens": 0, "retries": 0, "ledger": 1, "publishes": 1}),
        (failed("done"), 1, {"reads": 0, "tokens": 0, "retries": 0, "ledger": 2, "publishes": 1}),
        (failed("done-again", attempt=1), 1, {"reads": 0, "tokens": 0, "retries": 1, "ledger": 3, "publishes": 1}),
    ],
    ids=["the instance's first", "with a cached token", "redelivered", "published twice", "made by a retry"],
)
async def test_calls_of_one_delivery(
    stored: Stored, event: dict[str, Any], attempt: int, costs: dict[str, int]
) -> None:
    instance, store = stored
    if event["archiveJobId"] != "first":
        await instance.deliver(failed("done"))

    def counted() -> dict[str, int]:
        return {
            "reads": len(instance.secrets.names),
            "tokens": len(instance.http.token_forms),
            "retries": len(instance.http.retries),
            "ledger": len(store.calls),
            "publishes": len(instance.topics.messages),
        }

    before = counted()
    await instance.deliver(event, attempt=attempt)
    assert costs == {kind: number - before[kind] for kind, number in counted().items()}


async def test_jobs_of_one_user_share_a_token(instance: Instance) -> None:
    await asyncio.gather(*(instance.deliver(failed(f"job-{number}")) for number in range(10)))
    assert (2, 1, 10) == (len(instance.secrets.reads), len(instance.http.token_forms), len(instance.retried))
