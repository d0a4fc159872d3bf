"""The ledger as a whole: counted, searched and cleared, where the function only ever looks one job up."""

from collections.abc import Mapping
from typing import Any

import msgspec
from google.api_core.exceptions import GoogleAPIError
from google.cloud.firestore_v1.types import (
    CommitRequest,
    RunAggregationQueryRequest,
    RunAggregationQueryResponse,
    RunQueryRequest,
    RunQueryResponse,
    StructuredQuery,
)

from handlers.bootstrap import WATCH_SUFFIX
from handlers.domain.ledger_entry import LedgerEntry
from handlers.google.firestore import FirestoreStore
from handlers.google.grpc_errors import to_fault
from handlers.ports import Unreadable, VersionedEntry
from handlers.settings import Settings
from ops.cloud import Cloud

_TIMEOUT = 60.0  # seconds for one call
_MAX_WRITES = 500  # in one commit
_LARGE = ("event", "attributes")  # fields that nobody lists

Where = Mapping[str, str | list[int]]  # field → its value, or one of these


class LedgerSearch:
    """Each method raises Transient or Misconfigured. A field that is asked for needs an index of its own."""

    def __init__(self, cloud: Cloud) -> None:
        settings = cloud.settings
        self._client = cloud.clients.firestore
        self._store: FirestoreStore = cloud.ledger()
        self._database = f"projects/{settings.google_cloud_project}/databases/{settings.firestore_database}"
        self._call: Any = {
            "retry": None,
            "timeout": _TIMEOUT,
            "metadata": (("google-cloud-resource-prefix", self._database),),
        }

    async def count(self, collection: str, where: Where) -> int:
        query = {"from_": [{"collection_id": collection}], **_filter(where)}
        counted = {"structured_query": query, "aggregations": [{"alias": "n", "count": {}}]}
        request = RunAggregationQueryRequest(parent=self._documents, structured_aggregation_query=counted)
        try:
            client = await self._client()
            stream = await client.run_aggregation_query(request, **self._call)
            [answer] = [RunAggregationQueryResponse.pb(answer) async for answer in stream]
        except GoogleAPIError as error:
            raise to_fault(error, "counting the ledger") from None
        return int(answer.result.aggregate_fields["n"].integer_value)

    async def find(self, where: Where, limit: int) -> list[VersionedEntry | Unreadable]:
        """Entries of the ledger, without what a deferral keeps of its event."""
        names = [field.encode_name for field in msgspec.structs.fields(LedgerEntry)]
        fields = [{"field_path": name} for name in names if name not in _LARGE]
        query = {**_filter(where), "select": {"fields": fields}, "limit": {"value": limit}}
        return await self._store.query(query, "searching the ledger")

    async def credentials(self, collection: str, where: Where) -> dict[str, str]:
        """The full name of each document, and its credential, "" where it names none. No entry is too broken for it."""
        select = StructuredQuery.Projection(fields=[{"field_path": "credentialId"}])
        query = StructuredQuery(from_=[{"collection_id": collection}], select=select, **_filter(where))
        request = RunQueryRequest(parent=self._documents, structured_query=query)
        try:
            client = await self._client()
            stream = await client.run_query(request, **self._call)
            answers = [RunQueryResponse.pb(answer) async for answer in stream]
        except GoogleAPIError as error:
            raise to_fault(error, "searching the ledger") from None
        documents = [answer.document for answer in answers if answer.HasField("document")]
        return {one.name: one.fields["credentialId"].string_value for one in documents}

    async def delete(self, names: list[str]) -> None:
        for start in range(0, len(names), _MAX_WRITES):
            writes = [{"delete": name} for name in names[start : start + _MAX_WRITES]]
            try:
                await (await self._client()).commit(CommitRequest(database=self._database, writes=writes), **self._call)
            except GoogleAPIError as error:
                raise to_fault(error, "clearing the ledger") from None

    @property
    def _documents(self) -> str:
        return f"{self._database}/documents"


def ledger_days(settings: Settings) -> float:
    """How long an entry is kept after its last write (handlers/bootstrap.py)."""
    return settings.event_max_age_days + 31


def ledger_name(settings: Settings) -> str:
    """For people: an empty one may be another than the function's."""
    return f"{settings.retry_ledger_collection} in database {settings.firestore_database}"


def watch_collection(settings: Settings) -> str:
    """Where the watch keeps the running jobs that it looks at again."""
    return f"{settings.retry_ledger_collection}{WATCH_SUFFIX}"


def _filter(where: Where) -> dict[str, Any]:
    filters = [{"field_filter": {"field": {"field_path": name}, **_wanted(value)}} for name, value in where.items()]
    return {"where": {"composite_filter": {"op": "AND", "filters": filters}}} if filters else {}


def _wanted(value: str | list[int]) -> dict[str, Any]:
    if isinstance(value, str):
        return {"op": "EQUAL", "value": {"string_value": value}}
    return {"op": "IN", "value": {"array_value": {"values": [{"integer_value": number} for number in value]}}}
