"""What the tests of infra/ ask of the functions' code. Every import of handlers/ that they need is in this file."""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

import handlers
from handlers.bootstrap import Clients, Container
from handlers.domain.events import encode
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.messages import ArchiveJobRetried, RetryRejected
from handlers.domain.outcomes import Cause, Reason
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.google.firestore import FirestoreStore
from handlers.memory_store import MemoryStore
from handlers.settings import Settings, WrongSettings, from_environment
from handlers.telemetry.logging import configure_logs, log
from handlers.web.endpoints import Endpoints

__all__ = [
    "Account",
    "ArchiveJobRetried",
    "Cause",
    "Clients",
    "Container",
    "Endpoints",
    "GoogleClients",
    "LedgerEntry",
    "MemoryStore",
    "Reason",
    "RetryRejected",
    "Settings",
    "WrongSettings",
    "configure_logs",
    "encode",
    "log",
]

_OF_LIBRARIES = {"HTTPS_PROXY", "NO_PROXY"}
_OF_THE_DELIVERY = {"SOURCE_OBJECT"}


def setting_names() -> set[str]:
    """The environment variables that the code reads, its libraries and the delivery."""
    return {field.encode_name for field in msgspec.structs.fields(Settings)} | _OF_LIBRARIES | _OF_THE_DELIVERY


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a function has in this environment. Raises WrongSettings."""
    return from_environment(environment)


def timeouts() -> Iterator[tuple[str, float]]:
    """Every deadline of a network call that the code has: module constants with TIMEOUT in their names."""
    for found in pkgutil.walk_packages(handlers.__path__, "handlers."):
        for name, value in vars(importlib.import_module(found.name)).items():
            if "TIMEOUT" in name and isinstance(value, int | float):
                yield f"{found.name}.{name}", value


def queried_fields() -> set[str]:
    """The fields that the ledger's query filters and orders by, from the request that it really makes."""
    requests: list[Any] = []

    class Recorder:
        async def run_query(self, request: Any, **_: Any) -> AsyncIterator[Any]:
            requests.append(request)
            return _nothing()

    async def client() -> Recorder:
        return Recorder()

    store = FirestoreStore(client, settings_of({"GOOGLE_CLOUD_PROJECT": "p"}))
    asyncio.run(store.due(datetime.now(UTC), 1))
    query = requests[0].structured_query
    filtered = query.where.composite_filter.filters or [query.where]
    ordered = {order.field.field_path for order in query.order_by} - {"__name__"}  # with which every index ends
    return {part.field_filter.field.field_path for part in filtered} | ordered


async def _nothing() -> AsyncIterator[Any]:
    return
    yield
