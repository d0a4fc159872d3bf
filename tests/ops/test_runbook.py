"""Each command of the program's own that the runbook and the README name does what they say, on Google's emulators."""

import re
import shlex
from typing import Any

from local.stage import Stage
from local.topics import FAILED
from tests.ops.api import Api
from tests.ops.running import ROOT, loaded_anew, ops

_CALL = re.compile(r"\.venv/bin/python -m ops ([^`#\n]+)")
_PAGES = [ROOT / "docs" / "runbook.md", ROOT / "README.md"]
COMMANDS = sorted({call.strip() for page in _PAGES for call in _CALL.findall(page.read_text())})


def test_pages_name_every_command() -> None:
    named = {shlex.split(command)[0] for command in COMMANDS}
    assert {"check", "discard", "forget", "list", "redrive", "story"} == named


async def test_commands_of_the_pages_run(google_cloud: Any) -> None:
    async with Stage(**google_cloud) as stage, Api() as api:
        environment = stage.environment | api.settings
        await stage.start_function()
        stage.add_user("user-4711")
        [job] = {words[1] for words in map(shlex.split, COMMANDS) if words[0] == "story"}
        await stage.publish({"archiveJobId": job, "userId": "user-4711"})
        await stage.until(lambda: stage.follow_ups)
        for command in sorted(COMMANDS, key=lambda command: command.startswith("forget")):
            name, *arguments = shlex.split(command)
            run = loaded_anew if name == "check" else ops  # it alone uses aiohttp
            ran = await run(
                name, *arguments, *(("--wait", "0.2") if name in ("redrive", "discard") else ()), **environment
            )
            assert (0, True) == (ran.code, {"story": job, "check": f"topic {FAILED}"}.get(name, "") in ran.out), ran
