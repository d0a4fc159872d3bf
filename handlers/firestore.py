"""The ledger's entries in Firestore: one document each, named by the failed job's id."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

import msgspec
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, GoogleAPIError, NotFound

from handlers.entries import Entry
from handlers.generated import message_module
from handlers.grouping import PAUSE, Grouped
from handlers.ledger import Conflict, Stored
from handlers.rpc import Service, fault_of, refused

_NOT_BEFORE = {"field_path": "notBefore"}
_TIMEOUT = 10.0  # seconds for one call; the ledger tries again within the caller's own deadline
_RESERVED = re.compile(r"\.|\.\.|__.*__")  # https://cloud.google.com/firestore/quotas#limits

_types = message_module("google.cloud.firestore_v1", "firestore")
_Commit, _Committed = _types.CommitRequest.pb(), _types.CommitResponse.pb()
_Write = message_module("google.cloud.firestore_v1", "write").Write.pb()
_Get, _Got = _types.BatchGetDocumentsRequest.pb(), _types.BatchGetDocumentsResponse.pb()
_Query, _Found = _types.RunQueryRequest.pb(), _types.RunQueryResponse.pb()


class FirestoreClient:
    """The methods of Firestore that the store needs. `commit(database, writes)` gives the writes' update times."""

    HOST, SERVICE = "firestore.googleapis.com", "google.firestore.v1.Firestore"

    def __init__(self, service: Service, *, pause: float = PAUSE) -> None:
        call = service.unary("Commit", _Commit, _Committed, routed_by="database", seconds=_TIMEOUT)

        async def commit(database: str, groups: list[list[Any]]) -> Sequence[Any]:
            answer = await call(_Commit(database=database, writes=chain.from_iterable(groups)))
            times = (result.update_time for result in answer.write_results)
            return [list(islice(times, len(writes))) for writes in groups]

        self.commit = Grouped(commit, size=_size, names=_names, refused=refused, pause=pause)
        self.get = service.streaming("BatchGetDocuments", _Get, _Got, routed_by="database", seconds=_TIMEOUT)
        self.query = service.streaming("RunQuery", _Query, _Found, routed_by="parent", seconds=_TIMEOUT)


class FirestoreStore:
    """Atomicity is Firestore's: a write that expects no document fails where there is one, and a write that expects
    an update time fails where it has moved on.

    The age of a claim is read time less update time, both Firestore's, so no instance's clock comes into it.
    """

    def __init__(self, client: FirestoreClient, *, project: str, database: str, collection: str) -> None:
        self._client = client
        self._database = f"projects/{project}/databases/{database}"
        self._collection = f"{self._database}/documents/{collection}"

    async def load(self, job_id: str) -> Stored | None:
        request = _Get(database=self._database, documents=[self._name(job_id)])
        try:
            [answer] = [answer async for answer in self._client.get(request)]
        except GoogleAPIError as error:
            raise fault_of(error, "reading the ledger") from None
        if not answer.HasField("found"):
            return None
        return _stored(answer.found, answer.read_time)

    async def due(self, now: datetime, limit: int) -> list[Stored]:
        # Only what was deferred has a `notBefore`, so its own index finds it.
        query: dict[str, Any] = {
            "from_": [{"collection_id": self._collection.rpartition("/")[2]}],
            "where": {
                "field_filter": {"field": _NOT_BEFORE, "op": "LESS_THAN_OR_EQUAL", "value": {"timestamp_value": now}}
            },
            "order_by": [{"field": _NOT_BEFORE}],
            "limit": {"value": limit},
        }
        request = _Query(parent=self._collection.rpartition("/")[0], structured_query=query)
        try:
            found = [answer async for answer in self._client.query(request) if answer.HasField("document")]
        except GoogleAPIError as error:
            raise fault_of(error, "reading the ledger") from None
        return [_stored(answer.document, answer.read_time) for answer in found]

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        writes = [self._write(entry, version)]
        if link:
            writes.append(self._write(link, None))
        try:
            times = await self._client.commit(self._database, writes)
        except (AlreadyExists, FailedPrecondition, NotFound):
            raise Conflict from None
        except GoogleAPIError as error:
            raise fault_of(error, "writing the ledger") from None
        return times[0]

    def _write(self, entry: Entry, version: Any) -> Any:
        write = _Write()
        write.update.name = self._name(entry.job_id)
        fields = write.update.fields
        for name, value in msgspec.to_builtins(entry, builtin_types=(datetime, bytes)).items():
            if isinstance(value, datetime):  # by itself, protobuf takes three times as long for it
                fields[name].timestamp_value.FromMicroseconds((value - _EPOCH) // _MICROSECOND)
            else:
                setattr(fields[name], _KINDS[type(value)], value)
        if version is None:
            write.current_document.exists = False
        else:
            write.current_document.update_time.CopyFrom(version)
        return write

    def _name(self, job_id: str) -> str:
        # a colon cannot stand in a job's id, so the longer name is nobody else's
        return f"{self._collection}/{f'job:{job_id}' if _RESERVED.fullmatch(job_id) else job_id}"


def _stored(document: Any, read_at: Any) -> Stored:
    fields = {name: _native(value) for name, value in document.fields.items()}
    age = (read_at.ToNanoseconds() - document.update_time.ToNanoseconds()) / 1e9
    return Stored(msgspec.convert(fields, Entry), document.update_time, age)


_KINDS = {
    str: "string_value",
    int: "integer_value",
    float: "double_value",
    bytes: "bytes_value",
}
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def _size(writes: list[Any]) -> int:
    return sum(write.ByteSize() for write in writes)


def _names(writes: list[Any]) -> set[str]:
    """The documents written to: whether a precondition sees an earlier write of the same commit is not documented."""
    return {write.update.name for write in writes}


def _native(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    return value.timestamp_value.ToDatetime(UTC) if kind == "timestamp_value" else getattr(value, kind)
