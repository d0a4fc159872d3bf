"""Rules of a call to one of Google's services, on a gRPC server of our own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import FailedPrecondition, ServiceUnavailable, from_grpc_status

from handlers.generated import message_module
from handlers.outcomes import Misconfigured, Throttled, Unavailable
from handlers.rpc import Channels, Service, fault_of
from tests.e2e.wires import Wire

_types = message_module("google.cloud.firestore_v1", "firestore")
Commit, Committed = _types.CommitRequest.pb(), _types.CommitResponse.pb()
Query, Found = _types.RunQueryRequest.pb(), _types.RunQueryResponse.pb()


class Recorder:
    """A service that keeps the metadata of its calls and fails while `refuses` is set."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.refuses = False

    async def commit(self, request: Any, context: Any) -> Any:
        await self._take(context)
        return Committed()

    async def run_query(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._take(context)
        for number in (1, 2):
            yield Found(skipped_results=number)

    async def _take(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
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
