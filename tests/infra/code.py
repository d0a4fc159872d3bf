"""What the tests of infra/ ask of the functions' code. Every import of handlers/ that they need is in this file."""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

import handlers
from handlers import settings, user_credentials
from handlers.events import ArchiveJobRetried, RetryRejected, encode
from handlers.firestore import FirestoreStore
from handlers.outcomes import Reason
from handlers.settings import Settings, WrongSettings
from handlers.telemetry import FIELDS

__all__ = [
    "FIELDS",
    "TOKEN_MARGIN",
    "ArchiveJobRetried",
    "Reason",
    "RetryRejected",
    "Settings",
    "WrongSettings",
    "encode",
]

# How long an access token that is used is good for, at least, in seconds
TOKEN_MARGIN = user_credentials._MARGIN

# Settings of the contract that this version of the code does not know yet; it ignores them.
_COMING = {
    "CANARY_CREDENTIAL",
    "DOUBT_PAUSE_SECONDS",
    "ENDED_TOPIC",
    "HTTPS_PROXY",
    "NO_PROXY",
    "STARTED_TOPIC",
    "TOKEN_HOSTS",
    "WATCH_INTERVAL_SECONDS",
}


def setting_names() -> set[str]:
    """The environment variables that the code reads."""
    return {field.encode_name for field in msgspec.structs.fields(Settings)} | _COMING


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a function has in this environment. Raises WrongSettings."""
    return settings.from_environment(environment)


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
        async def query(self, request: Any) -> AsyncIterator[Any]:
            requests.append(request)
            return
            yield

    store = FirestoreStore(Recorder(), project="p", database="d", collection="c")  # type: ignore[arg-type]
    asyncio.run(store.due(datetime.now(UTC), 1))
    query = requests[0].structured_query
    filtered = query.where.composite_filter.filters or [query.where]
    return {part.field_filter.field.field_path for part in filtered} | {o.field.field_path for o in query.order_by}
