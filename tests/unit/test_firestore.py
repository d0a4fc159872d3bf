"""The ledger's store in Firestore: what goes over the wire, and what an odd answer comes to."""

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.cloud.firestore_v1.types import Document

from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Fault, Resumed, Retried
from handlers.ports import Conflict, VersionedEntry
from tests.unit.fakes import START, FakeFirestore, cooldown, google_error, grpc_error
from tests.unit.instance import Instance, LogLines, failed, later

DOCUMENTS = "projects/a-project/databases/(default)/documents/archiveJobRetries"
ABORTED, UNAVAILABLE = grpc_error("ABORTED"), grpc_error("UNAVAILABLE")


@pytest.fixture
def instance() -> Instance:
    return Instance(RETRY_LEDGER="firestore", WATCH="off")


def entry(job: str, **fields: Any) -> LedgerEntry:
    known: dict[str, Any] = {
        "job_id": job,
        "root_job_id": job,
        "retries_before": 0,
        "updated_at": START,
        "expire_at": START,
    }
    return LedgerEntry(**known | fields)


async def written(instance: Instance, *writes: tuple[LedgerEntry, LedgerEntry | None]) -> list[VersionedEntry]:
    """All at once, after another write has just been sent."""
    store = instance.container.store
    first = store.write(entry("first"), None)
    _, *versions = await asyncio.gather(first, *(store.write(one, None, link) for one, link in writes))
    return list(versions)


async def test_each_call_names_its_database() -> None:
    instance = Instance(RETRY_LEDGER="firestore", FIRESTORE_DATABASE="retry-ledger", WATCH="off")
    await instance.deliver(attempt=2)
    await instance.resume()
    assert {"read", "commit", "query"} == set(instance.documents.calls)
    database = "projects/a-project/databases/retry-ledger"
    assert [{"google-cloud-resource-prefix": database}] * 4 == instance.documents.metadata


async def test_entry_of_the_ledger_keeps_unknown_fields(instance: Instance) -> None:
    await instance.container.store.write(entry("job"), None)
    document = instance.documents.documents[f"{DOCUMENTS}/job"]
    document.fields["fieldOfALaterVersion"].string_value = "stays"
    assert isinstance(await instance.deliver(attempt=2), Retried)
    document = instance.documents.documents[f"{DOCUMENTS}/job"]
    assert ("stays", "retried") == (
        document.fields["fieldOfALaterVersion"].string_value,
        document.fields["state"].string_value,
    )
    assert "holder" not in document.fields  # a default is not stored


async def test_batched_writes_get_their_own_versions(instance: Instance) -> None:
    a, b = await written(instance, (entry("a"), entry("new")), (entry("b"), None))
    assert [["first"], ["a", "new", "b"]] == instance.documents.commits
    for one in (a, b):
        assert instance.documents.documents[f"{DOCUMENTS}/{one.entry.job_id}"].update_time == one.version


async def test_batch_holds_no_document_twice(instance: Instance) -> None:
    results = await asyncio.gather(
        written(instance, (entry("a"), entry("new")), (entry("new"), None)), return_exceptions=True
    )
    assert [["first"], ["new"], ["a", "new"]] == instance.documents.commits[:3]
    assert [Conflict] == [type(one) for one in results]


async def test_aborted_batch_is_sent_again_one_by_one(instance: Instance) -> None:
    instance.documents.faults = [None, ABORTED]
    await written(instance, *((entry(job), None) for job in "abc"))
    assert [["first"], ["a", "b", "c"], ["a"], ["b"], ["c"]] == instance.documents.commits


async def test_contended_document_holds_up_no_other(instance: Instance) -> None:
    class Contended(FakeFirestore):
        contended = True

        async def commit(self, request: Any, **options: Any) -> Any:
            if self.contended and any("contended" in write.update.name for write in request.writes):
                self.commits.append(["contended"])
                raise ABORTED
            return await super().commit(request, **options)

    documents = instance.clients.documents = Contended(instance.clock)
    hot = asyncio.create_task(written(instance, (entry("contended"), None)))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(2):
        for number in range(5):
            await asyncio.gather(*(instance.container.store.write(entry(f"{number}-{n}"), None) for n in range(8)))
    assert 5 > documents.commits.count(["contended"])  # it waits between its tries
    documents.contended = False
    async with asyncio.timeout(5):
        [version] = await hot
    assert documents.documents[f"{DOCUMENTS}/contended"].update_time == version.version


@pytest.mark.parametrize("lost", [ABORTED, UNAVAILABLE])
async def test_passing_ledger_fault_costs_nothing(instance: Instance, lost: Exception) -> None:
    instance.documents.faults = [lost]
    assert isinstance(await instance.deliver(attempt=1), Retried)
    assert 1 == instance.retried[0]["attempt"]


@pytest.mark.parametrize("lost", [1, 2])
async def test_empty_read_after_a_lost_commit_forgets_no_new_job(lost: int) -> None:
    class LosesAnswers(FakeFirestore):
        async def commit(self, request: Any, **options: Any) -> Any:
            answer = await super().commit(request, **options)
            if len(self.commits) == lost:
                raise UNAVAILABLE
            return answer

        async def batch_get_documents(self, request: Any, **options: Any) -> Any:
            stream = await super().batch_get_documents(request, **options)
            return nothing() if self.calls.count("read") == 1 else stream

    async def nothing() -> Any:
        for answer in list[Any]():
            yield answer

    instance = Instance(RETRY_LEDGER="firestore")
    instance.clients.documents = LosesAnswers(instance.clock)
    assert Retried("job-again") == await instance.deliver(attempt=1)
    assert (["job"], ("retried", 1)) == (instance.http.retries, await instance.state())


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "NOT_FOUND", "INVALID_ARGUMENT"])
async def test_misconfigured_ledger_is_a_fault_of_ours(instance: Instance, code: str) -> None:
    instance.documents.faults = [grpc_error(code)] * 100
    assert isinstance(await instance.deliver(attempt=2), Fault)
    assert ([], "look") == (instance.http.retries, instance.line["failedStep"])


async def test_database_that_is_not_found_for_a_moment_keeps_the_chain(instance: Instance) -> None:
    """NOT_FOUND at the write that records an answer is no conflict over the new job's entry."""
    instance.documents.faults = [None, grpc_error("NOT_FOUND")]
    await instance.deliver(failed(rootArchiveJobId="root", attempt=1), attempt=1)
    await instance.deliver(failed("job-again"), attempt=1)
    assert [("root", 2), ("root", 3)] == [(one["rootArchiveJobId"], one["attempt"]) for one in instance.retried]


# the schedule


async def deferred(instance: Instance, *jobs: str) -> None:
    for job in jobs:
        instance.script(job, cooldown(later(60)))
        await instance.deliver(failed(job), attempt=1)


def to_float(document: Any) -> None:
    document.fields["attempt"].double_value = 1.0


def unknown_state(document: Any) -> None:
    document.fields["state"].string_value = "paused"


def other_job(document: Any) -> None:
    document.fields["jobId"].string_value = "other\nline"


def lease_of_nan(document: Any) -> None:
    document.fields["leaseSeconds"].double_value = math.nan


def no_root(document: Any) -> None:
    del document.fields["rootJobId"]


def a_map(document: Any) -> None:
    document.fields["userId"].map_value.SetInParent()


@pytest.mark.parametrize("spoil", [to_float, unknown_state, other_job, lease_of_nan, no_root, a_map])
async def test_unreadable_entry_is_named_and_passed_by(
    instance: Instance, logged: LogLines, spoil: Callable[[Document], None]
) -> None:
    await deferred(instance, "bad", "good")
    spoil(instance.documents.documents[f"{DOCUMENTS}/bad"])
    instance.clock.wait(61)
    assert Resumed(1) == await instance.resume()
    assert ["good"] == [one["archiveJobId"] for one in instance.published("archive-job-failed")]
    [line] = logged.lines
    assert ("WARNING", True) == (line["severity"], "ledger entry 'bad' cannot be read" in line["message"])
    outcome = await instance.deliver(failed("bad"), attempt=2)
    assert isinstance(outcome, Fault)
    assert "ledger entry 'bad' cannot be read" in outcome.detail


async def test_unreadable_entries_hold_up_no_other(instance: Instance) -> None:
    bad = [f"bad-{number}" for number in range(60)]
    await deferred(instance, *bad, "good")
    for job in bad:
        unknown_state(instance.documents.documents[f"{DOCUMENTS}/{job}"])
    instance.clock.wait(61)
    assert Resumed(1) == await instance.resume()


@pytest.mark.parametrize(
    ("faults", "outcome"),
    [
        ([UNAVAILABLE], Resumed(1)),
        ([ABORTED, UNAVAILABLE], Resumed(1)),
        ([grpc_error("PERMISSION_DENIED")] * 9, Fault("finding what is due: PERMISSION_DENIED: words")),
    ],
)
async def test_query_that_fails_for_a_moment_is_tried_again(
    instance: Instance, faults: list[Exception | None], outcome: Any
) -> None:
    await deferred(instance, "job")
    instance.clock.wait(61)
    instance.documents.faults = faults
    assert outcome == await instance.resume()


async def test_deferral_is_judged_by_the_stores_clock(instance: Instance) -> None:
    """An instance whose clock is an hour off neither calls early nor puts back early."""
    instance.container.now = lambda: START + timedelta(hours=1)
    await deferred(instance, "job")
    assert Resumed(0) == await instance.resume()
    instance.script("job", google_error(404))
    assert "not" == await instance.reason(attempt=2)
