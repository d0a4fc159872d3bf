"""What the alerts tell people to do can be done: each command exists, and each filter reads fields that lines have."""

import re
import shlex
from pathlib import Path

import click
import pytest

from handlers.telemetry import FIELDS
from ops.__main__ import main as ops
from tests.infra.gcloud import wrong_commands
from tests.infra.terraform import Plan
from tests.monitoring.logs import matches, paths


@pytest.fixture(scope="module")
def commands(plan: Plan) -> list[str]:
    texts = [policy.values["documentation"][0]["content"] for policy in plan.of("monitoring_alert_policy")]
    return [line.strip() for text in texts for line in re.findall(r"^ {4}.*$", text, re.MULTILINE)]


def test_every_alert_is_there(plan: Plan) -> None:
    names = {policy.values["display_name"].partition(": ")[2] for policy in plan.of("monitoring_alert_policy")}
    assert names == {
        "dead-letters",
        "faults",
        "follow-up-fast-burn",
        "follow-up-slow-burn",
        "oldest-event",
        "reauthorization",
        "schedule",
        "unknown-calls",
    }


def test_every_gcloud_command_is_one(commands: list[str], tmp_path: Path) -> None:
    gcloud = [command for command in commands if command.startswith("gcloud ")]
    assert len(gcloud) >= 8
    assert wrong_commands(gcloud, tmp_path) == {}


def test_every_other_command_is_one_of_ours(commands: list[str]) -> None:
    ours = [shlex.split(command) for command in commands if not command.startswith("gcloud ")]
    assert len(ours) >= 3
    for words in ours:
        assert words[:3] == [".venv/bin/python", "-m", "ops"]
        name, command, arguments = ops.resolve_command(click.Context(ops), words[3:])
        assert command is not None
        command.make_context(name, arguments)


def test_every_filter_can_be_read_and_goes_by_fields_that_lines_have(commands: list[str]) -> None:
    reads = [shlex.split(command) for command in commands if command.startswith("gcloud logging read")]
    assert reads
    for words in reads:
        matches(words[-1], {})
        shown = re.findall(r"jsonPayload\.(\w+)", " ".join(words))
        assert {path.split(".")[1] for path in paths(words[-1]) if path.startswith("jsonPayload.")} <= set(FIELDS)
        assert set(shown) <= {*FIELDS, "message"}
