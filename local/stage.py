"""A whole Google Cloud on one machine, with the function in it.

publish ─► archive-job-failed ─► push ─► front door ─► function server(s) ─► archive-job-retried …
                                                         │ Secret Manager, OAuth, Data Portability API: stand-ins
                                                         │ ledger: Firestore emulator, or in memory
"""

import asyncio
import json
import ssl
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from local import topics
from local.authority import Authority
from local.front_door import FrontDoor, Watcher, unwatched
from local.function_server import ROOT, FunctionServer
from local.google_apis import GoogleApis, SecretTold
from local.grants import MARK, SCOPE
from local.pubsub import PubSub
from local.secrets import SecretManager
from local.topics import Delivery, Published, Topics, connected

REFRESH_TOKEN_PREFIX, OAUTH_CLIENT = "dataportability-refresh-token-", "dataportability-oauth-client"
RETRY, RESUME, WATCH = "retry_failed_archive_job", "resume_deferred_retries", "watch_archive_job"  # the entry points


class Stage(AbstractAsyncContextManager["Stage"]):
    """Everything is up while entered, and gone afterwards.

    `pubsub` and `firestore` are the addresses of Google's emulators; without them an embedded Pub/Sub and the ledger in
    the memory of a single function server take their place. `settings` are the function's, beyond what the stage needs.
    The OAuth endpoint and the API speak TLS unless `tls` is false. Times are in seconds. A new connection of the push
    goes to the next server in turn. `pushes` is the number of push subscriptions: each delivers every event. `watch`
    gives a watcher of a connection to a server's port.
    """

    def __init__(
        self,
        *,
        pubsub: str | None = None,
        firestore: str | None = None,
        project: str | None = None,
        settings: Mapping[str, str] | None = None,
        secret_latency: float = 0.0,
        token_latency: float = 0.0,
        retry_latency: float = 0.0,
        back_off: tuple[float, float] = (0.2, 2.0),
        ack_deadline: int = 120,
        max_delivery_attempts: int = 10,
        pushes: int = 1,
        tls: bool = True,
        watch: Callable[[int], Watcher] = unwatched,
    ) -> None:
        self.project = project or f"stage-{uuid.uuid4().hex[:12]}"
        self.authority = Authority()
        self._tls = tls
        self.google = GoogleApis(
            authority=self.authority if tls else None,
            token_latency_seconds=token_latency,
            retry_latency_seconds=retry_latency,
        )
        self.secrets = SecretManager(self.project, latency_seconds=secret_latency)
        self.database = "(default)"  # the ledger's
        self.servers: list[FunctionServer] = []
        self.arrived: dict[str, list[Published]] = {topic: [] for topic in topics.PULLED}
        self._pubsub, self._firestore = pubsub, firestore
        self._settings = dict(settings or {})
        self._delivery = Delivery(back_off, ack_deadline, max_delivery_attempts)
        self._pushes = pushes
        self._front_door = FrontDoor(lambda: self._ports(RETRY), watch)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Put it up; a function server is started separately, see start_function."""
        async with AsyncExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stage-")))
            address = self._pubsub or (await stack.enter_async_context(PubSub())).address
            await stack.enter_async_context(self.google)
            await stack.enter_async_context(self.secrets)
            self.secrets.add_version(OAUTH_CLIENT, self.google.client_file())
            await stack.enter_async_context(self._front_door)
            self._topics = Topics(self.project, *await stack.enter_async_context(connected(address)))
            await self._topics.create()
            for _ in range(self._pushes):
                await self._topics.push(topics.FAILED, self._front_door.url, topics.DEAD, self._delivery)
            self.environment = {**await self._connect(stack, address), **self._settings}
            for topic, messages in self.arrived.items():
                collecting = asyncio.create_task(self._topics.collect(topic, messages))
                stack.push_async_callback(_cancelled, collecting)
            stack.push_async_callback(self._topics.stop_pushing)
            stack.callback(self._kill_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the servers and stop everything that was started here. Raises SecretTold if a secret came out."""
        try:
            told = await self._told()
        finally:
            await self._stack.aclose()
        if told and error is None:
            raise SecretTold(", ".join(told))

    async def _told(self) -> list[str]:
        """Where a secret came out: a message, a server's output or answers, the ledger."""
        places: dict[str, Any] = {}
        for topic, messages in self.arrived.items():
            places[topic] = [(each.raw, each.attributes) for each in messages]
        places |= {f"the output of {server.target}": server.printed() for server in self.servers}
        places |= {"an answer": self.answered, "the ledger": await self._ledger()}
        return [where for where, told in places.items() if MARK in str(told)]

    async def _ledger(self) -> str:
        """All documents of the project in the Firestore emulator."""
        if not self._firestore:
            return ""
        documents = f"http://{self._firestore}/v1/projects/{self.project}/databases/{self.database}/documents"
        found = ""
        async with aiohttp.ClientSession() as http:
            for collection in ("archiveJobRetries", "archiveJobRetriesWatch"):
                async with http.get(f"{documents}/{collection}?pageSize=1000") as page:
                    found += await page.text()
        return found

    # The function

    async def start_function(
        self,
        *,
        target: str = RETRY,
        source: Path = ROOT / "main.py",
        settings: Mapping[str, str] | None = None,
    ) -> FunctionServer:
        """Start one more server and wait until it answers; events reach it unless its target is the scheduled one.

        The watch's subscriptions are made with its first server.
        """
        if any(server.running for server in self.servers) and not self._firestore:
            raise ValueError("Several servers need a ledger that they share: the Firestore emulator.")
        output = self.folder / f"function-{len(self.servers) + 1}.log"
        server = FunctionServer(target, source, {**self.environment, **(settings or {})}, output)
        first_watch = target == WATCH and not any(server.target == WATCH for server in self.servers)
        self.servers.append(server)
        await server.ready()
        if first_watch:
            door = await self._stack.enter_async_context(FrontDoor(lambda: self._ports(WATCH)))
            for topic in (topics.STARTED, topics.RETRIED):
                await self._topics.push(topic, door.url, topics.WATCH_DEAD, self._delivery)
        return server

    def _ports(self, target: str) -> list[int]:
        return [server.port for server in self.servers if server.running and server.target == target]

    def _kill_all(self) -> None:
        for server in self.servers:
            server.kill()

    @property
    def deliveries(self) -> list[dict[str, Any]]:
        """The log lines of all servers that tell how a delivery ended."""
        return [line for server in self.servers for line in server.deliveries]

    @property
    def answered(self) -> bytes:
        """All answers to deliveries, as the caller saw them."""
        return bytes(self._front_door.answered)

    # The world

    def add_user(self, credential_id: str, *, consents: bool = True, scope: str = SCOPE) -> str:
        """Store a new refresh token for this credential and give it; the user may not (any more) have consented."""
        refresh_token = f"{MARK}-refresh-token-{credential_id}-{uuid.uuid4().hex[:6]}"
        self.secrets.add_version(REFRESH_TOKEN_PREFIX + credential_id, refresh_token)
        self.google.consent(refresh_token, scope=scope)
        if not consents:
            self.google.revoke(refresh_token)
        return refresh_token

    async def publish(self, event: Mapping[str, Any] | bytes, topic: str = topics.FAILED, **attributes: str) -> str:
        """Put an event on a topic; gives the message's id."""
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self._topics.publish(topic, data, attributes)

    @property
    def follow_ups(self) -> list[Published]:
        """What came out on archive-job-retried so far."""
        return self.arrived[topics.RETRIED]

    @property
    def rejections(self) -> list[Published]:
        """What came out on archive-job-retry-rejected so far."""
        return self.arrived[topics.REJECTED]

    @property
    def ended(self) -> list[Published]:
        """What came out on archive-job-ended so far."""
        return self.arrived[topics.ENDED]

    @property
    def dead_letters(self) -> list[Published]:
        """What Pub/Sub gave up on so far."""
        return self.arrived[topics.DEAD]

    async def until(self, true: Callable[[], object], *, seconds: float = 30.0) -> None:
        """Wait until the predicate holds. Raises TimeoutError with the state of things."""
        try:
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110 the predicate looks at other processes' files, which set no event
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise TimeoutError(f"Not within {seconds:g} s. {self.summary()}") from None

    def summary(self) -> str:
        """What has happened so far, in one sentence."""
        came = ", ".join(f"{len(messages)} on {topic}" for topic, messages in self.arrived.items())
        ends = ", ".join(f"{line['outcome']} {line.get('reason', '')}".strip() for line in self.deliveries)
        printed = "".join(f"\n{line}" for server in self.servers for line in server.other_output)
        return f"Came out: {came}; deliveries: {ends or 'none'}; calls to Google: {self.google.counts}.{printed}"

    @property
    def trust(self) -> ssl.SSLContext | None:
        """For clients of the OAuth endpoint and the API in this process, where those speak TLS."""
        return self.authority.client_context() if self._tls else None

    async def _connect(self, _stack: AsyncExitStack, pubsub: str) -> Mapping[str, str]:
        """The environment by which the function finds the services."""
        firestore = {"FIRESTORE_EMULATOR_HOST": self._firestore} if self._firestore else {"RETRY_LEDGER": "memory"}
        return {
            "GOOGLE_CLOUD_PROJECT": self.project,
            "PUBSUB_EMULATOR_HOST": pubsub,
            "SECRET_MANAGER_EMULATOR_HOST": self.secrets.address,
            "DATA_PORTABILITY_API_ENDPOINT": self.google.url,
            "DOUBT_PAUSE_SECONDS": "0.1",  # what people wait for takes no two minutes
            **firestore,
            **(self.authority.environment(self.folder) if self._tls else {}),
        }


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
