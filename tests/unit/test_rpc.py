"""Rules of a call to one of Google's services, on a gRPC server of our own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import FailedPrecondition
from google.cloud.firestore_v1.types.firestore import CommitRequest, CommitResponse, RunQueryRequest, RunQueryResponse

from handlers.rpc import Channels, Service


class Recorder:
    """A service that keeps the metadata of its calls and fails while `refuses` is set."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.refuses = False

    async def commit(self, request: Any, context: Any) -> Any:
        await self._take(context)
        return CommitResponse.pb()()

    async def run_query(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._take(context)
        for number in (1, 2):
            yield RunQueryResponse.pb()(skipped_results=number)

    async def _take(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refuses:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as the test wants it")


@asynccontextmanager
async def serving(recorder: Recorder) -> AsyncIterator[Service]:
    server = grpc.aio.server()
    commit = grpc.unary_unary_rpc_method_handler(
        recorder.commit, CommitRequest.pb().FromString, CommitResponse.pb().SerializeToString
    )
    query = grpc.unary_stream_rpc_method_handler(
        recorder.run_query, RunQueryRequest.pb().FromString, RunQueryResponse.pb().SerializeToString
    )
    methods = {"Commit": commit, "RunQuery": query}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = Channels().to("unused.example", f"127.0.0.1:{port}")
    yield Service(channel, "a.Service")
    await channel.close()
    await server.stop(grace=None)


async def test_a_call_says_by_what_it_is_to_be_routed() -> None:
    recorder = Recorder()
    async with serving(recorder) as service:
        commit = service.unary("Commit", CommitRequest, CommitResponse, routed_by="database")
        answer = await commit(CommitRequest(database="projects/p/databases/(default)"), retry=None, timeout=5)
        query = service.streaming("RunQuery", RunQueryRequest, RunQueryResponse, routed_by="parent")
        answers = await query(RunQueryRequest(parent="projects/p"), retry=None, timeout=5)
        assert [1, 2] == [each.skipped_results async for each in answers]
    assert isinstance(answer, CommitResponse)
    routed = [each["x-goog-request-params"] for each in recorder.metadata]
    assert ["database=projects/p/databases/%28default%29", "parent=projects/p"] == routed


async def test_a_failed_call_raises_what_the_library_names_its_status() -> None:
    recorder = Recorder()
    recorder.refuses = True
    async with serving(recorder) as service:
        commit = service.unary("Commit", CommitRequest, CommitResponse, routed_by="database")
        with pytest.raises(FailedPrecondition):
            await commit(CommitRequest(database="d"), retry=None, timeout=5)
        query = service.streaming("RunQuery", RunQueryRequest, RunQueryResponse, routed_by="parent")
        with pytest.raises(FailedPrecondition):
            _ = [answer async for answer in await query(RunQueryRequest(parent="p"), retry=None, timeout=5)]
