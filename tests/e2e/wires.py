"""A TCP proxy between one function server and a service: it cuts, delays and half-closes connections."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from local.front_door import reset, stop_accepting

_CHUNK = 1 << 16
_RETRY = re.compile(
    rb"^POST /v1/archiveJobs/([^:]+):retry .*\r\n(?:.+\r\n)*?authorization: (.+)\r$", re.MULTILINE | re.IGNORECASE
)
_NEW_JOB = re.compile(rb'"archiveJobId": "([^"]+)"')

Mischief = Callable[[], str]  # what becomes of the next request: "", or one of these
CUT, DELAY, HALF_CLOSE = "cut", "delay", "half-close"


@dataclass(slots=True)
class Passed:
    """A retry of this job that was passed on to Google, when, and what was done to it after that."""

    job: str
    authorization: str
    at: float  # the event loop's clock
    mischief: str
    answered_at: float = 0.0  # when an answer was there
    new_job: str = ""  # which it names


class Wire:
    """Passes bytes on to `port` and back. A request is passed on whole before anything is done to its answer."""

    def __init__(self, port: int, mischief: Mischief = lambda: "") -> None:
        self.passed: list[Passed] = []
        self.cuts = 0
        self._port = port
        self._mischief = mischief
        self._open: set[asyncio.StreamWriter] = set()
        self._silenced = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """On this port of the loopback interface."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            await stop_accepting(server.sockets)
            server.close()
            self._reset()

    def cut(self) -> None:
        """Every connection breaks at once."""
        self.cuts += bool(self._open)
        self._reset()

    def silence(self) -> None:
        """On connections that are open now nothing passes any more, as if a machine between them had gone."""
        self._silenced += 1

    def _reset(self) -> None:
        for writer in self._open:
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        self._open |= {writer, back}
        harm, silenced = "", self._silenced
        here: list[Passed] = []  # on this connection, one after the other

        async def asking() -> None:
            nonlocal harm
            while chunk := await reader.read(_CHUNK):
                if silenced != self._silenced:
                    await asyncio.Event().wait()
                harm = self._mischief()
                back.write(chunk)
                await back.drain()
                for job, authorization in _RETRY.findall(chunk):
                    at = asyncio.get_running_loop().time()
                    here.append(Passed(job.decode(), authorization.decode(), at, harm))
                    self.passed.append(here[-1])
                if harm == CUT:
                    await asyncio.sleep(random.uniform(0.0, 0.3))  # Google has read it, and may have answered
                    return

        async def answering() -> None:
            while chunk := await there.read(_CHUNK):
                if silenced != self._silenced:
                    await asyncio.Event().wait()
                for new_job in _NEW_JOB.findall(chunk):
                    here[-1].answered_at, here[-1].new_job = asyncio.get_running_loop().time(), new_job.decode()
                if harm == DELAY:
                    await asyncio.sleep(random.uniform(0.5, 4.0))
                writer.write(chunk[: len(chunk) // 2] if harm == HALF_CLOSE else chunk)
                await writer.drain()
                if harm == HALF_CLOSE:
                    writer.write_eof()
                    await asyncio.sleep(random.uniform(0.0, 1.0))
                    return

        ways = [asyncio.ensure_future(asking()), asyncio.ensure_future(answering())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back):
            reset(end)
        self._open -= {writer, back}
