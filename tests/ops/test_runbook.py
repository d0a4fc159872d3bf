"""Each command of the program's own that the runbook and the README name does what they say, on Google's emulators."""

import re
import shlex
from typing import Any

import pytest

from local.stage import Stage
from tests.ops.test_commands import QUICK, ROOT, ops

_CALL = re.compile(r"^\.venv/bin/python -m ops (.+?)(?: +#.*)?$", re.MULTILINE)
_PAGES = [ROOT / "docs" / "runbook.md", ROOT / "README.md"]
COMMANDS = sorted({call for page in _PAGES for call in _CALL.findall(page.read_text())})


def test_the_pages_name_both_commands() -> None:
    assert {"redrive", "story"} == {shlex.split(command)[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_of_the_runbook_runs(command: str, google_cloud: Any) -> None:
    name, *arguments = shlex.split(command)
    quick = QUICK if name == "redrive" else ()
    async with Stage(**google_cloud) as stage:
        await stage.start_function()
        if name == "story":
            stage.add_user("user-4711")
            await stage.publish({"archiveJobId": arguments[0], "userId": "user-4711"})
            await stage.until(lambda: stage.follow_ups)
        ran = await ops(name, *arguments, *quick, **stage.environment)
    assert 0 == ran.code, ran.err
    assert (arguments[0] if name == "story" else "") in ran.out
