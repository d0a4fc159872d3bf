"""The ledger, its indexes, and whether the schedule puts back what is due."""

from datetime import datetime, timedelta
from typing import Any

from google.api_core.exceptions import GoogleAPIError
from google.cloud.firestore_admin_v1.services.firestore_admin.async_client import FirestoreAdminAsyncClient
from google.cloud.firestore_admin_v1.types import Field

from handlers.bootstrap import WATCH_SUFFIX
from handlers.domain.decisions import RetryPolicy
from handlers.domain.outcomes import Misconfigured
from handlers.google.grpc_errors import to_step_error
from handlers.ledger import with_event
from handlers.ports import Store, VersionedEntry
from ops.checks import BOOTSTRAP, Check, CheckResult, failed, not_checked, ok
from ops.cloud import Cloud
from ops.story import duration

_PATIENCE = timedelta(hours=1)  # a run of the schedule may be missed, two may not
_DUE_READ = 100
_ONLY_COPY = (
    "Do not delete this entry: it holds the only copy of its event. "
    "After a rollback, deploy the later release again; else correct the field. Until then the schedule passes it by."
)
_SWITCHED_OFF = " Is the watch switched off? Then WATCH=off here, as in the function."
_CALL: Any = {"retry": None, "timeout": 10.0}


def ledger_checks(cloud: Cloud, now: datetime) -> list[tuple[str, Check]]:
    settings = cloud.settings
    where = f"ledger {settings.firestore_database}/{settings.retry_ledger_collection}"
    if cloud.store is None:
        return [(where, lambda: _in_memory("ledger"))]
    entries, looks, policy = cloud.ledger(), cloud.ledger(WATCH_SUFFIX), settings.retry_policy
    watched: list[tuple[str, Check]] = [("due looks", lambda: _due(looks, "due looks", policy, now, _SWITCHED_OFF))]
    return [
        (where, lambda: _entries(cloud, where)),
        ("due entries", lambda: _due(entries, "due entries", policy, now)),
        *(watched if settings.watch == "on" else []),
        ("indexes for ops", lambda: _searchable(cloud)),
        ("ledger's expiry", lambda: _expiry(cloud)),
    ]


async def _in_memory(subject: str) -> list[CheckResult]:
    return [not_checked(subject, "it is in the function's own memory (RETRY_LEDGER=memory)")]


async def _entries(cloud: Cloud, where: str) -> list[CheckResult]:
    ledger = cloud.ledger()
    await ledger.load("ops-check")
    number = await ledger.count({})
    return [ok(where, f"{number} entries")]


async def _due(store: Store, subject: str, policy: RetryPolicy, now: datetime, hint: str = "") -> list[CheckResult]:
    """Entries are due until the schedule has put them back: the oldest one tells whether it runs."""
    found = [with_event(one) for one in (await store.due(now, _DUE_READ)).entries]
    entries = [one for one in found if isinstance(one, VersionedEntry)]
    broken = [one for one in found if not isinstance(one, VersionedEntry)]
    results = [failed(subject, one.detail, _ONLY_COPY) for one in broken]
    oldest = min((_due_since(one, policy) for one in entries), default=now)
    if now - oldest > _PATIENCE:
        said = f"{len(entries)} wait to be put back, the oldest for {duration(now - oldest)}"
        results.append(failed(subject, said, f"Look at the schedule's job, and at its function's log lines.{hint}"))
    return results or [ok(subject, f"{len(entries)} wait for the next run of the schedule")]


def _due_since(found: VersionedEntry, policy: RetryPolicy) -> datetime:
    """From when on the schedule puts this back: it leaves a lease and a pause to pass."""
    entry, wait = found.entry, policy.pause_before(found.entry)
    if entry.state == "claimed":
        wait = max(wait, entry.lease_seconds)
    waited = found.written_at + timedelta(seconds=wait)
    return max(entry.not_before, waited) if entry.not_before else waited


async def _searchable(cloud: Cloud) -> list[CheckResult]:
    subject, missing = "indexes for ops", []
    wanted: dict[str, str | list[int]] = {"state": "claimed", "userId": "nobody", "reason": "none", "callsCounted": [1]}
    for field, value in wanted.items():
        try:
            await cloud.ledger().count({field: value})
        except Misconfigured as error:
            if "index" not in str(error):
                raise
            missing.append(field)
    if missing:
        said = f"none for {', '.join(missing)}: ops list and ops forget cannot search the ledger"
        return [failed(subject, said, BOOTSTRAP)]
    return [ok(subject)]


async def _expiry(cloud: Cloud) -> list[CheckResult]:
    subject, results = "ledger's expiry", []
    client = await cloud.clients.client(FirestoreAdminAsyncClient, cloud.settings.firestore_emulator_host)
    for store in (cloud.ledger(), cloud.ledger(WATCH_SUFFIX)):
        name = f"{store.database}/collectionGroups/{store.collection}/fields/expireAt"
        try:
            field = await client.get_field(name=name, **_CALL)
        except GoogleAPIError as error:
            raise to_step_error(error, "reading the ledger's expiry") from None
        if field.ttl_config.state != Field.TtlConfig.State.ACTIVE:
            said = f"no TTL policy is active for {store.collection}: entries are kept for ever"
            results.append(failed(subject, said, BOOTSTRAP))
    return results or [ok(subject, "entries are deleted when their time has passed")]
