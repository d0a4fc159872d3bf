"""What the ledger holds as a whole, and what becomes of it when a user is forgotten."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud.firestore_v1.types import (
    CommitRequest,
    RunAggregationQueryRequest,
    RunAggregationQueryResponse,
    RunQueryRequest,
    RunQueryResponse,
)

from handlers.domain.ledger_entry import LedgerEntry
from handlers.settings import from_environment
from local.grpc_service import service, serving
from local.secrets import SecretManager
from ops.cloud import Cloud, connected
from ops.forget import find_user_data, forget
from ops.listing import list_ledger
from tests.ops.running import ops

NOW = datetime.now(UTC)
PREFIX = "dataportability-refresh-token-"
MARKED = "made-up-secret"


def entry(job_id: str, user: str = "alice", **fields: Any) -> LedgerEntry:
    known: Any = {"root_job_id": job_id, "retries_before": 0, "user_id": user, "credential_id": user}
    return LedgerEntry(job_id=job_id, **known | {"updated_at": NOW, "expire_at": NOW + timedelta(days=1)} | fields)


ENTRIES = [
    entry("new"),
    entry("doubted", calls_made=1, claim_count=1),
    entry("claimed", "bob", state="claimed", claim_count=1, lease_seconds=150),
    entry("deferred", "bob", state="deferred", reason="COOLDOWN", not_before=NOW, event=b"x" * 1000, claim_count=1),
    entry("done", state="retried", new_job_id="next", calls_made=1, claim_count=1),
    entry("denied", state="rejected", reason="ACCESS_DENIED", claim_count=1),
    entry("used-up", "bob", state="rejected", reason="RETRY_BUDGET_EXHAUSTED", calls_made=3, claim_count=1),
    entry("parked", "carol", state="rejected", reason="OUTCOME_UNKNOWN", calls_made=1, claim_count=1),
]


@asynccontextmanager
async def project_with(
    firestore: str, project: str, entries: list[LedgerEntry]
) -> AsyncIterator[tuple[Cloud, SecretManager, dict[str, str]]]:
    """A ledger with these entries, oldest first, and a Secret Manager."""
    async with SecretManager(project) as secrets:
        environment = {
            "GOOGLE_CLOUD_PROJECT": project,
            "FIRESTORE_EMULATOR_HOST": firestore,
            "SECRET_MANAGER_EMULATOR_HOST": secrets.address,
            "PUBSUB_EMULATOR_HOST": "127.0.0.1:1",
        }
        async with connected(from_environment(environment)) as cloud:
            store = cloud.ledger()
            for one in entries:
                await store.write(one, None)
            yield cloud, secrets, environment


async def write_document(cloud: Cloud, path: str, **fields: str) -> None:
    database = f"projects/{cloud.settings.google_cloud_project}/databases/(default)"
    values = {name: {"string_value": text} for name, text in fields.items()}
    update = {"name": f"{database}/documents/{path}", "fields": values}
    await (await cloud.clients.firestore()).commit(CommitRequest(database=database, writes=[{"update": update}]))


@pytest.mark.parametrize(
    ("states", "users", "reasons", "listed"),
    [
        ((), (), (), ["doubted", "claimed", "deferred", "parked"]),
        (("rejected", "parked"), (), (), ["denied", "used-up", "parked"]),
        ((), ("alice",), (), ["new", "doubted", "done", "denied"]),
        ((), (), ("ACCESS_DENIED", "COOLDOWN"), ["deferred", "denied"]),
        (("rejected", "retried"), ("alice",), (), ["done", "denied"]),
        ((), ("nobody",), (), []),
    ],
)
async def test_list_names_the_oldest_entries_of_what_is_asked_for(
    firestore_emulator: str, project: str, states: Any, users: Any, reasons: Any, listed: list[str]
) -> None:
    async with project_with(firestore_emulator, project, ENTRIES) as (cloud, _, _):
        listing = await list_ledger(cloud, states, users, reasons)
    assert listed == [found.entry.job_id for found in listing.entries]


async def test_search_of_the_whole_ledger_has_a_minute() -> None:
    """Ten thousand entries are some megabytes: a slow link needs longer for them than for one."""
    waits = []

    async def count(request: Any, seconds: float) -> Any:
        waits.append(seconds)
        return RunAggregationQueryResponse.pb()(result={"aggregate_fields": {"n": {"integer_value": 0}}})

    async def find(request: Any, seconds: float) -> Any:
        waits.append(seconds)
        return RunQueryResponse.pb()()

    methods = {"RunQuery": (RunQueryRequest, find), "RunAggregationQuery": (RunAggregationQueryRequest, count)}
    async with serving(service("google.firestore.v1.Firestore", methods)) as address:
        settings = from_environment({"GOOGLE_CLOUD_PROJECT": "p", "FIRESTORE_EMULATOR_HOST": address})
        async with connected(settings) as cloud:
            await list_ledger(cloud, (), (), ())
    assert 50 < min(waits)


async def test_list_counts_by_state_and_names_broken_entries(firestore_emulator: str, project: str) -> None:
    handed_on = entry("handed-on", state="claimed", claim_count=1, retries_before=1, in_doubt_before=1)
    async with project_with(firestore_emulator, project, [*ENTRIES, handed_on]) as (cloud, _, environment):
        await write_document(cloud, "archiveJobRetriesWatch/running", userId="alice", state="deferred")
        await write_document(cloud, "archiveJobRetriesWatch/done", userId="alice", state="ended")
        await write_document(cloud, "archiveJobRetriesWatch/lost", userId="alice", state="rejected")
        await write_document(cloud, "archiveJobRetries/broken", state="claimed", detail="\x1b[2J")
        as_json, shown = await asyncio.gather(ops("list", "--json", **environment), ops("list", **environment))
    told = json.loads(as_json.out)
    assert 1 == next(one["callsInDoubt"] for one in told["entries"] if one["archiveJobId"] == "handed-on")
    assert told["counts"] == {
        "open": 2, "in-doubt": 1, "claimed": 3, "deferred": 1, "rejected": 3, "retried": 1, "watched": 1, "ended": 2
    }  # fmt: skip
    assert ["broken"] == [one["archiveJobId"] for one in told["unreadable"]]
    assert "ledger entry 'broken' cannot be read" in shown.out
    assert "Ledger archiveJobRetries in database (default)" in shown.out
    assert (0, True) == (shown.code, "2 open, 1 in-doubt, 3 claimed, 1 deferred" in shown.out)


async def test_story_survives_a_broken_entry(firestore_emulator: str, project: str) -> None:
    chain = [entry("first", new_job_id="broken", state="retried", calls_made=1, claim_count=1)]
    async with project_with(firestore_emulator, project, chain) as (cloud, _, environment):
        await write_document(cloud, "archiveJobRetries/broken", state="odd\nforged")
        shown, as_json = await asyncio.gather(
            ops("story", "first", **environment), ops("story", "broken", "--json", **environment)
        )
    assert (1, 1) == (shown.code, as_json.code)
    assert "Chain first → broken, with 1 of 3 retries used" in shown.out
    assert "ledger entry 'broken' cannot be read" in shown.out
    assert not any(line.startswith("forged") for line in shown.out.splitlines())
    assert ["broken"] == [job["archiveJobId"] for job in json.loads(as_json.out)["jobs"]]


async def test_forget_deletes_secrets_entries_and_looks_of_no_other_user(firestore_emulator: str, project: str) -> None:
    async with project_with(firestore_emulator, project, ENTRIES) as (cloud, secrets, environment):
        for user in ("alice", "alice-work", "bob"):
            secrets.add_version(PREFIX + user, f"{MARKED}-{user}")
        await write_document(cloud, "archiveJobRetriesWatch/alices", userId="alice")
        await write_document(cloud, "archiveJobRetriesWatch/bobs", userId="bob")
        arguments = ("forget", "--user", "alice", "--credential", "alice-work")

        dry = await ops(*arguments, **environment)
        assert 0 == dry.code, dry.err
        assert "Ledger archiveJobRetries in database (default)" in dry.out
        assert "Ledger entries: 4 (kept for 45 days after the last delivery); waiting looks: 1" in dry.out
        assert "Nothing was changed." in dry.out
        assert "No secret" not in dry.out
        for said in (
            "7 days",
            "backups",
            "30 days",
            "an hour",
            "python -m ops discard",
            "At Google, the grant lives on",
        ):
            assert said in dry.out

        gone = json.loads((await ops(*arguments, "--go", "--json", **environment)).out)
        assert "archiveJobRetries in database (default)" == gone["ledger"]
        assert (True, 4, 1, 2) == (gone["deleted"], gone["ledgerEntries"], gone["waitingLooks"], len(gone["secrets"]))
        left = await find_user_data(cloud, "alice", ("alice-work",))
        assert ([], [], []) == (left.secrets, left.entries, left.looks)
        bobs = await find_user_data(cloud, "bob", ())
        assert (1, 3, 1) == (len(bobs.secrets), len(bobs.entries), len(bobs.looks))


async def test_forget_names_a_secret_that_is_not_there(firestore_emulator: str, project: str) -> None:
    """The prefix may be another one than the function's."""
    async with project_with(firestore_emulator, project, []) as (_, _, environment):
        shown = await ops("forget", "--user", "alice", **environment | {"REFRESH_TOKEN_SECRET_PREFIX": "other-"})
    assert f"No secret projects/{project}/secrets/other-alice" in shown.out


async def test_forget_leaves_a_credential_alone_that_only_an_event_names(firestore_emulator: str, project: str) -> None:
    """Whoever may publish may name any credential (docs/operating.md): the ledger is no proof of whose it is."""
    named = [entry("job", "mallory", credential_id="alice")]
    async with project_with(firestore_emulator, project, named) as (cloud, secrets, _):
        secrets.add_version(f"{PREFIX}alice", f"{MARKED}-alice")
        await write_document(cloud, "archiveJobRetriesWatch/running", userId="mallory", credentialId="bob")
        await write_document(cloud, "archiveJobRetries/broken", userId="mallory", state="odd")
        data = await find_user_data(cloud, "mallory", ())
        assert (["alice", "bob"], []) == (data.others, data.secrets)
        assert (2, 1) == (len(data.entries), len(data.looks))
        await forget(cloud, data)
        assert 1 == len((await find_user_data(cloud, "alice", ())).secrets)
