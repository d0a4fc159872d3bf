"""Firestore: documents with versions, on a clock of its own.

https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#precondition
"""

import json
from collections.abc import Callable
from typing import Any

from google.api_core.exceptions import AlreadyExists, FailedPrecondition, NotFound
from google.cloud.firestore_v1.types import BatchGetDocumentsResponse, CommitResponse, Document, RunQueryResponse

from handlers.bootstrap import WATCH_SUFFIX
from tests.simulation.faults import EMPTY
from tests.simulation.record import SIGNATURE, Entry, FaultOfOurs, Leak, Record, Written
from tests.simulation.timeline import Timeline
from tests.simulation.watch_record import Kept

_BatchGetDocumentsResponse = BatchGetDocumentsResponse.pb()
_CommitResponse = CommitResponse.pb()
_Document = Document.pb()
_RunQueryResponse = RunQueryResponse.pb()
_SECOND = 1_000_000_000
LATER_FIELD = "ofALaterVersion"  # which this version of the program does not know


class Firestore:
    """One database. Every method is one atomic effect; what it raises is the service's answer."""

    def __init__(self, timeline: Timeline, record: Record, *, epoch: int, mark: bytes) -> None:
        self._timeline = timeline
        self._record = record
        self._mark = mark
        self._epoch = epoch * _SECOND
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
            self._store(write, now)
            answer.write_results.add().update_time.FromNanoseconds(now)
        answer.commit_time.FromNanoseconds(now)
        return answer

    def batch_get(self, request: Any, trouble: str) -> list[Any]:
        if trouble == EMPTY:
            return []
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
        """Documents whose one field is at most the given time, in its order, then by name (1.0 asks for no names)."""
        query = request.structured_query
        asked = query.where.field_filter
        field, limit = asked.field.field_path, query.limit.value
        latest = asked.value.timestamp_value.ToNanoseconds()
        assert asked.op == asked.Operator.Value("LESS_THAN_OR_EQUAL")
        assert [order.field.field_path for order in query.order_by] in ([field], [field, "__name__"])
        after = (-1, "")
        if query.HasField("start_at"):
            moment, name = query.start_at.values
            after = (moment.timestamp_value.ToNanoseconds(), name.reference_value)
        found = sorted(
            (document.fields[field].timestamp_value.ToNanoseconds(), name)
            for name, document in self._documents.items()
            if field in document.fields and _collection(name) == query.from_[0].collection_id
        )
        answers = []
        for moment, name in [one for one in found if one > after][:limit]:
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

    def write_unreadable(self, collection: str, job: str, seconds: float) -> None:
        """For so long there is an entry that is due, and that this version of the program cannot read."""
        document = _Document(name=f"{collection}/{job}")
        if document.name in self._documents:
            return
        document.fields["jobId"].string_value = job
        document.fields["state"].string_value = "hibernating"
        document.fields["notBefore"].timestamp_value.FromNanoseconds(self._now())
        document.update_time.FromNanoseconds(self._tick())
        self._documents[document.name] = document
        what = f"{job} of the watch" if _is_watchs(document.name) else job
        self._record.add(FaultOfOurs(self._timeline.now, what, True))
        self._timeline.after(seconds, self._mend, document.name, what)
        self.deferred(self._now() / _SECOND)

    def _mend(self, name: str, what: str) -> None:
        del self._documents[name]
        self._record.add(FaultOfOurs(self._timeline.now, what, False))

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

    def _store(self, write: Any, now: int) -> None:
        """Fields in the mask are set, or removed where the write does not have them; all others stay."""
        name, delivery, sent = write.update.name, _delivery(write.update), write.update.fields
        before, old = self._entries.get(name), self._documents.get(name)
        mask, document = frozenset(write.update_mask.field_paths), _Document()
        document.CopyFrom(write.update)
        for field in [field for field in sent if (field not in mask if mask else field == SIGNATURE)]:
            del document.fields[field]
        if old is not None and mask:
            for field in [field for field in old.fields if field not in mask]:
                document.fields[field].CopyFrom(old.fields[field])
        if old is None and self._timeline.rng.random() < 0.3:  # by another version of the program, a moment later
            document.fields[LATER_FIELD].string_value = "x"
        age = (now - old.update_time.ToNanoseconds()) / _SECOND if old is not None else 0.0
        document.update_time.FromNanoseconds(now)
        self._documents[name] = document
        after = self._entries[name] = entry_of(document.fields, self._epoch / _SECOND)
        job = document.fields["jobId"].string_value
        written = Kept if _is_watchs(name) else Written
        self._record.add(written(self._timeline.now, delivery, job, before, after, age))
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


def _collection(name: str) -> str:
    return name.split("/")[-2]


def _is_watchs(name: str) -> bool:
    """Whether this document is in the watch's collection."""
    return _collection(name).endswith(WATCH_SUFFIX)


def _delivery(document: Any) -> str:
    return str(document.fields[SIGNATURE].string_value) if SIGNATURE in document.fields else ""


def entry_of(fields: Any, epoch: float) -> Entry:
    """What the fields of a document say."""

    def text(name: str) -> str:
        return str(fields[name].string_value) if name in fields else ""

    def number(name: str) -> int:
        return int(fields[name].integer_value) if name in fields else 0

    def moment(name: str) -> float:
        return fields[name].timestamp_value.ToNanoseconds() / _SECOND - epoch if name in fields else 0.0

    lease = fields.get("leaseSeconds")
    return Entry(
        state=text("state") or "open",
        claims=number("fence"),
        owner=text("holder"),
        lease_seconds=(lease.double_value or lease.integer_value) if lease is not None else 0,
        attempt=number("attempt"),
        calls=number("callsCounted"),
        root=text("rootJobId"),
        new_job=text("newJobId"),
        reason=text("reason"),
        cause=text("cause"),
        user=text("userId"),
        credential=text("credentialId"),
        not_before=moment("notBefore"),
        kept=_credential(fields["event"].bytes_value) if "event" in fields and "notBefore" in fields else "",
        unknown=text(LATER_FIELD),
        kept_until=moment("expireAt"),
        told_at=moment("updatedAt"),
    )


def _credential(event: bytes) -> str:
    fields = json.loads(event)
    return str(fields.get("credentialId") or fields["userId"])
