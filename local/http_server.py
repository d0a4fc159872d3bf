"""What serves the stand-ins that speak HTTP, on a free port of the loopback interface."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from aiohttp import web

from local.authority import Authority
from local.front_door import stop_accepting
from local.scripted import Drop, Silence, Step

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """It passes each request to `answer`. `authority` vouches for it; without one it speaks in the clear."""

    def __init__(self, answer: Answering, authority: Authority | None = None) -> None:
        self.port = 0
        self.url = ""
        self._answer = answer
        self._context = authority.server_context() if authority else None
        self._answering: set[asyncio.Task[object]] = set()

    async def start(self, port: int = 0) -> None:
        """Listen, on any free port unless one is named: from now on there are `port` and `url`."""
        self._server = web.Server(self._pass_on)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.1)
        await self._runner.setup()
        self._listening = socket.create_server(("127.0.0.1", port))
        await web.SockSite(self._runner, self._listening, backlog=1024, ssl_context=self._context).start()
        self.port = self._listening.getsockname()[1]
        self.url = f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    async def close(self) -> None:
        """Close every connection; what is in hand gets no answer.

        It is ended here and not waited for: aiohttp fails with an InvalidStateError, and writes it to the log, where an
        answer is ready at the very moment the waiting ends.
        """
        await stop_accepting([self._listening])
        self._server.pre_shutdown()
        for task in self._answering:
            task.cancel()
        await self._runner.cleanup()

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task
        self._answering.add(task)
        try:
            return await self._answer(request)
        finally:
            self._answering.discard(task)


async def carry_out(step: Step, request: web.BaseRequest) -> web.StreamResponse:
    """What a script says of this request, which has been read."""
    if isinstance(step, Silence):
        await asyncio.Event().wait()
    elif isinstance(step, Drop):
        await asyncio.sleep(step.delay_seconds)
        if request.transport:
            request.transport.abort()
    else:
        if step.delay_seconds:
            await asyncio.sleep(step.delay_seconds)
        return _response(step.status, step.body, dict(step.headers))
    return web.Response()


def _response(status: int, body: object, headers: dict[str, str]) -> web.Response:
    if isinstance(body, bytes):
        headers.setdefault("Content-Type", "text/html; charset=UTF-8")
        return web.Response(status=status, body=body, headers=headers)
    headers.setdefault("Content-Type", "application/json; charset=UTF-8")
    return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body), headers=headers)


class HttpService(AbstractAsyncContextManager[Any]):
    """What a server of its own serves while it is entered, on a free port of the loopback interface."""

    _server: HttpServer

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close every connection."""
        await self._server.close()

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return self._server.url
