"""Firestore: documents with versions, on a clock of its own.

https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#precondition
"""

from collections.abc import Callable
from typing import Any

from google.api_core.exceptions import AlreadyExists, FailedPrecondition, NotFound
from google.cloud.firestore_v1.types.firestore import BatchGetDocumentsResponse, CommitResponse, RunQueryResponse

from tests.simulation.clients import SIGNATURE
from tests.simulation.record import Entry, Leak, Record, Written
from tests.simulation.timeline import Timeline

_BatchGetDocumentsResponse = BatchGetDocumentsResponse.pb()
_CommitResponse = CommitResponse.pb()
_RunQueryResponse = RunQueryResponse.pb()
_SECOND = 1_000_000_000


class Firestore:
    """One database. Every method is one atomic effect; what it raises is the service's answer."""

    def __init__(self, timeline: Timeline, record: Record, *, epoch: int, mark: bytes) -> None:
        self._timeline = timeline
        self._record = record
        self._mark = mark
        self._epoch = epoch * _SECOND + int(timeline.rng.uniform(-5.0, 5.0) * _SECOND)
        self._latest = 0
        self._documents: dict[str, Any] = {}
        self._entries: dict[str, Entry] = {}
        self.deferred: Callable[[float], None] = lambda at: None  # told the time (since 1970) of every deferral

    def commit(self, request: Any, trouble: str) -> Any:
        self._record.together(self._timeline.now, "firestore", (_delivery(write.update) for write in request.writes))
        for write in request.writes:
            self._check(write)
        answer = _CommitResponse()
        now = self._tick()
        for write in request.writes:
            self._store(write.update, now)
            answer.write_results.add().update_time.FromNanoseconds(now)
        answer.commit_time.FromNanoseconds(now)
        return answer

    def batch_get(self, request: Any, trouble: str) -> list[Any]:
        answer = _BatchGetDocumentsResponse()
        (name,) = request.documents
        answer.read_time.FromNanoseconds(self._now())
        document = self._documents.get(name)
        if document is None:
            answer.missing = name
        else:
            answer.found.CopyFrom(document)
        return [answer]

    def run_query(self, request: Any, trouble: str) -> list[Any]:
        """Documents whose one field is at most the given time, in its order."""
        query = request.structured_query
        asked = query.where.field_filter
        field, limit = asked.field.field_path, query.limit.value
        latest = asked.value.timestamp_value.ToNanoseconds()
        assert asked.op == asked.Operator.Value("LESS_THAN_OR_EQUAL")
        assert [order.field.field_path for order in query.order_by] == [field]
        found = sorted(
            (document.fields[field].timestamp_value.ToNanoseconds(), name)
            for name, document in self._documents.items()
            if field in document.fields
        )
        answers = []
        for moment, name in found[:limit]:
            if moment <= latest:
                answer = _RunQueryResponse()
                answer.document.CopyFrom(self._documents[name])
                answer.read_time.FromNanoseconds(self._now())
                answers.append(answer)
        return answers

    def waiting(self) -> list[float]:
        """For when each deferral waits, in seconds since 1970."""
        return [
            document.fields["notBefore"].timestamp_value.ToNanoseconds() / _SECOND
            for document in self._documents.values()
            if "notBefore" in document.fields
        ]

    def _check(self, write: Any) -> None:
        document, expected = self._documents.get(write.update.name), write.current_document
        by_time = expected.WhichOneof("condition_type") == "update_time"
        if document is None:
            if by_time or expected.exists:
                raise NotFound("no entity to update")  # type: ignore[no-untyped-call]
        elif by_time and document.update_time != expected.update_time:
            raise FailedPrecondition("not the required base version")  # type: ignore[no-untyped-call]
        elif not by_time and not expected.exists:
            raise AlreadyExists("document already exists")  # type: ignore[no-untyped-call]

    def _store(self, document: Any, now: int) -> None:
        name, delivery = document.name, _delivery(document)
        del document.fields[SIGNATURE]
        before, old = self._entries.get(name), self._documents.get(name)
        age = (now - old.update_time.ToNanoseconds()) / _SECOND if old is not None else 0.0
        document.update_time.FromNanoseconds(now)
        self._documents[name] = document
        after = self._entries[name] = _entry(document.fields)
        job = document.fields["jobId"].string_value
        self._record.add(Written(self._timeline.now, delivery, job, before, after, age))
        if self._mark in document.SerializeToString():
            self._record.add(Leak(self._timeline.now, f"the ledger's document of {job}"))
        if "notBefore" in document.fields:
            self.deferred(document.fields["notBefore"].timestamp_value.ToNanoseconds() / _SECOND)

    def _now(self) -> int:
        return max(self._epoch + int(self._timeline.now * _SECOND), self._latest)

    def _tick(self) -> int:
        """A time later than any before: Firestore gives its writes to one document an order."""
        self._latest = max(self._epoch + int(self._timeline.now * _SECOND), self._latest + 1000)
        return self._latest


def _delivery(document: Any) -> str:
    return str(document.fields[SIGNATURE].string_value)


def _entry(fields: Any) -> Entry:
    def text(name: str) -> str:
        return str(fields[name].string_value) if name in fields else ""

    def number(name: str) -> int:
        return int(fields[name].integer_value) if name in fields else 0

    lease = fields.get("leaseSeconds")
    return Entry(
        state=text("state") or "open",
        fence=number("fence"),
        holder=text("holder"),
        lease_seconds=(lease.double_value or lease.integer_value) if lease is not None else 0,
        attempt=number("attempt"),
        in_doubt=number("callsCounted"),
        root=text("rootJobId"),
        new_job=text("newJobId"),
        reason=text("reason"),
        waits="notBefore" in fields,
    )
