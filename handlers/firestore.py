"""The ledger's entries in Firestore: one document each, named by the failed job's id."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, GoogleAPIError, NotFound
from google.cloud.firestore_v1.types.firestore import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    CommitRequest,
    CommitResponse,
    RunQueryRequest,
    RunQueryResponse,
)

from handlers.ledger import Conflict, Entry, Stored
from handlers.rpc import Service, fault_of

_NOT_BEFORE = {"field_path": "notBefore"}
_TIMEOUT = 10.0  # seconds for one call; the ledger tries again within the caller's own deadline
_RESERVED = re.compile(r"\.|\.\.|__.*__")  # https://cloud.google.com/firestore/quotas#limits

# The bare protobuf class: the wrapper around it costs several times their work.
_Commit = CommitRequest.pb()


class FirestoreClient:
    """The methods of FirestoreAsyncClient that the store needs."""

    HOST, SERVICE = "firestore.googleapis.com", "google.firestore.v1.Firestore"

    def __init__(self, service: Service) -> None:
        self.batch_get_documents = service.streaming(
            "BatchGetDocuments", BatchGetDocumentsRequest, BatchGetDocumentsResponse, routed_by="database"
        )
        self.commit = service.unary("Commit", CommitRequest, CommitResponse, routed_by="database")
        self.run_query = service.streaming("RunQuery", RunQueryRequest, RunQueryResponse, routed_by="parent")


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
        request = BatchGetDocumentsRequest(database=self._database, documents=[self._name(job_id)])
        try:
            answers = await self._client.batch_get_documents(request, retry=None, timeout=_TIMEOUT)
            [answer] = [answer._pb async for answer in answers]
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
            "limit": limit,
        }
        request = RunQueryRequest(parent=self._collection.rpartition("/")[0], structured_query=query)
        try:
            answers = await self._client.run_query(request, retry=None, timeout=_TIMEOUT)
            return [_stored(answer._pb.document, answer._pb.read_time) async for answer in answers if answer.document]
        except GoogleAPIError as error:
            raise fault_of(error, "reading the ledger") from None

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        commit = _Commit(database=self._database)
        self._add(commit, entry, version)
        if link:
            self._add(commit, link, None)
        try:
            answer = await self._client.commit(CommitRequest.wrap(commit), retry=None, timeout=_TIMEOUT)
        except (AlreadyExists, FailedPrecondition, NotFound):
            raise Conflict from None
        except GoogleAPIError as error:
            raise fault_of(error, "writing the ledger") from None
        return answer._pb.write_results[0].update_time

    def _add(self, commit: Any, entry: Entry, version: Any) -> None:
        write = commit.writes.add()
        write.update.name = self._name(entry.job_id)
        fields = write.update.fields
        for name, value in msgspec.to_builtins(entry, builtin_types=(datetime, bytes)).items():
            setattr(fields[name], _KINDS[type(value)], value)
        if version is None:
            write.current_document.exists = False
        else:
            write.current_document.update_time.CopyFrom(version)

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
    datetime: "timestamp_value",
}


def _native(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    return value.timestamp_value.ToDatetime(UTC) if kind == "timestamp_value" else getattr(value, kind)
