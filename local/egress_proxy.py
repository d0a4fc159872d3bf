"""The only way out: an HTTP proxy whose CONNECT leads to the stand-ins of the hosts it knows, and nowhere else.

https://www.rfc-editor.org/rfc/rfc9110#name-connect
"""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from local.front_door import reset, stop_accepting

_CHUNK = 1 << 16
_HEAD_SECONDS = 10.0
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class EgressProxy(AbstractAsyncContextManager["EgressProxy"]):
    """`routes`: for each host, as `name:port`, the port on this machine that serves it."""

    def __init__(self) -> None:
        self.url = ""
        self.routes: dict[str, int] = {}
        self.connects: list[str] = []  # every target asked for, in order
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._serving: set[asyncio.Task[None]] = set()

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
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def refused(self) -> list[str]:
        """The targets asked for that lead nowhere."""
        return [target for target in self.connects if target not in self.routes]

    def lead(self, target: str, port: int) -> None:
        """From now on this target is served there; connections to where it was break."""
        self.routes[target] = port
        self.cut(target)

    def close(self, target: str) -> int:
        """From now on nothing leads to this target; gives the port where it was."""
        port = self.routes.pop(target)
        self.cut(target)
        return port

    def cut(self, target: str) -> None:
        """Every connection to this target breaks at once; new ones are possible."""
        for writer in [writer for writer, to in self._open.items() if to == target]:
            reset(writer)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, EOFError, TimeoutError, ValueError):
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            self.connects.append(target)
            port = self.routes.get(target) if method == "CONNECT" else None
            if port is None:
                writer.write(_FORBIDDEN)
                await writer.drain()
                return
            there, back = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_ESTABLISHED)
            self._open |= {writer: target, back: target}
            ways = [
                asyncio.create_task(self._pipe(reader, back)),
                asyncio.create_task(self._pipe(there, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                for end in (writer, back):
                    del self._open[end]
                    end.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
