"""Rules of writes that share a commit, and of a ledger that cannot be read."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import from_grpc_status
from grpc import StatusCode

from handlers.entries import Entry
from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.generated import message_module
from handlers.ledger import Ledger
from handlers.outcomes import Broken, NotNow
from handlers.resume_deferred import ResumeDeferred
from handlers.telemetry import Journal
from tests.unit.world import FakeTopic

_Committed = message_module("google.cloud.firestore_v1", "firestore").CommitResponse.pb()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Service:
    """Accepts every commit; each write gets an update time of its own, which only its number makes."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self._writes = 0

    def unary(self, method: str, request_type: Any, answer_type: Any, **options: Any) -> Any:
        async def commit(request: Any) -> Any:
            self.commits.append([write.update.name.rpartition("/")[2] for write in request.writes])
            answer = _Committed()
            for _ in request.writes:
                self._writes += 1
                answer.write_results.add().update_time.FromSeconds(self._writes)
            return answer

        return commit

    streaming = unary


def entry(job_id: str, event: bytes = b"") -> Entry:
    return Entry(job_id=job_id, root_job_id=job_id, attempt=0, event=event, updated_at=NOW, expire_at=NOW)


async def written(service: Any, *writes: tuple[Entry, Entry | None]) -> list[int]:
    """The versions that the writes got, in seconds, after another write has just been sent."""
    store = FirestoreStore(FirestoreClient(service, pause=0.02), project="p", database="d", collection="c")
    first = store.write(entry("first"), None)
    _, *versions = await asyncio.gather(first, *(store.write(mine, None, link) for mine, link in writes))
    return [version.seconds for version in versions]


async def test_each_write_gets_its_own_version() -> None:
    service = Service()
    versions = await written(service, (entry("a"), entry("new")), (entry("b"), None), (entry("c"), None))
    assert service.commits == [["first"], ["a", "new", "b", "c"]]
    assert versions == [2, 4, 5]


async def test_a_claim_of_the_new_job_shares_no_commit_with_the_record_that_links_to_it() -> None:
    service = Service()
    await written(service, (entry("a"), entry("new")), (entry("new"), None))
    assert service.commits == [["first"], ["new"], ["a", "new"]]


async def test_large_events_share_no_commit() -> None:
    service = Service()
    large = b"x" * 600_000
    await written(service, (entry("a", large), None), (entry("b", large), None))
    assert service.commits == [["first"], ["b"], ["a"]]


class Unreadable(Service):
    """Fails every query."""

    def __init__(self, code: StatusCode) -> None:
        super().__init__()
        self._code = code

    def streaming(self, method: str, request_type: Any, answer_type: Any, **options: Any) -> Any:
        async def answers(request: Any) -> AsyncIterator[Any]:
            raise from_grpc_status(self._code, "words")  # type: ignore[no-untyped-call]
            yield

        return answers


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (StatusCode.UNAVAILABLE, NotNow("reading the ledger: UNAVAILABLE")),
        (StatusCode.PERMISSION_DENIED, Broken("reading the ledger: PERMISSION_DENIED")),
    ],
)
async def test_a_scheduled_run_that_cannot_query_the_ledger_says_whether_that_passes(
    code: StatusCode, outcome: NotNow | Broken
) -> None:
    service: Any = Unreadable(code)
    store = FirestoreStore(FirestoreClient(service), project="p", database="d", collection="c")
    ledger = Ledger(store, lease_seconds=150, keep=timedelta(days=45), now=lambda: NOW)
    run = ResumeDeferred(ledger=ledger, failed=FakeTopic(), limit=100, deadline=5)
    assert outcome == await run(Journal())
