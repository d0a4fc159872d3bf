"""Rules of a call to one of Google's services, on a gRPC server of our own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import (
    DeadlineExceeded,
    FailedPrecondition,
    RetryError,
    ServiceUnavailable,
    from_grpc_status,
)

from handlers.generated import message_module
from handlers.outcomes import Misconfigured, Throttled, Unavailable
from handlers.rpc import Channels, Service, fault_of, passes, refused
from tests.e2e.wires import Wire

_types = message_module("google.cloud.firestore_v1", "firestore")
Commit, Committed = _types.CommitRequest.pb(), _types.CommitResponse.pb()
Query, Found = _types.RunQueryRequest.pb(), _types.RunQueryResponse.pb()


class Recorder:
    """A service that keeps the metadata of its calls, and fails or is silent while `refuses` or `silent` is set."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.refuses = self.silent = False

    async def commit(self, request: Any, context: Any) -> Any:
        await self._take(context)
        return Committed()

    async def run_query(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._take(context)
        for number in (1, 2):
            yield Found(skipped_results=number)

    async def _take(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.silent:
            await asyncio.Future()
        if self.refuses:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as the test wants it")


@asynccontextmanager
async def listening(recorder: Recorder) -> AsyncIterator[int]:
    server = grpc.aio.server()
    commit = grpc.unary_unary_rpc_method_handler(recorder.commit, Commit.FromString, Committed.SerializeToString)
    query = grpc.unary_stream_rpc_method_handler(recorder.run_query, Query.FromString, Found.SerializeToString)
    methods = {"Commit": commit, "RunQuery": query}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(grace=None)


@asynccontextmanager
async def serving(recorder: Recorder) -> AsyncIterator[Service]:
    async with listening(recorder) as port, Channels() as channels:
        yield Service(channels.to("unused.example", f"127.0.0.1:{port}"), "a.Service")


async def test_a_call_says_by_what_it_is_to_be_routed() -> None:
    recorder = Recorder()
    async with serving(recorder) as service:
        commit = service.unary("Commit", Commit, Committed, routed_by="database", seconds=5)
        answer = await commit(Commit(database="projects/p/databases/(default)"))
        query = service.streaming("RunQuery", Query, Found, routed_by="parent", seconds=5)
        assert [1, 2] == [each.skipped_results async for each in query(Query(parent="projects/p"))]
    assert isinstance(answer, Committed)
    routed = [each["x-goog-request-params"] for each in recorder.metadata]
    assert ["database=projects/p/databases/%28default%29", "parent=projects/p"] == routed


async def test_a_failed_call_raises_what_the_library_names_its_status() -> None:
    recorder = Recorder()
    recorder.refuses = True
    async with serving(recorder) as service:
        commit = service.unary("Commit", Commit, Committed, routed_by="database", seconds=5)
        with pytest.raises(FailedPrecondition):
            await commit(Commit(database="d"))
        query = service.streaming("RunQuery", Query, Found, routed_by="parent", seconds=5)
        with pytest.raises(FailedPrecondition):
            _ = [answer async for answer in query(Query(parent="p"))]


async def test_a_method_that_does_not_answer_is_given_up_after_its_seconds() -> None:
    recorder = Recorder()
    recorder.silent = True
    async with serving(recorder) as service, asyncio.timeout(20):
        commit = service.unary("Commit", Commit, Committed, routed_by="database", seconds=0.2)
        with pytest.raises(DeadlineExceeded):
            await commit(Commit(database="d"))
        query = service.streaming("RunQuery", Query, Found, routed_by="parent", seconds=0.2)
        with pytest.raises(DeadlineExceeded):
            _ = [answer async for answer in query(Query(parent="p"))]


async def test_google_is_reached_over_tls_with_the_programs_own_account_which_is_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asks, _, _ = (await reader.readuntil(b"\r\n\r\n")).partition(b" HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        asked.put_nowait((asks, await reader.readexactly(2)))
        await reader.read()
        writer.close()

    account = tmp_path / "account.json"
    issuer = {"audience": "a", "subject_token_type": "t", "token_url": "https://sts.googleapis.com/v1/token"}
    known = {"type": "external_account", **issuer, "credential_source": {"file": "nowhere"}}
    account.write_text(json.dumps(known))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "a-project")
    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server, Channels() as channels:
        monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(20):
            for host in ("firestore.example", "pubsub.example"):
                channels.to(host, "")
                assert (f"CONNECT {host}:443".encode(), b"\x16\x03") == await asked.get()  # a handshake of TLS
                account.unlink(missing_ok=True)
    assert ["https://www.googleapis.com/auth/cloud-platform"] == channels._credentials.scopes


@pytest.mark.parametrize("rest", [0.0, 0.2], ids=["with a ping of gRPC's own on its way", "in silence"])
async def test_a_connection_that_died_without_a_word_is_given_up_for_a_new_one(rest: float) -> None:
    async with listening(Recorder()) as port:
        wire = Wire(port)
        async with wire.listening() as way, Channels(ping_after=1.0) as channels:
            service = Service(channels.to("unused.example", f"127.0.0.1:{way}"), "a.Service")
            commit = service.unary("Commit", Commit, Committed, routed_by="database", seconds=30)
            await commit(Commit(database="d"))
            await asyncio.sleep(rest)
            wire.silence()
            async with asyncio.timeout(20):
                while True:
                    with suppress(ServiceUnavailable):
                        await commit(Commit(database="d"))
                        break


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Throttled),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.ABORTED, Unavailable),
        (grpc.StatusCode.PERMISSION_DENIED, Misconfigured),
    ],
)
def test_a_quota_that_is_used_up_is_told_from_what_else_passes(code: grpc.StatusCode, kind: type[Exception]) -> None:
    assert kind is type(fault_of(from_grpc_status(code, "words"), "asking"))  # type: ignore[no-untyped-call]


def test_a_call_that_ran_out_of_tries_had_no_answer() -> None:
    cause = from_grpc_status(grpc.StatusCode.UNAVAILABLE, "words")  # type: ignore[no-untyped-call]
    error = RetryError("Timeout of 10s exceeded", cause)  # type: ignore[no-untyped-call]
    fault = fault_of(error, "asking")
    assert (Unavailable, "asking: no answer") == (type(fault), str(fault))
    assert passes(error)


def test_a_bug_neither_passes_by_itself_nor_was_refused_by_google() -> None:
    bug = ZeroDivisionError("a bug")
    assert (False, False) == (passes(bug), refused(bug))
