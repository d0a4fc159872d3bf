"""The function as it is deployed: the framework's own start command, in a process of its own."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from local.processes import Child, free_port

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 10.0


class FunctionServer:
    """One running server. Everything that it prints is kept in `output`, a file."""

    program: Sequence[str] = (str(Path(sys.executable).parent / "functions-framework"),)

    def __init__(self, target: str, source: Path, settings: Mapping[str, str], output: Path) -> None:
        self.target = target
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = output
        self._read_to = 0
        self._lines: list[dict[str, Any]] = []
        self._other: list[str] = []
        command = [*self.program, f"--target={target}", f"--source={source}"]
        # Nothing of this machine's own settings reaches it: it would be another function on every machine.
        env = {"PATH": os.environ.get("PATH", os.defpath), **settings}
        with output.open("wb") as file:
            self._child = Child([*command, "--host=127.0.0.1", f"--port={self.port}"], output=file, env=env, cwd=ROOT)

    @property
    def running(self) -> bool:
        """Whether its first process lives; a server that was asked to end may still be at work."""
        return self._child.exit_code() is None

    @property
    def pid(self) -> int:
        """Process id of the server's first process, and of the group that its workers are in."""
        return self._child.pid

    @property
    def workers(self) -> list[int]:
        """Process ids of those that serve requests."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() != "sh\n"]

    async def ready(self) -> None:
        """Wait until it answers. Raises RuntimeError, with what it printed, if that does not come to pass."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():
                    if not self.running:
                        raise RuntimeError(f"The function ended instead of starting:\n{self.printed()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(f"The function did not answer in {START_SECONDS:.0f} s:\n{self.printed()}") from None

    async def _answers(self) -> bool:
        """Ask for a page that the framework itself answers: the listening socket is there before the worker is."""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            with contextlib.closing(writer):
                writer.write(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 404")
        return False

    async def be_called(self, every_seconds: float) -> None:
        """Be Cloud Scheduler, only more often, for as long as the task lives."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await (await http.post(self.url)).read()
                await asyncio.sleep(every_seconds)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The JSON lines that it wrote so far."""
        self._read()
        return self._lines

    @property
    def deliveries(self) -> list[dict[str, Any]]:
        """The log lines that tell how a delivery ended."""
        return [line for line in self.log if "outcome" in line]

    @property
    def other_output(self) -> list[str]:
        """Every line that is no JSON object."""
        self._read()
        return self._other

    def printed(self) -> str:
        """All that it wrote, as it stands."""
        return self._output.read_text(errors="replace")

    def terminate(self) -> None:
        """SIGTERM, as Cloud Run sends it before it takes an instance away."""
        self._child.terminate()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes too long: what is in flight ends first."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while self.running:  # noqa: ASYNC110 a process that ends sets no event
                    await asyncio.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and all its workers, now."""
        self._child.kill()

    def _read(self) -> None:
        with self._output.open("rb") as file:
            file.seek(self._read_to)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(whole) + len(newline)
        for line in whole.decode(errors="replace").splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                content = None
            if isinstance(content, dict):
                self._lines.append(content)
            elif line.strip():
                self._other.append(line)
