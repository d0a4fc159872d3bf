"""gcloud's own opinion on commands: whether they exist, with these flags. It asks no network."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def wrong_commands(commands: list[str], folder: Path) -> dict[str, str]:
    """What is wrong with each command that gcloud would not take. Skips without gcloud; on CI that is a failure."""
    if shutil.which("gcloud") is None:
        sentence = "needs gcloud on the path, to say something about its commands"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{sentence}. On CI nothing may be left out.")
        pytest.skip(sentence)
    control = "gcloud pubsub topics publish t --mesage=m"
    listed = folder / "commands.json"
    listed.write_text(json.dumps([{"command_string": command.strip()} for command in [*commands, control]]))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={listed}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    wrong = {verdict["command_string"]: verdict["error_message"] for verdict in json.loads(done.stdout)}
    assert set(wrong) == {command.strip() for command in [*commands, control]}
    assert wrong.pop(control), "gcloud takes anything"
    return {command: message for command, message in wrong.items() if message}
