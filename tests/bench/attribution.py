"""`make bench BENCH=--parts`: which parts of the program an event's CPU goes to."""

import asyncio
import json
import os
import sys

import aiohttp

from local.function_server import ROOT, FunctionServer
from local.stage import Stage
from tests.bench.contenders import IN_FLIGHT, TARGET, Contender, load
from tests.bench.sampled import BEGIN, END


class _SampledServer(FunctionServer):
    program = (sys.executable, "-m", "tests.bench.sampled")


async def parts(stage: Stage, session: aiohttp.ClientSession, events: int) -> dict[str, float]:
    """Milliseconds of CPU an event by part, 80 in flight."""
    into = stage.folder / "parts.json"
    settings = {**stage.environment, "SAMPLED_INTO": str(into)}
    server = _SampledServer(TARGET, ROOT / "main.py", settings, stage.folder / "sampled.log")
    stage.servers.append(server)
    contender = Contender("this", "with a sampler", ROOT / "main.py", server=server)
    await load(stage, session, contender, 5 * IN_FLIGHT)
    [worker] = server.workers
    os.kill(worker, BEGIN)
    await load(stage, session, contender, events)
    os.kill(worker, END)
    async with asyncio.timeout(10):
        while not into.exists():  # noqa: ASYNC110 a file that is written sets no event
            await asyncio.sleep(0.1)
    found: dict[str, float] = json.loads(into.read_text())
    return {part: spent / events for part, spent in sorted(found.items(), key=lambda one: -one[1])}


def table(found: dict[str, float]) -> str:
    total = sum(found.values())
    rows = [f"| {part} | {spent:.2f} ms | {spent / total:.0%} |" for part, spent in found.items()]
    return "\n".join(
        ["| part | CPU an event | share |", "| --- | ---: | ---: |", *rows, f"| all | {total:.2f} ms | |", ""]
    )
