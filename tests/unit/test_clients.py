"""Google's generated clients on a real gRPC server: keepalive, metadata, retries, proxies, and what they log."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import GoogleAPIError, InvalidArgument, RetryError
from google.cloud.secretmanager_v1.types import AccessSecretVersionRequest, AccessSecretVersionResponse
from google.pubsub_v1.types import PublishRequest, PublishResponse

from handlers.domain.outcomes import Misconfigured, Throttled, Transient
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.google.grpc_errors import is_refused, is_transient, to_step_error
from handlers.google.pubsub import TopicPublisher
from handlers.google.secret_manager import SecretStore, SecretVersion
from handlers.settings import Settings, from_environment
from local.authority import Authority
from local.google_apis import MARK
from local.grpc_service import serving
from tests.e2e.wires import Wire
from tests.unit.fakes import grpc_error
from tests.unit.process import ROOT, run

Code = grpc.StatusCode


class Service:
    """Secret Manager and Pub/Sub. Each call fails with the next of `failures`, and None is no failure."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.failures: list[Code | None] = []
        self.trailer = ""
        self.crc: int | None = None

    async def _take(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures and (code := self.failures.pop(0)):
            if self.trailer:
                context.set_trailing_metadata((("x-long", self.trailer),))
            await context.abort(code, "as the test wants it")

    async def access(self, request: Any, context: Any) -> Any:
        await self._take(context)
        answer = AccessSecretVersionResponse.pb()(name=request.name.replace("latest", "7"))
        answer.payload.data = f"{MARK}-payload".encode()
        if self.crc is not None:
            answer.payload.data_crc32c = self.crc
        return answer

    async def publish(self, request: Any, context: Any) -> Any:
        await self._take(context)
        return PublishResponse.pb()(message_ids=["1"] * len(request.messages))

    @asynccontextmanager
    async def listening(self, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[int]:
        handlers = []
        for name, method, call, asked, answered in (
            (
                "google.cloud.secretmanager.v1.SecretManagerService",
                "AccessSecretVersion",
                self.access,
                AccessSecretVersionRequest,
                AccessSecretVersionResponse,
            ),
            ("google.pubsub.v1.Publisher", "Publish", self.publish, PublishRequest, PublishResponse),
        ):
            handler = grpc.unary_unary_rpc_method_handler(call, asked.pb().FromString, answered.pb().SerializeToString)
            handlers.append(grpc.method_handlers_generic_handler(name, {method: handler}))
        async with serving(*handlers, credentials=credentials) as address:
            yield int(address.rpartition(":")[2])


def settings(**variables: str) -> Settings:
    return from_environment({"GOOGLE_CLOUD_PROJECT": "p", **variables})


class Fixture:
    """The service, and the program's parts that talk to it."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.port = service, port
        address = f"127.0.0.1:{port}"
        self.clients = GoogleClients(
            Account(), settings(PUBSUB_EMULATOR_HOST=address, SECRET_MANAGER_EMULATOR_HOST=address)
        )
        self.secrets = SecretStore(self.clients.secret_manager, "p")
        self.topic = TopicPublisher(self.clients.publisher, "p", "t")


@pytest.fixture
async def google() -> AsyncIterator[Fixture]:
    service = Service()
    async with AsyncExitStack() as stack:
        fixture = Fixture(service, await stack.enter_async_context(service.listening()))
        stack.push_async_callback(fixture.clients.close)
        yield fixture


async def test_secret_version_is_read_by_the_generated_client(google: Fixture) -> None:
    assert SecretVersion(f"{MARK}-payload".encode(), "projects/p/secrets/s/versions/7") == await google.secrets.read(
        "s"
    )
    [metadata] = google.service.metadata
    assert "name=projects/p/secrets/s/versions/latest" == metadata["x-goog-request-params"]
    assert "gapic/" in metadata["x-goog-api-client"]


async def test_damaged_secret_is_transient(google: Fixture) -> None:
    google.service.crc = 5
    with pytest.raises(Transient, match="checksum"):
        await google.secrets.read("s")


@pytest.mark.parametrize(
    ("failures", "calls", "fault"),
    [
        ([Code.UNAVAILABLE, Code.UNAVAILABLE], 3, None),
        ([Code.RESOURCE_EXHAUSTED], 1, Throttled),
        ([Code.INTERNAL], 1, Transient),
        ([Code.PERMISSION_DENIED], 1, Misconfigured),
    ],
)
async def test_secret_read_is_tried_again_only_while_unavailable(
    google: Fixture, failures: list[Any], calls: int, fault: type[Exception] | None
) -> None:
    google.service.failures = failures
    with suppress(*[fault] if fault else []):
        await google.secrets.read("s")
        assert fault is None
    assert calls == len(google.service.metadata)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.ABORTED, Code.RESOURCE_EXHAUSTED])
async def test_publish_is_tried_again_until_it_is_accepted(google: Fixture, code: Code) -> None:
    google.service.failures = [code, code]
    await google.topic.publish(b"{}", {})
    assert 3 == len(google.service.metadata)


async def test_rejected_publish_is_a_fault_of_ours(google: Fixture) -> None:
    google.service.failures = [Code.INVALID_ARGUMENT]
    with pytest.raises(Misconfigured, match=r"publishing to projects/p/topics/t: INVALID_ARGUMENT"):
        await google.topic.publish(b"{}", {})
    assert 1 == len(google.service.metadata)


async def test_error_with_long_trailers_is_read_at_once(google: Fixture) -> None:
    google.service.failures, google.service.trailer = [Code.INVALID_ARGUMENT], "x" * 100_000
    with pytest.raises(Misconfigured, match="INVALID_ARGUMENT"):
        await google.topic.publish(b"{}", {})


@pytest.mark.timeout(90)
async def test_keepalive_gives_up_a_dead_connection(google: Fixture) -> None:
    """The ping after 30 s of silence goes unanswered, and a call that waits for its answer ends with the connection."""
    wire = Wire(google.port)
    async with wire.listening() as port:
        clients = GoogleClients(Account(), settings(SECRET_MANAGER_EMULATOR_HOST=f"127.0.0.1:{port}"))
        secrets = await clients.secret_manager()
        request = AccessSecretVersionRequest(name="projects/p/secrets/s/versions/latest")
        await secrets.access_secret_version(request, retry=None, timeout=5)
        wire.silence()
        begun = asyncio.get_running_loop().time()
        with pytest.raises(GoogleAPIError):
            await secrets.access_secret_version(request, retry=None, timeout=80)
        assert 50 > asyncio.get_running_loop().time() - begun
        await clients.close()


async def test_call_carries_the_token_of_its_time_and_the_quota_project_without_a_thread(tmp_path: Path) -> None:
    service, authority = Service(), Authority()
    code = """
import asyncio, logging, threading
from datetime import UTC, datetime, timedelta
from google.oauth2.credentials import Credentials
from google.pubsub_v1.services.publisher.async_client import PublisherAsyncClient
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.google.pubsub import TopicPublisher
from handlers.settings import from_environment
class Known(Credentials):
    refreshed = 0
    def refresh(self, request):
        self.refreshed += 1
        self.token = f"token-{self.refreshed}"
        self.expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    def apply(self, headers, token=None):
        print(threading.current_thread().name)
        super().apply(headers, token)
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("google").setLevel(logging.DEBUG)
async def main(address):
    known = Known(None, quota_project_id="payer")
    clients = GoogleClients(Account(lambda **_: (known, "p")), from_environment({"GOOGLE_CLOUD_PROJECT": "p"}))
    topic = TopicPublisher(lambda: clients.client(PublisherAsyncClient, "", address), "p", "t")
    for _ in range(2):
        await topic.publish(b"{}", {})
        known.expiry -= timedelta(hours=1)
    await clients.close()
asyncio.run(main(input()))
"""
    logged = {"GOOGLE_SDK_PYTHON_LOGGING_SCOPE": "google"}
    async with service.listening(authority.grpc_credentials()) as port:
        ended = await asyncio.to_thread(run, code, f"localhost:{port}", **logged, **authority.environment(tmp_path))
    assert ["MainThread"] * 2 == ended.stdout.split(), ended.stderr
    assert "Created client" in ended.stderr
    assert "Sending request" not in ended.stderr  # with its metadata, and so the token
    assert [("Bearer token-1", "payer"), ("Bearer token-2", "payer")] == [
        (metadata["authorization"], metadata["x-goog-user-project"]) for metadata in service.metadata
    ]
    assert {"topic=projects/p/topics/t"} == {metadata["x-goog-request-params"] for metadata in service.metadata}


async def test_grpc_goes_by_https_proxy_in_capitals() -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        asked.put_nowait(await reader.readexactly(2))

    code = """
import asyncio, os
from datetime import UTC, datetime, timedelta
from google.oauth2.credentials import Credentials
from handlers.web.server import export_proxies
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.settings import from_environment
class Known(Credentials):
    def refresh(self, request):
        self.token, self.expiry = "t", datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
export_proxies(os.environ)
async def main():
    settings = from_environment({"GOOGLE_CLOUD_PROJECT": "p"})
    clients = GoogleClients(Account(lambda **_: (Known(None), "p")), settings)
    publisher = await clients.publisher()
    call = asyncio.create_task(publisher.get_topic(topic="projects/p/topics/t"))
    await asyncio.to_thread(input)
asyncio.run(main())
"""
    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, env={"HTTPS_PROXY": address}, cwd=ROOT, stdin=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            assert (await asked.get()).startswith(b"CONNECT pubsub.googleapis.com:443")
            assert b"\x16\x03" == await asked.get()  # a handshake of TLS
            await running.communicate(b"\n")


async def test_google_loggers_stay_silent(google: Fixture) -> None:
    code = f"""
import asyncio, logging
from handlers.telemetry.logging import configure_logs
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.google.secret_manager import SecretStore
from handlers.settings import from_environment
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("google").addHandler(logging.StreamHandler())
configure_logs("DEBUG")
async def main():
    emulator = {{"GOOGLE_CLOUD_PROJECT": "p", "SECRET_MANAGER_EMULATOR_HOST": "127.0.0.1:{google.port}"}}
    clients = GoogleClients(Account(), from_environment(emulator))
    print((await SecretStore(clients.secret_manager, "p").read("s")).version)
    await clients.close()
asyncio.run(main())
"""
    ended = await asyncio.to_thread(run, code, GOOGLE_SDK_PYTHON_LOGGING_SCOPE="google.cloud.secretmanager_v1")
    assert "projects/p/secrets/s/versions/7" == ended.stdout.strip()
    assert "payload" not in ended.stderr
    assert "google" not in ended.stderr


async def test_no_call_is_logged_at_any_level(google: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("google.cloud.secretmanager_v1")
    caplog.set_level(logging.DEBUG, logger.name)
    logger.addHandler(caplog.handler)  # the logger above it passes nothing on
    try:
        await google.secrets.read("s")
    finally:
        logger.removeHandler(caplog.handler)
    assert "Created client" in caplog.text
    assert "AccessSecretVersion" not in caplog.text


# the table of gRPC's errors


@pytest.mark.parametrize(
    ("code", "kind", "rejection"),
    [
        ("RESOURCE_EXHAUSTED", Throttled, False),
        ("ABORTED", Transient, True),
        ("CANCELLED", Transient, False),
        ("DATA_LOSS", Transient, False),
        ("DEADLINE_EXCEEDED", Transient, False),
        ("INTERNAL", Transient, False),
        ("UNAVAILABLE", Transient, False),
        ("UNKNOWN", Transient, False),
        ("ALREADY_EXISTS", Misconfigured, True),
        ("FAILED_PRECONDITION", Misconfigured, True),
        ("INVALID_ARGUMENT", Misconfigured, True),
        ("NOT_FOUND", Misconfigured, True),
        ("OUT_OF_RANGE", Misconfigured, True),
        ("PERMISSION_DENIED", Misconfigured, True),
        ("UNAUTHENTICATED", Misconfigured, True),
        ("UNIMPLEMENTED", Misconfigured, True),
    ],
)
def test_grpc_error_is_a_fault(code: str, kind: type, rejection: bool) -> None:
    error = grpc_error(code, "The words.\nhttps://help.example")
    assert isinstance(error, GoogleAPIError)
    fault = to_step_error(error, "asking")
    assert (kind, rejection) == (type(fault), is_refused(error))
    assert f"asking: {code}" + (": The words." if kind is Misconfigured else "") == str(fault)


def test_exhausted_tries_are_transient() -> None:
    error = RetryError("Timeout of 10s exceeded", grpc_error("UNAVAILABLE"))  # type: ignore[no-untyped-call]
    assert ("asking: no answer", True) == (str(to_step_error(error, "asking")), is_transient(error))


def test_bug_is_neither_transient_nor_a_rejection() -> None:
    assert (False, False) == (is_transient(ZeroDivisionError()), is_refused(ZeroDivisionError()))
    assert not is_transient(InvalidArgument("x"))  # type: ignore[no-untyped-call]
