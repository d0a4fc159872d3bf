"""Google's front end of one gRPC service: TLS, the caller's token, and refusals that its emulator does not know.

It passes on bytes. A check looks at a call before that: the method, its metadata, the request's bytes; and refuses.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import grpc

from local.authority import Authority
from local.grpc_service import EveryMethod, Refused
from local.scripted import Drop, Scripts, Silence
from local.secrets import Fault

Check = Callable[[str, Mapping[str, str], bytes], None]
GrpcStep = Fault | Silence | Drop

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 4 << 20)]
_OF_ONE_HOP = frozenset({"authorization", "user-agent"})
_NO_TOKEN = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid"
    " authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


class FrontEnd(AbstractAsyncContextManager["FrontEnd"]):
    """In front of the service at `address`; it serves at `port` while entered.

    `vouched` says whether an authorization header is good. `cut` breaks all connections: what a Drop needs.
    """

    def __init__(
        self,
        address: str,
        authority: Authority,
        *,
        vouched: Callable[[str], bool],
        check: Check = lambda *_: None,
        cut: Callable[[], None] = lambda: None,
    ) -> None:
        self.port = 0
        self.refusals: list[str] = []
        self._address = address
        self._authority = authority
        self._vouched = vouched
        self._check = check
        self._cut = cut
        self._scripts: Scripts[GrpcStep] = Scripts()

    async def __aenter__(self) -> Self:
        """Serve on a free port of the loopback interface."""
        self._channel = grpc.aio.insecure_channel(self._address, options=_UNLIMITED)
        self._server = grpc.aio.server(options=_UNLIMITED)
        self._server.add_generic_rpc_handlers((EveryMethod(self._answer),))
        self.port = self._server.add_secure_port("127.0.0.1:0", self._authority.grpc_credentials())
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._server.stop(grace=None)
        await self._channel.close()

    def script(self, method: str, steps: Iterable[GrpcStep]) -> None:
        """What the next calls of this method meet, as in `Commit` (ANY: those with no script of their own)."""
        self._scripts.set(method, steps)

    async def _answer(self, path: str, requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        method = path.rpartition("/")[2]
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        try:
            self._check_token(metadata)
            first = await anext(aiter(requests), None)
            if step := self._scripts.next(method):
                await self._carry_out(step, context)
            if first is not None:
                self._check(method, metadata, first)
        except Refused as refused:
            self.refusals.append(f"{method}: {refused}")
            await context.abort(refused.code, str(refused))
        await self._pass_on(path, metadata, first, requests, context)

    def _check_token(self, metadata: Mapping[str, str]) -> None:
        if not self._vouched(metadata.get("authorization", "")):
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, _NO_TOKEN)

    async def _carry_out(self, step: GrpcStep, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if isinstance(step, Fault):
            await asyncio.sleep(step.delay_seconds)
            trailers = (("x-debug-trace", "x" * step.trailer_bytes),) if step.trailer_bytes else ()
            await context.abort(step.code, step.message, trailers)
        if isinstance(step, Drop):
            await asyncio.sleep(step.delay_seconds)
            self._cut()
        await asyncio.Event().wait()

    async def _pass_on(
        self,
        path: str,
        metadata: Mapping[str, str],
        first: bytes | None,
        requests: Any,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        passed = [(key, value) for key, value in metadata.items() if key not in _OF_ONE_HOP]
        passed.append(("authorization", "Bearer owner"))  # who may do everything in Google's emulators

        async def asked() -> Any:
            if first is not None:
                yield first
            async for request in requests:
                yield request

        call: Any = self._channel.stream_stream(path)(asked(), metadata=passed, timeout=context.time_remaining())
        try:
            async for response in call:
                await context.write(response)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))
        finally:
            call.cancel()
