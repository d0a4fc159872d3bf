"""What alerts and runbook tell people to do can be done: commands exist, and filters read fields that lines have."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ops.__main__ import main as ops
from tests.infra.gcloud import wrong_commands
from tests.infra.terraform import ROOT, Plan
from tests.infra.test_readme import gcloud_commands
from tests.log_fields import FIELDS
from tests.monitoring.logs import matches, paths

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
_VALUES = {"$PROJECT": "my-portability-project", "$REGION": "europe-west1"}


@pytest.fixture(scope="module")
def sources(watch_plan: Plan) -> dict[str, list[str]]:
    """The commands that alerts and runbook tell."""
    texts = [policy.values["documentation"][0]["content"] for policy in watch_plan.of("monitoring_alert_policy")]
    alerts = [line.strip() for text in texts for line in re.findall(r"^ {4}.*$", text, re.MULTILINE)]
    text = RUNBOOK
    for name, value in _VALUES.items():
        text = text.replace(name, value)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    return {"alerts": alerts, "runbook": [line for line in lines if re.match(r"(gcloud|\.venv/bin/python) ", line)]}


@pytest.fixture(params=["alerts", "runbook"])
def commands(request: pytest.FixtureRequest, sources: dict[str, list[str]]) -> list[str]:
    return sources[request.param]


def test_every_alert_stands_in_the_runbook(watch_plan: Plan) -> None:
    names = [policy.values["display_name"].partition(": ")[2] for policy in watch_plan.of("monitoring_alert_policy")]
    assert "watch-dead-letters" in names
    assert [] == [name for name in names if not re.search(rf"^\| .*`{name}`.* \|.*\|.*\|$", RUNBOOK, re.MULTILINE)]


def test_every_file_and_make_target_that_the_runbook_names_is_there() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", RUNBOOK) if "://" not in link}
    assert links
    assert set() == {link for link in links if not (ROOT / "docs" / link).exists()}
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^`?make ([a-z]+)|`make ([a-z]+)", RUNBOOK, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target


def test_every_alert_is_there(plan: Plan) -> None:
    names = {policy.values["display_name"].partition(": ")[2] for policy in plan.of("monitoring_alert_policy")}
    assert names == {
        "dead-letters",
        "faults",
        "follow-ups-late",
        "last-five",
        "oldest-event",
        "reauthorization",
        "rejections",
        "schedule",
        "stalled",
        "unknown-calls",
    }


def test_every_gcloud_command_of_alerts_runbook_and_readme_is_one(
    sources: dict[str, list[str]], tmp_path: Path
) -> None:
    """In one run of gcloud, which takes its time to start."""
    readme = gcloud_commands()
    assert len(readme) > 20
    told = [[command for command in commands if command.startswith("gcloud ")] for commands in sources.values()]
    assert [True, True] == [len(gcloud) >= 8 for gcloud in told], told
    assert wrong_commands(sum(told, readme), tmp_path) == {}


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
        [query] = [word for word in words[3:] if not word.startswith("--")]
        matches(query, {})
        shown = re.findall(r"jsonPayload\.(\w+)", " ".join(words))
        assert "textPayload" in " ".join(words) or "severity>=" not in query or "-watch" in query, words
        assert {path.split(".")[1] for path in paths(query) if path.startswith("jsonPayload.")} <= {*FIELDS, "message"}
        assert set(shown) <= {*FIELDS, "message"}
