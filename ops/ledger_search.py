"""The ledger as a whole: counted, searched and cleared, where the function only ever looks one job up."""

from collections.abc import Mapping
from typing import Any

import msgspec
from google.api_core.exceptions import GoogleAPIError
from google.cloud.firestore_v1.types import (
    CommitRequest,
    RunAggregationQueryRequest,
    RunAggregationQueryResponse,
)

from handlers.domain.ledger_entry import LedgerEntry
from handlers.google.firestore import FirestoreStore
from handlers.google.grpc_errors import to_step_error
from handlers.ports import Unreadable, VersionedEntry
from handlers.settings import Settings

_TIMEOUT = 60.0  # seconds for one call
_MAX_WRITES = 500  # in one commit
_LARGE = ("event", "attributes")  # fields that nobody lists

Where = Mapping[str, str | list[int]]  # field → its value, or one of these


class SearchableStore(FirestoreStore):
    """Each method raises Transient or Misconfigured. A field that is asked for needs an index of its own."""

    async def count(self, where: Where) -> int:
        query = {"from_": [{"collection_id": self.collection}], **_filter(where)}
        counted = {"structured_query": query, "aggregations": [{"alias": "n", "count": {}}]}
        request = RunAggregationQueryRequest(parent=self._documents, structured_aggregation_query=counted)
        try:
            client = await self._client()
            stream = await client.run_aggregation_query(request, retry=None, timeout=_TIMEOUT, metadata=self._metadata)
            [answer] = [RunAggregationQueryResponse.pb(answer) async for answer in stream]
        except GoogleAPIError as error:
            raise to_step_error(error, "counting the ledger") from None
        return int(answer.result.aggregate_fields["n"].integer_value)

    async def find(self, where: Where, limit: int) -> list[VersionedEntry | Unreadable]:
        """Entries of the ledger, without what a deferral keeps of its event."""
        names = [field.encode_name for field in msgspec.structs.fields(LedgerEntry)]
        query = _filter(where) | _select(*(name for name in names if name not in _LARGE)) | {"limit": {"value": limit}}
        answers = await self._answers(query, "searching the ledger", _TIMEOUT)
        return [self._entry(answer.document, answer.read_time) for answer in answers]

    async def credentials(self, where: Where) -> dict[str, str]:
        """The full name of each document, and its credential, "" where it names none. No entry is too broken for it."""
        query = _filter(where) | _select("credentialId")
        documents = [one.document for one in await self._answers(query, "searching the ledger", _TIMEOUT)]
        return {one.name: one.fields["credentialId"].string_value for one in documents}

    async def delete(self, names: list[str]) -> None:
        """Documents by their full names."""
        for start in range(0, len(names), _MAX_WRITES):
            writes = [{"delete": name} for name in names[start : start + _MAX_WRITES]]
            request = CommitRequest(database=self.database, writes=writes)
            try:
                client = await self._client()
                await client.commit(request, retry=None, timeout=_TIMEOUT, metadata=self._metadata)
            except GoogleAPIError as error:
                raise to_step_error(error, "clearing the ledger") from None


def ledger_name(settings: Settings) -> str:
    """For people: an empty one may be another than the function's."""
    return f"{settings.retry_ledger_collection} in database {settings.firestore_database}"


def _filter(where: Where) -> dict[str, Any]:
    filters = [{"field_filter": {"field": {"field_path": name}, **_wanted(value)}} for name, value in where.items()]
    return {"where": {"composite_filter": {"op": "AND", "filters": filters}}} if filters else {}


def _select(*fields: str) -> dict[str, Any]:
    return {"select": {"fields": [{"field_path": name} for name in fields]}}


def _wanted(value: str | list[int]) -> dict[str, Any]:
    if isinstance(value, str):
        return {"op": "EQUAL", "value": {"string_value": value}}
    return {"op": "IN", "value": {"array_value": {"values": [{"integer_value": number} for number in value]}}}
