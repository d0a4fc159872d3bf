"""What an event may cost, in calls, modules and tasks: counted, never timed."""

import asyncio
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.entries import Entry
from handlers.http import HttpClient
from handlers.ledger import Ledger, Stored
from handlers.memory_store import MemoryStore
from handlers.outcomes import Retried
from local.google_apis import GoogleApis
from tests.unit.world import World, failed

MODULES = 915  # 405 of them are the framework's; 911 on Python 3.13


class CountingStore(MemoryStore):
    """Counts the calls to the ledger's store."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = 0

    async def load(self, job_id: str) -> Stored | None:
        self.reads += 1
        return await super().load(job_id)

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        self.writes += 1
        return await super().write(entry, version, link)


class CountingWorld(World):
    """Counts the calls that would leave the process, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counting = CountingStore()
        ledger = Ledger(self.counting, lease_seconds=150, keep=timedelta(days=45), now=lambda: self.time)
        self.case = replace(self.case, ledger=ledger)

    @property
    def calls(self) -> dict[str, int]:
        return {
            "secret accesses": len(self.secrets.reads),
            "refreshes": len(self.http.token_forms),
            "retries": len(self.http.retries),
            "ledger reads": self.counting.reads,
            "ledger writes": self.counting.writes,
            "publishes": len(self.retried.messages) + len(self.rejected.messages),
        }


async def test_an_instances_first_event_reads_its_secret_and_the_client_file_and_asks_for_one_token() -> None:
    world = CountingWorld()
    assert isinstance(await world.deliver(failed("job-1")), Retried)
    assert {
        "secret accesses": 2,
        "refreshes": 1,
        "retries": 1,
        "ledger reads": 0,
        "ledger writes": 2,
        "publishes": 1,
    } == world.calls


async def test_while_its_token_lives_a_user_costs_one_call_to_google_two_ledger_writes_and_a_publish() -> None:
    world = CountingWorld()
    await world.deliver(failed("job-1"))
    before = world.calls
    await world.deliver(failed("job-2"))
    assert {
        "secret accesses": 0,
        "refreshes": 0,
        "retries": 1,
        "ledger reads": 0,
        "ledger writes": 2,
        "publishes": 1,
    } == {kind: number - before[kind] for kind, number in world.calls.items()}


async def test_ten_jobs_of_one_user_at_once_share_one_secret_access_and_one_refresh() -> None:
    world = CountingWorld()
    await asyncio.gather(*(world.deliver(failed(f"job-{number}")) for number in range(10)))
    assert ["client", "token-alice"] == sorted(world.secrets.reads)
    assert 1 == world.calls["refreshes"]
    assert 10 == world.calls["retries"]


@pytest.mark.parametrize(("attempt", "writes"), [(2, 0), (1, 1)], ids=["redelivered", "published twice"])
async def test_what_is_done_already_costs_a_read_and_a_publish_and_a_write_where_nothing_said_so(
    attempt: int, writes: int
) -> None:
    world = CountingWorld()
    await world.deliver(failed("job-1"))
    before = world.calls
    await world.deliver(failed("job-1"), attempt=attempt)
    spent = {kind: number - before[kind] for kind, number in world.calls.items()}
    assert spent["retries"] == spent["refreshes"] == spent["secret accesses"] == 0
    assert (writes, 1, 1) == (spent["ledger writes"], spent["ledger reads"], spent["publishes"])


@pytest.mark.parametrize(
    ("event", "tasks"),
    [
        (failed("job-1"), 5),  # its own; the token's and, to fetch it, two reads at once and one of the client file
        (failed("job-2", userId="bob"), 2),  # its own and the token's: the client file is known
        (failed("job-3"), 1),  # its own: the token lives
    ],
    ids=["an instance's first", "another user's", "the same user's"],
)
async def test_a_delivery_starts_few_tasks(event: dict[str, Any], tasks: int) -> None:
    world = CountingWorld()
    world.secrets.content["token-bob"] = b"refresh-bob"
    if tasks < 5:
        await world.deliver(failed("job-1"))
    started: list[str] = []

    def count(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        started.append(work.__qualname__)
        return asyncio.Task(work, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(count)
    assert isinstance(await loop.create_task(world.deliver(event)), Retried)
    assert tasks == len(started), started


async def test_eighty_deliveries_at_once_open_no_more_connections_than_that_and_the_next_eighty_none() -> None:
    async with GoogleApis() as google:
        http = HttpClient()

        async def post() -> None:
            await http.post(f"{google.url}/elsewhere", headers={}, body=b"", seconds=10)

        for _ in "ab":
            await asyncio.gather(*(post() for _ in range(80)))
        await http.close()
        first, second = ({each.connection for each in google.requests[at : at + 80]} for at in (0, 80))
        assert len(first) <= 80
        assert second <= first


def imported_by_main() -> list[str]:
    command = [sys.executable, "-c", "import sys, main; print(*sys.modules)"]
    environment = {"GOOGLE_CLOUD_PROJECT": "a-project"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout.split()


def test_importing_main_loads_no_more_modules_than_it_did() -> None:
    assert len(imported_by_main()) <= MODULES


def test_importing_main_loads_no_generated_client() -> None:
    assert [] == [name for name in imported_by_main() if ".services." in name]


def test_a_generated_package_is_whole_for_whoever_imports_it_after_its_messages() -> None:
    code = (
        "from handlers.generated import message_module; bare = message_module('google.pubsub_v1', 'pubsub');"
        "from google.pubsub_v1 import PublisherAsyncClient, types; assert types.PubsubMessage is bare.PubsubMessage"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
