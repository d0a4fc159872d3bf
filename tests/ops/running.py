"""The commands as a person runs them, in processes of their own; and in this one."""

import asyncio
import os
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from click.testing import CliRunner

from ops.__main__ import main

ROOT = Path(__file__).parents[2]
QUICK = ("--wait", "1")
_SECONDS = 60.0
_FORKED = get_context("forkserver")  # loading Google's clients is a second of CPU: one process does it for all
_FORKED.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def clean(**settings: str) -> dict[str, str]:
    """An environment with these settings and no others of this machine's."""
    known = ("PATH", "HOME", "LANG", "SYSTEMROOT")
    return {name: os.environ[name] for name in known if name in os.environ} | settings


async def started(*arguments: str, env: dict[str, str], **streams: Any) -> asyncio.subprocess.Process:
    """`python -m ops`, for what the process itself is about: signals, a terminal."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops", *arguments), env=env, cwd=ROOT, **{"stdout": pipe, "stderr": pipe} | streams
    )


async def loaded_anew(*arguments: str, **settings: str) -> Ran:
    """A command in a process that loads everything itself: aiohttp reads SSL_CERT_FILE as it is loaded."""
    process = await started(*arguments, env=clean(**settings))
    async with asyncio.timeout(_SECONDS):
        out, err = await process.communicate()
    assert "Traceback" not in err.decode()
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def ops(*arguments: str, **settings: str) -> Ran:
    """A command from its arguments to its exit code. What reads the environment as it is loaded has this process's:
    see `loaded_anew`.
    """
    return await asyncio.to_thread(_run, arguments, clean(**settings))


def _run(arguments: tuple[str, ...], environment: dict[str, str]) -> Ran:
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        process = _FORKED.Process(target=_command, args=(arguments, environment, files))
        process.start()
        process.join(_SECONDS)
        code = process.exitcode
        process.kill()
        out, err = (file.read_text() for file in files)
    assert code is not None, f"It did not end: {out}{err}"
    assert "Traceback" not in err
    return Ran(code, out, err)


def _command(arguments: tuple[str, ...], environment: dict[str, str], files: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    main(arguments, prog_name="python -m ops")


def here(*arguments: str, **settings: str) -> Ran:
    """The same in this process, for what needs no server of this process's."""
    environment: dict[str, str | None] = {name: None for name in os.environ if name not in clean()}
    ran = CliRunner().invoke(main, arguments, env=environment | settings)
    return Ran(ran.exit_code, ran.stdout, ran.stderr)
