"""The ledger's entries in Firestore: one document each, named by the failed job's id."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, GoogleAPIError, NotFound
from google.api_core.retry_async import AsyncRetry, if_exception_type
from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    CommitRequest,
    CommitResponse,
    Cursor,
    DocumentMask,
    RunQueryRequest,
    RunQueryResponse,
    Value,
)

from handlers.domain.ledger_entry import LedgerEntry, is_sound
from handlers.domain.outcomes import Transient
from handlers.google.batching import MAX_LATENCY, Batcher
from handlers.google.clients import Client
from handlers.google.grpc_errors import is_refused, to_step_error
from handlers.ports import Conflict, Page, Unreadable, UnreadableEntry, VersionedEntry
from handlers.settings import Settings

_TIMEOUT = 10.0  # seconds for one call; the ledger tries again within its caller's deadline
_RESERVED = re.compile(r"\.|\.\.|__.*__")  # https://cloud.google.com/firestore/quotas#limits

# Two writes to one document abort each other while they overlap. Such a write goes alone, and waits for its turn.
_ABORTED: Any = AsyncRetry(predicate=if_exception_type(Aborted), initial=0.1, maximum=2.0, timeout=_TIMEOUT)

_BatchGet, _Commit, _Cursor, _RunQuery, _Value = (
    kind.pb() for kind in (BatchGetDocumentsRequest, CommitRequest, Cursor, RunQueryRequest, Value)
)
# What is written to an entry that is there: fields of a later version of the program stay as they are.
_MASK = DocumentMask.pb()(field_paths=[field.encode_name for field in msgspec.structs.fields(LedgerEntry)])
_FIXED_BYTES = 4096  # more than a write has, but for what a deferral keeps of its event
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_KINDS = {str: "string_value", int: "integer_value", float: "double_value", bytes: "bytes_value"}

_Writes = list[tuple[LedgerEntry, Any]]  # each entry with the version that it replaces, None where there is none


class FirestoreStore:
    """Atomicity is Firestore's: a write that expects no document fails where there is one, and a write that expects
    an update time fails where it has moved on. Writes that come close together go as one commit.
    """

    def __init__(
        self, client: Client, settings: Settings, suffix: str = "", *, max_latency: float = MAX_LATENCY
    ) -> None:
        self._client = client
        self.database = f"projects/{settings.google_cloud_project}/databases/{settings.firestore_database}"
        self._documents = f"{self.database}/documents"
        self.collection = settings.retry_ledger_collection + suffix
        # Google's front end finds a named database by it (https://github.com/googleapis/google-cloud-rust/issues/4033);
        # the generated client does not send it
        self._metadata = (("google-cloud-resource-prefix", self.database),)
        self._commit = Batcher(self._send, size=_size, keys=_names, is_refused=is_refused, max_latency=max_latency)

    async def load(self, job_id: str) -> VersionedEntry | None:
        request = BatchGetDocumentsRequest.wrap(_BatchGet(database=self.database, documents=[self._name(job_id)]))
        try:
            client = await self._client()
            stream = await client.batch_get_documents(request, retry=None, timeout=_TIMEOUT, metadata=self._metadata)
            answers = [BatchGetDocumentsResponse.pb(answer) async for answer in stream]
        except GoogleAPIError as error:
            raise to_step_error(error, "reading the ledger") from None
        if not answers:
            raise Transient("reading the ledger: an empty answer")
        if not answers[0].HasField("found"):
            return None
        found = self._entry(answers[0].found, answers[0].read_time)
        if isinstance(found, Unreadable):
            raise UnreadableEntry(found.detail)
        return found

    async def due(self, before: datetime, limit: int, start: Any = None) -> Page:
        # Only what was deferred has a `notBefore`, so its own index finds it.
        not_before, name = {"field_path": "notBefore"}, {"field_path": "__name__"}
        is_due = {"field": not_before, "op": "LESS_THAN_OR_EQUAL", "value": {"timestamp_value": before}}
        order = [{"field": not_before}, {"field": name}]
        query: dict[str, Any] = {"where": {"field_filter": is_due}, "order_by": order, "limit": {"value": limit}}
        answers = await self._answers(query | ({"start_at": start} if start else {}), "finding what is due")
        following = None
        if len(answers) == limit:
            last = answers[-1].document
            following = _Cursor(values=[last.fields["notBefore"], _Value(reference_value=last.name)], before=False)
        return Page([self._entry(answer.document, answer.read_time) for answer in answers], following)

    async def _answers(self, query: dict[str, Any], action: str, seconds: float = _TIMEOUT) -> list[Any]:
        structured = {"from_": [{"collection_id": self.collection}], **query}
        request = RunQueryRequest.wrap(_RunQuery(parent=self._documents, structured_query=structured))
        try:
            client = await self._client()
            stream = await client.run_query(request, retry=None, timeout=seconds, metadata=self._metadata)
            answers = [RunQueryResponse.pb(answer) async for answer in stream]
        except GoogleAPIError as error:
            raise to_step_error(error, action) from None
        return [answer for answer in answers if answer.HasField("document")]

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        writes = [(entry, version)]
        if link:
            writes.append((link, None))
        try:
            try:
                [first, *_] = await self._commit(writes)
            except Aborted:
                [[first, *_]] = await _ABORTED(self._send)([writes])
        except (AlreadyExists, FailedPrecondition, NotFound):
            raise Conflict from None
        except GoogleAPIError as error:
            raise to_step_error(error, "writing the ledger") from None
        written_at = first.ToDatetime(UTC)
        return VersionedEntry(entry, first, written_at, written_at)

    async def _send(self, groups: list[_Writes]) -> Sequence[Any]:
        """Each group's update times."""
        client = await self._client()
        commit = _Commit(database=self.database)
        for writes in groups:
            for entry, version in writes:
                self._fill(commit.writes.add(), entry, version)
        answer = await client.commit(CommitRequest.wrap(commit), retry=None, timeout=_TIMEOUT, metadata=self._metadata)
        times = (result.update_time for result in CommitResponse.pb(answer).write_results)
        return [list(islice(times, len(writes))) for writes in groups]

    def _fill(self, write: Any, entry: LedgerEntry, version: Any) -> None:
        write.update.name = self._name(entry.job_id)
        fields = write.update.fields
        for name, value in msgspec.to_builtins(entry, builtin_types=(datetime, bytes)).items():
            if isinstance(value, datetime):  # by itself, protobuf takes three times as long for it
                fields[name].timestamp_value.FromMicroseconds((value - _EPOCH) // _MICROSECOND)
            else:
                setattr(fields[name], _KINDS[type(value)], value)
        fields["state"].string_value = entry.state  # its default, too: a query finds no field that is left out
        if version is None:
            write.current_document.exists = False
        else:
            write.update_mask.CopyFrom(_MASK)
            write.current_document.update_time.CopyFrom(version)

    def _entry(self, document: Any, read_at: Any) -> VersionedEntry | Unreadable:
        name = document.name.rpartition("/")[2].removeprefix("job:")
        try:
            fields = {name: _native(value) for name, value in document.fields.items()}
            entry = msgspec.convert(fields, LedgerEntry)
            if self._name(entry.job_id) != document.name or not is_sound(entry):
                raise ValueError("its jobId, newJobId, notBefore or attributes")  # noqa: TRY301
        except (msgspec.ValidationError, ValueError, TypeError, OverflowError) as error:
            said = f"ledger entry {name!a:.300} cannot be read ({error!s:.200})"
            return Unreadable(name, f"{said}: was it edited by hand, or written by a later version?")
        return VersionedEntry(
            entry, document.update_time, document.update_time.ToDatetime(UTC), read_at.ToDatetime(UTC)
        )

    def _name(self, job_id: str) -> str:
        # a colon cannot stand in a job's id, so the longer name is nobody else's
        return f"{self._documents}/{self.collection}/{f'job:{job_id}' if _RESERVED.fullmatch(job_id) else job_id}"


def _size(writes: _Writes) -> int:
    return sum(_FIXED_BYTES + len(entry.event) + 4 * len(entry.attributes) for entry, _ in writes)


def _names(writes: _Writes) -> set[str]:
    """The documents written to: whether a precondition sees an earlier write of the same commit is not documented."""
    return {entry.job_id for entry, _ in writes}


def _native(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    return value.timestamp_value.ToDatetime(UTC) if kind == "timestamp_value" else getattr(value, kind)
