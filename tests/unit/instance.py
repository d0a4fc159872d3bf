"""One instance of the function, put together by the program's own bootstrap, on fakes at the wire."""

import base64
import io
import json
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from handlers.bootstrap import Container
from handlers.domain.events import Delivery
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Deferred, Outcome, Rejected, Retried, RetryLater
from handlers.ports import Store
from handlers.settings import from_environment
from handlers.telemetry.logging import LogLine, configure_logs
from handlers.web.endpoints import Endpoints
from local.google_apis import MARK
from local.stage import RETRY
from tests import secrets_guard
from tests.log_fields import FIELDS
from tests.unit.fakes import CLIENT, CLIENT_SECRET, SECRET_PREFIX, START, Clock, FakeClients, FakeHttp, Step

ENVIRONMENT = {"GOOGLE_CLOUD_PROJECT": "a-project", "RETRY_LEDGER": "memory"}


def failed(job: str = "job", **fields: Any) -> dict[str, Any]:
    """A failed event."""
    return {"archiveJobId": job, "userId": "alice"} | fields


class Instance:
    """The function with Alice's refresh token and the OAuth client's file. Variables of the environment in capitals."""

    def __init__(self, *, store: Store | None = None, clock: Clock | None = None, **environment: str) -> None:
        self.clock = clock or Clock()
        self.http = FakeHttp()
        self.clients = FakeClients(self.clock)
        self.secrets, self.topics, self.documents = self.clients.secrets, self.clients.topics, self.clients.documents
        self.secrets.add(CLIENT_SECRET, json.dumps({"web": CLIENT}))
        self.grant("alice", f"{MARK}-refresh-alice")
        self.settings = from_environment(ENVIRONMENT | environment)
        self.container = Container(
            self.settings, clients=self.clients, http=self.http, store=store, now=self.clock, max_latency=0.001
        )
        self.endpoints = Endpoints(self.settings, self.container, request_seconds=0.3)
        self.line: dict[str, Any] = {}  # the fields of the latest log line

    def grant(self, credential: str, payload: bytes | str) -> None:
        """A new version of this credential's secret."""
        self.secrets.add(SECRET_PREFIX + credential, payload)

    def replace_secret(self, credential: str, content: bytes | str | Exception) -> None:
        """This credential's secret as if nothing had been there."""
        self.secrets.secrets.pop(SECRET_PREFIX + credential, None)
        if isinstance(content, Exception):
            self.secrets.secrets[SECRET_PREFIX + credential] = content
        else:
            self.grant(credential, content)

    def script(self, job: str, *steps: Step) -> None:
        """What archiveJobs.retry answers for this job."""
        self.http.retry_scripts[job] = list(steps)

    async def deliver(self, event: dict[str, Any] | bytes | None = None, **delivery: Any) -> Outcome:
        """One delivery. It was published at START where nothing else is said."""
        return await self._deliver(self.container.retry_failed_job, event, **delivery)

    async def watch(self, event: dict[str, Any] | bytes | None = None, **delivery: Any) -> Outcome:
        """One delivery to the watch."""
        return await self._deliver(self.container.watch_job, event, **delivery)

    async def _deliver(
        self, use_case: Any, event: dict[str, Any] | bytes | None, attempt: int = 0, **delivery: Any
    ) -> Outcome:
        data = event if isinstance(event, bytes) else json.dumps(failed() if event is None else event).encode()
        known: dict[str, Any] = {
            "data": data,
            "message_id": "message-1",
            "published_at": START,
            "delivery_attempt": attempt,
        }
        log = LogLine()
        self.line = log.fields
        try:
            outcome: Outcome = await use_case(Delivery(**known | delivery), log)
            return outcome
        finally:
            assert not set(log.fields) - set(FIELDS)
            secrets_guard.check("a log line", log.fields)
            secrets_guard.check("a message", *(message for _, message in self.topics.messages))

    async def reason(self, event: dict[str, Any] | bytes | None = None, **delivery: Any) -> str:
        """The reason for which it is rejected, with the cause where there is one: `REASON/CAUSE`. Else "not"."""
        outcome = await self.deliver(event, **delivery)
        if not isinstance(outcome, Rejected):
            return "not"
        return f"{outcome.reason}/{outcome.cause}".rstrip("/")

    async def resume(self) -> Outcome:
        """One run of the schedule."""
        log = LogLine()
        self.line = log.fields
        return await self.container.resume_deferred(log)

    async def entry(self, job: str = "job") -> LedgerEntry | None:
        """What the ledger holds."""
        found = await self.container.store.load(job)
        secrets_guard.check("the ledger", found)
        return found.entry if found else None

    async def watched(self, job: str = "job") -> LedgerEntry | None:
        """What the watch's collection holds."""
        found = await self.container.watch_store.load(job)
        secrets_guard.check("the watch's collection", found)
        return found.entry if found else None

    async def state(self, job: str = "job") -> tuple[str, int]:
        """State and counted calls of the ledger's entry."""
        entry = await self.entry(job)
        return (entry.state, entry.calls_made) if entry else ("", 0)

    def published(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(message.data) for name, message in self.topics.messages if name == topic]

    def attributes(self, topic: str) -> list[dict[str, str]]:
        return [dict(message.attributes) for name, message in self.topics.messages if name == topic]

    @property
    def retried(self) -> list[dict[str, Any]]:
        """The follow-ups."""
        return self.published("archive-job-retried")

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """The rejections."""
        return self.published("archive-job-retry-rejected")

    async def post(self, body: bytes, method: str = "POST", *, entry_point: str = RETRY, **headers: str) -> Response:
        """A request to an entry point."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        response: Response = await getattr(self.endpoints, entry_point)(request(receive, method, **headers))
        return response


def request(receive: Any, method: str = "POST", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw}, receive)


def push(event: Any, **message: Any) -> bytes:
    """The body of a Pub/Sub push."""
    data = base64.b64encode(event if isinstance(event, bytes) else json.dumps(event).encode()).decode()
    sent = {"data": data, "messageId": "42", "publishTime": "2026-11-23T18:00:00Z"} | message
    return json.dumps({"message": sent, "deliveryAttempt": 2}).encode()


class LogLines:
    """What is logged from here on."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        configure_logs("INFO", self.stream)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.stream.getvalue().splitlines()]


def later(seconds: float) -> datetime:
    """So many seconds after START."""
    clock = Clock()
    clock.wait(seconds)
    return clock.now


async def verdict(instance: Instance, job: str = "job") -> str:
    """What a delivery comes to, in one word or two."""
    outcome = await instance.deliver(failed(job))
    _, counted = await instance.state(job)
    match outcome:
        case Retried(new_job_id):
            return f"retried as {new_job_id}"
        case Rejected(reason, _, cause):
            return f"{reason} {cause}".strip()
        case Deferred(until):
            return f"deferred for {(until - instance.clock()).total_seconds():.0f} s"
        case RetryLater():
            return "in doubt" if counted else "transient"
        case _:
            return "fault, in doubt" if counted else "fault"
