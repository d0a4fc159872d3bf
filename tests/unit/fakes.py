"""Google at the wire: hand-written fakes that answer like its generated clients and its HTTP servers, and record."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import google_crc32c
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, NotFound, from_grpc_status
from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    CommitRequest,
    CommitResponse,
    RunQueryRequest,
    RunQueryResponse,
)
from google.cloud.secretmanager_v1.types import AccessSecretVersionResponse
from google.pubsub_v1.types import PublishRequest, PublishResponse
from grpc import StatusCode

from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.google.http_client import HttpResponse
from local.google_apis import MARK

START = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)
TOKEN_URI = "https://oauth2.googleapis.com/token"
CLIENT = {"client_id": "a-client", "client_secret": f"{MARK}-client", "token_uri": TOKEN_URI}
SECRET_PREFIX = "dataportability-refresh-token-"
CLIENT_SECRET = "dataportability-oauth-client"
API_DOMAIN = "dataportability.googleapis.com"
_STATE = "/portabilityArchiveState"

Answer = tuple[int, Any]  # status and body: bytes as they are, anything else as JSON
Step = Answer | NotSent | OutcomeUnknown | Exception | Callable[[], Awaitable[Any]]


def google_error(status: int, code: str = "", *details: dict[str, Any], message: str = "words") -> Answer:
    """An error as https://google.aip.dev/193 has it."""
    return status, {"error": {"code": status, "status": code, "message": message, "details": list(details)}}


def detail(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def error_info(reason: str, domain: str = API_DOMAIN, **metadata: Any) -> dict[str, Any]:
    return detail("ErrorInfo", reason=reason, domain=domain, metadata=metadata)


def cooldown(until: datetime) -> Answer:
    info = error_info("RESOURCE_EXHAUSTED_TIME_BASED", timestamp_after_24hrs=until.isoformat())
    return google_error(429, "RESOURCE_EXHAUSTED", info)


def grpc_error(code: str, message: str = "words") -> Exception:
    """What Google's clients raise for this status."""
    error: Exception = from_grpc_status(StatusCode[code], message)  # type: ignore[no-untyped-call]
    return error


class Clock:
    """The time, for the program and for the ledger's store."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeHttp:
    """The token endpoint and the API. Answers by script; a script's last step stays; without one all succeeds."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.seconds: list[float] = []
        self.token_script: list[Step] = []
        self.retry_scripts: dict[str, list[Step]] = {}
        self.state_scripts: dict[str, list[Step]] = {}

    async def request(
        self, method: str, url: str, *, headers: dict[str, str], body: bytes, seconds: float
    ) -> HttpResponse | NotSent | OutcomeUnknown:
        assert seconds > 0
        self.requests.append((method, url, headers, body))
        self.seconds.append(seconds)
        if ":retry" in url:
            job = url.rpartition("/")[2].removesuffix(":retry")
            default: Step = (200, {"archiveJobId": f"{job}-again"})
            script = self.retry_scripts.get(job, [])
        elif url.endswith(_STATE):
            default = (200, {"state": "IN_PROGRESS"})
            script = self.state_scripts.get(_job_of(url), [])
        else:
            default = (200, {"access_token": f"{MARK}-access-{len(self.token_forms)}", "expires_in": 3599})
            script = self.token_script
        await asyncio.sleep(0)
        step = (script.pop(0) if len(script) > 1 else script[0]) if script else default
        if callable(step):
            step = await step()
        if isinstance(step, Exception):
            raise step
        if isinstance(step, NotSent | OutcomeUnknown):
            return step
        status, content = step
        return HttpResponse(status, content if isinstance(content, bytes) else json.dumps(content).encode())

    @property
    def token_forms(self) -> list[dict[str, str]]:
        """What the token endpoint was asked."""
        bodies = [body.decode() for _, url, _, body in self.requests if "/archiveJobs/" not in url]
        return [{name: values[0] for name, values in parse_qs(body, strict_parsing=True).items()} for body in bodies]

    @property
    def retries(self) -> list[str]:
        """The jobs that archiveJobs.retry was called for."""
        urls = [url for _, url, *_ in self.requests if ":retry" in url]
        return [url.rpartition("/")[2].removesuffix(":retry") for url in urls]

    @property
    def looks(self) -> list[str]:
        """The jobs whose state was asked for."""
        return [_job_of(url) for _, url, *_ in self.requests if url.endswith(_STATE)]

    @property
    def bearers(self) -> list[str]:
        """The access tokens of those calls."""
        sent = [headers["Authorization"] for _, url, headers, _ in self.requests if ":retry" in url]
        return [value.removeprefix("Bearer ") for value in sent]


def _job_of(url: str) -> str:
    return url.removesuffix(_STATE).rpartition("/")[2]


class FakeSecretManager:
    """The versions of each secret by its id, or the exception to raise."""

    def __init__(self) -> None:
        self.secrets: dict[str, list[bytes] | Exception] = {}
        self.names: list[str] = []

    def add(self, secret: str, payload: bytes | str) -> None:
        """One more version."""
        versions = self.secrets.setdefault(secret, [])
        assert isinstance(versions, list)
        versions.append(payload if isinstance(payload, bytes) else payload.encode())

    @property
    def reads(self) -> list[str]:
        return [name.split("/secrets/")[1].partition("/")[0] for name in self.names]

    async def access_secret_version(self, request: Any, **options: Any) -> AccessSecretVersionResponse:
        self.names.append(request.name)
        await asyncio.sleep(0)
        secret = request.name.split("/secrets/")[1].partition("/")[0]
        found = self.secrets.get(secret, NotFound("no such secret"))  # type: ignore[no-untyped-call]
        if isinstance(found, Exception):
            raise found
        version = request.name.replace("latest", str(len(found)))
        payload = {"data": found[-1], "data_crc32c": google_crc32c.value(found[-1])}
        return AccessSecretVersionResponse(name=version, payload=payload)


class FakePublisher:
    """Keeps what was published; raises a topic's failure while there is one."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.failures: dict[str, Exception] = {}
        self.names: list[str] = []

    async def publish(self, request: PublishRequest, **options: Any) -> PublishResponse:
        await asyncio.sleep(0)
        self.names.append(request.topic)
        topic = request.topic.rpartition("/")[2]
        if topic in self.failures:
            raise self.failures[topic]
        self.messages += [(topic, message) for message in request.messages]
        return PublishResponse(message_ids=[str(number) for number in range(len(request.messages))])


class PublishesAs(FakePublisher):
    """Publishes as `hook` lets it: it may wait or raise, before the message is out or after it."""

    def __init__(self, hook: Any, *, out: bool = False) -> None:
        super().__init__()
        self.hook, self.out = hook, out

    async def publish(self, request: Any, **options: Any) -> Any:
        if not self.out:
            await self.hook(request)
        answer = await super().publish(request, **options)
        if self.out:
            await self.hook(request)
        return answer


async def hang(request: Any) -> None:
    await asyncio.Future()


async def die(request: Any) -> None:
    raise asyncio.CancelledError


class FakeFirestore:
    """Documents with update times and preconditions. Each call raises the next of `faults`, and None is none."""

    def __init__(self, clock: Clock) -> None:
        self.documents: dict[str, Any] = {}
        self.calls: list[str] = []
        self.commits: list[list[str]] = []
        self.queried: list[str] = []  # collections
        self.metadata: list[dict[str, str]] = []
        self.faults: list[Exception | None] = []
        self._clock = clock

    async def _take(self, call: str, *, metadata: Any, **options: Any) -> None:
        self.calls.append(call)
        self.metadata.append(dict(metadata))
        await asyncio.sleep(0)
        if self.faults and (fault := self.faults.pop(0)):
            raise fault

    async def commit(self, request: Any, **options: Any) -> CommitResponse:
        writes = list(CommitRequest.pb(request).writes)
        self.commits.append([write.update.name.rpartition("/")[2] for write in writes])
        await self._take("commit", **options)
        for write in writes:
            self._check(write)
        self._clock.wait(1e-6)
        answer = CommitResponse.pb()()
        for write in writes:
            document = self.documents.setdefault(write.update.name, type(write.update)(name=write.update.name))
            for path in write.update_mask.field_paths or list(write.update.fields):
                document.fields.pop(path, None)
                if path in write.update.fields:
                    document.fields[path].CopyFrom(write.update.fields[path])
            document.update_time.FromDatetime(self._clock())
            answer.write_results.add().update_time.CopyFrom(document.update_time)
        wrapped: CommitResponse = CommitResponse.wrap(answer)
        return wrapped

    def _check(self, write: Any) -> None:
        found = self.documents.get(write.update.name)
        if write.current_document.HasField("exists"):
            if found:
                raise AlreadyExists("there is one")  # type: ignore[no-untyped-call]
        elif not found or found.update_time != write.current_document.update_time:
            raise FailedPrecondition("it has moved on")  # type: ignore[no-untyped-call]

    async def batch_get_documents(self, request: Any, **options: Any) -> Any:
        [name] = BatchGetDocumentsRequest.pb(request).documents
        await self._take("read", **options)
        answer = BatchGetDocumentsResponse.pb()()
        answer.read_time.FromDatetime(self._clock())
        if name in self.documents:
            answer.found.CopyFrom(self.documents[name])
        else:
            answer.missing = name
        return _stream([BatchGetDocumentsResponse.wrap(answer)])

    async def run_query(self, request: Any, **options: Any) -> Any:
        query = RunQueryRequest.pb(request).structured_query
        await self._take("query", **options)
        until = query.where.field_filter.value.timestamp_value.ToDatetime(UTC)
        [selector] = query.from_
        self.queried.append(selector.collection_id)
        collection = f"/documents/{selector.collection_id}/"
        due = [each for name, each in self.documents.items() if collection in name and _position(each)[0] <= until]
        if query.HasField("start_at"):
            moment, name = query.start_at.values
            after = (moment.timestamp_value.ToDatetime(UTC), name.reference_value)
            due = [each for each in due if _position(each) > after]
        answers = []
        for document in sorted(due, key=_position)[: query.limit.value]:
            answer = RunQueryResponse.pb()(document=document)
            answer.read_time.FromDatetime(self._clock())
            answers.append(RunQueryResponse.wrap(answer))
        return _stream(answers or [RunQueryResponse()])


def _position(document: Any) -> tuple[datetime, str]:
    """In the index of what is due."""
    if "notBefore" not in document.fields:
        return datetime.max.replace(tzinfo=UTC), document.name
    return document.fields["notBefore"].timestamp_value.ToDatetime(UTC), document.name


async def _stream(answers: list[Any]) -> AsyncIterator[Any]:
    for answer in answers:
        yield answer


class FakeClients:
    """Google's clients, as the bootstrap asks for them."""

    def __init__(self, clock: Clock) -> None:
        self.secrets = FakeSecretManager()
        self.topics = FakePublisher()
        self.documents = FakeFirestore(clock)
        self.locations: list[str] = []

    async def secret_manager(self, location: str = "") -> FakeSecretManager:
        self.locations.append(location)
        return self.secrets

    async def publisher(self) -> FakePublisher:
        return self.topics

    async def firestore(self) -> FakeFirestore:
        return self.documents
