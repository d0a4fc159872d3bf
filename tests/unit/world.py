"""The use case on hand-written, recording fakes: Google, Secret Manager and Pub/Sub as values in memory.

Everything between them is the real code: parsing, ledger protocol, credentials, both error tables.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

from handlers.delivery import Delivery
from handlers.draining import Draining
from handlers.ledger import Ledger
from handlers.memory_store import MemoryStore
from handlers.outcomes import Outcome
from handlers.portability import PortabilityApi
from handlers.retry_failed_job import RetryFailedJob, Rules
from handlers.secret_store import NoSecret
from handlers.telemetry import Journal
from handlers.user_credentials import UserCredentials
from local.google_apis import MARK
from tests import secrets_guard

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
TOKEN_URI = "https://oauth2.example/token"
CLIENT_FILE = {"web": {"client_id": "a-client", "client_secret": f"{MARK}-client", "token_uri": TOKEN_URI}}

Answer = tuple[int, Any]  # status and body: bytes as they are, anything else as JSON
Script = Answer | Exception | Callable[[], Awaitable[Answer]]


def google_error(status: int, code: str = "", *details: dict[str, Any]) -> Answer:
    """An error in the shape of https://google.aip.dev/193."""
    return status, {"error": {"code": status, "status": code, "message": "words", "details": list(details)}}


def error_info(reason: str, **metadata: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": metadata,
    }


class FakeHttp:
    """Answers by script, in order; the last step of a script stays. Without a script everything succeeds."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.seconds: list[float] = []  # that each of them was given
        self.token_script: list[Script] = []
        self.retry_scripts: dict[str, list[Script]] = {}

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        assert seconds > 0
        self.requests.append((url, headers, body))
        self.seconds.append(seconds)
        if url == TOKEN_URI:
            number = len(self.token_forms)
            default: Answer = (200, {"access_token": f"{MARK}-access-{number}", "expires_in": 3599})
            script = self.token_script
        else:
            job = url.rpartition("/")[2].removesuffix(":retry")
            default = (200, {"archiveJobId": f"{job}-again"})
            script = self.retry_scripts.get(job, [])
        await asyncio.sleep(0)
        step = (script.pop(0) if len(script) > 1 else script[0]) if script else default
        if isinstance(step, Exception):
            raise step
        status, content = await step() if callable(step) else step
        return status, content if isinstance(content, bytes) else json.dumps(content).encode()

    @property
    def token_forms(self) -> list[dict[str, list[str]]]:
        return [parse_qs(body.decode(), strict_parsing=True) for url, _, body in self.requests if url == TOKEN_URI]

    @property
    def retries(self) -> list[str]:
        """The jobs that archiveJobs.retry was called for, in order."""
        return [url.rpartition("/")[2].removesuffix(":retry") for url, *_ in self.requests if url != TOKEN_URI]


class FakeSecrets:
    """Secrets by id: a payload, or the exception to raise."""

    def __init__(self) -> None:
        self.content: dict[str, bytes | Exception] = {"client": json.dumps(CLIENT_FILE).encode()}
        self.reads: list[str] = []

    async def read(self, secret_id: str) -> bytes:
        self.reads.append(secret_id)
        await asyncio.sleep(0)
        content = self.content.get(secret_id, NoSecret("not there"))
        if isinstance(content, Exception):
            raise content
        return content


class FakeTopic:
    """Keeps what was published, as its consumers will read it; fails while `failure` is set."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.attributes: list[dict[str, str]] = []
        self.failure: Exception | None = None

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        self.messages.append(json.loads(data))
        self.attributes.append(dict(attributes))


class World:
    """One instance of the function and all that it talks to."""

    def __init__(self, *, lease_seconds: float = 150, draining: Draining | None = None, **rules: Any) -> None:
        self.http = FakeHttp()
        self.secrets = FakeSecrets()
        self.secrets.content["token-alice"] = f"{MARK}-refresh-alice".encode()
        self.retried, self.rejected = FakeTopic(), FakeTopic()
        self.time = NOW
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, lease_seconds=lease_seconds, keep=timedelta(days=45), now=lambda: self.time)
        self.credentials = UserCredentials(self.secrets, self.http, secret_prefix="token-", client_secret_id="client")
        defaults: dict[str, Any] = {
            "budget": 3,
            "event_max_age": timedelta(days=14),
            "park_ambiguous": False,
            "deadline": 90.0,
        }
        self.case = RetryFailedJob(
            rules=Rules(**defaults | rules),
            ledger=self.ledger,
            tokens=self.credentials,
            portability=PortabilityApi(self.http, "https://portability.example", lambda: self.time),
            retried=self.retried,
            rejected=self.rejected,
            now=lambda: self.time,
            draining=draining or Draining(),
        )

    def script(self, job: str, *steps: Script) -> None:
        self.http.retry_scripts[job] = list(steps)

    async def deliver(self, event: dict[str, Any] | bytes, **delivery: Any) -> Outcome:
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        known: dict[str, Any] = {"data": data, "message_id": "message-1", "published_at": self.time}
        message = Delivery(**known | delivery)
        self.journal = Journal()
        outcome = await self.case(message, self.journal)
        kept = [stored.entry for job in list(self.store._stored) if (stored := await self.store.load(job))]
        secrets_guard.check("what a delivery left behind", outcome, self.journal.fields, kept)
        secrets_guard.check("a published message", *(vars(topic) for topic in (self.retried, self.rejected)))
        return outcome


def failed(job: str = "job", **fields: Any) -> dict[str, Any]:
    return {"archiveJobId": job, "userId": "alice"} | fields
