"""The stored form of a ledger entry, which releases share: its fields may become more, and none of them another."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args, get_type_hints

import pytest

from handlers.domain.ledger_entry import LedgerEntry
from handlers.ports import Store
from tests.unit.fakes import START
from tests.unit.instance import Instance

STORED = {
    "attempt": "integer_value",
    "attributes": "string_value",
    "callsCounted": "integer_value",
    "cause": "string_value",
    "credentialId": "string_value",
    "decidedAt": "timestamp_value",
    "detail": "string_value",
    "doubtsWaitedFor": "integer_value",
    "event": "bytes_value",
    "expireAt": "timestamp_value",
    "fence": "integer_value",
    "holder": "string_value",
    "inDoubtBefore": "integer_value",
    "jobId": "string_value",
    "leaseSeconds": "double_value",
    "newJobId": "string_value",
    "notBefore": "timestamp_value",
    "reason": "string_value",
    "rootJobId": "string_value",
    "state": "string_value",
    "updatedAt": "timestamp_value",
    "userId": "string_value",
}
ALL_STATES = ("open", "claimed", "retried", "rejected", "deferred", "ended")
ENTRY = LedgerEntry(
    job_id="job",
    root_job_id="root",
    retries_before=1,
    in_doubt_before=1,
    user_id="alice",
    credential_id="alice",
    state="deferred",
    claim_count=1,
    lease_owner="me",
    lease_seconds=150.0,
    calls_made=1,
    doubts_waited_for=1,
    new_job_id="new",
    reason="COOLDOWN",
    cause="NO_SECRET",
    detail="words",
    not_before=START + timedelta(days=1),
    event=b"{}",
    attributes="{}",
    decided_at=START,
    updated_at=START,
    expire_at=START,
)


@dataclass(frozen=True, slots=True)
class Ledger:
    """One of the two collections."""

    store: Store
    documents: dict[str, Any]
    collection: str


@pytest.fixture(params=["archiveJobRetries", "archiveJobRetriesWatch"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    instance = Instance(RETRY_LEDGER="firestore")
    container = instance.container
    store = container.watch_store if request.param.endswith("Watch") else container.store
    return Ledger(store, instance.documents.documents, request.param)


async def test_fields_are_stored_under_these_names_and_as_these_types(ledger: Ledger) -> None:
    await ledger.store.write(ENTRY, None)
    [(name, document)] = ledger.documents.items()
    assert f"projects/a-project/databases/(default)/documents/{ledger.collection}/job" == name
    assert STORED == {name: value.WhichOneof("value_type") for name, value in document.fields.items()}


async def test_stored_form_is_read_as_it_was_written(ledger: Ledger) -> None:
    await ledger.store.write(ENTRY, None)
    found = await ledger.store.load("job")
    assert found
    assert ENTRY == found.entry


def test_states_are_these() -> None:
    assert ALL_STATES == get_args(get_type_hints(LedgerEntry)["state"])
