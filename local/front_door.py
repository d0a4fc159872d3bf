"""One address in front of several function servers, as Cloud Run has: each new connection goes to the next of them."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16


class FrontDoor(AbstractAsyncContextManager["FrontDoor"]):
    """Passes bytes on, and knows no HTTP: what it breaks off is what a dying instance breaks off.

    `ports` says who can take a connection now, on the loopback interface. With nobody there the caller is hung up on.
    """

    def __init__(self, ports: Callable[[], list[int]]) -> None:
        self.url = ""
        self._ports = ports
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
            with contextlib.closing(inside[1]):
                ways = [asyncio.create_task(_pipe(reader, inside[1])), asyncio.create_task(_pipe(inside[0], writer))]
                try:  # when one side hangs up, the other is hung up on
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        ports = self._ports()
        turn = next(self._turn)
        for offset in range(len(ports)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", ports[(turn + offset) % len(ports)])
        return None


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
