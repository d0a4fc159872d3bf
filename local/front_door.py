"""One address in front of several function servers, as Cloud Run has: each new connection goes to the next of them.

Where a server dies with a request in hand, the caller is told 503, as Cloud Run tells it
(https://cloud.google.com/run/docs/troubleshooting#503-timeout).
"""

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol, Self

_CHUNK = 1 << 16
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LINGER_SECONDS = 1.0  # for the rest of a request that nobody takes


class Watcher(Protocol):
    """Is told what passes on one connection, before it is passed on."""

    def asked(self, chunk: bytes) -> None: ...
    def answered(self, chunk: bytes) -> None: ...
    def closed(self) -> None: ...


class _OpenRequests:
    """Whether the caller waits for an answer of which nothing has come yet."""

    any = False

    def asked(self, chunk: bytes) -> None:
        self.any = True

    def answered(self, chunk: bytes) -> None:
        self.any = False

    def closed(self) -> None:
        """Nobody asks any more."""


def unwatched(port: int) -> Watcher:
    """Nobody wants to know."""
    return _OpenRequests()


class FrontDoor(AbstractAsyncContextManager["FrontDoor"]):
    """Passes bytes on: a connection has a request in hand while the caller has sent more than was answered.

    `ports` says who can take a connection now, on the loopback interface. With nobody there the caller is hung up on:
    Google's emulator forgets messages that meet one 503 after the other. `watch` gives a watcher of a connection to a
    port.
    """

    def __init__(self, ports: Callable[[], list[int]], watch: Callable[[int], Watcher] = unwatched) -> None:
        self.url = ""
        self.answered = bytearray()  # all that the servers said, one after the other
        self._ports = ports
        self._watch = watch
        self._turn = itertools.count()
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen on a free port of the loopback interface."""
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up on everybody."""
        await stop_accepting(self._server.sockets)
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            if (inside := await self._connect()) is None:
                return
            open_requests = _OpenRequests()
            watcher = self._watch(inside[1].get_extra_info("peername")[1])
            with contextlib.closing(inside[1]), contextlib.ExitStack() as at_the_end:
                at_the_end.callback(watcher.closed)
                asking = asyncio.create_task(_pipe(reader, inside[1], open_requests.asked, watcher.asked))
                told = (open_requests.answered, watcher.answered, self.answered.extend)
                answering = asyncio.create_task(_pipe(inside[0], writer, *told))
                try:  # when one side hangs up, the other is hung up on
                    await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
                    died = answering.done() and open_requests.any
                finally:
                    asking.cancel()
                    answering.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
            if died:
                await _refuse(reader, writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        ports = self._ports()
        turn = next(self._turn)
        for offset in range(len(ports)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", ports[(turn + offset) % len(ports)])
        return None


async def stop_accepting(listening: Iterable[Any]) -> None:
    """Before a server with these sockets is closed: a connection that it has just accepted would stay open for ever.

    (https://github.com/python/cpython/issues/109564)
    """
    for each in listening:
        asyncio.get_running_loop().remove_reader(each)
    await asyncio.sleep(0.01)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection off as a machine does that is gone: not with an end, but with an RST."""
    connection = writer.get_extra_info("socket")
    if connection and connection.fileno() >= 0:  # else the other side was faster
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *told: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            for tell in told:
                tell(chunk)
            writer.write(chunk)
            await writer.drain()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say 503, and read on until the caller has read it: a connection that is closed before takes it away from him."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(_UNAVAILABLE)
        writer.write_eof()
        async with asyncio.timeout(_LINGER_SECONDS):
            while await reader.read(_CHUNK):
                pass
