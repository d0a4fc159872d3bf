"""The commonest rows of the runbook, carried out on their broken stages: after its command, the job is retried."""

import shlex
from collections.abc import Callable, Mapping

import pytest

from local.secrets import State
from local.stage import OAUTH_CLIENT, Stage
from tests.infra.broken import EVENT, STAGES, Broken, running
from tests.infra.test_broken import row_of, words

COMMON = (
    "wrong client secret",
    "service account's key",
    "API disabled",
    "all tokens disabled",
    "consent of all revoked",
    "no right on secrets",
    "tokens stored in quotes",
    "API answers 503",
)
BY_NAME: Mapping[str, Broken] = {broken.what: broken for broken in STAGES}


def add_version(stage: Stage, words: list[str]) -> None:
    """gcloud secrets versions add SECRET --data-file=client_secret.json"""
    assert ("versions", "add", OAUTH_CLIENT) == (words[1], words[2], words[3])
    stage.secrets.add_version(OAUTH_CLIENT, stage.google.client_file())


def enable_version(stage: Stage, words: list[str]) -> None:
    """gcloud secrets versions enable NUMBER --secret=SECRET"""
    assert (["versions", "enable"], "--secret=") == (words[1:3], words[4][:9])
    stage.secrets.set_state(words[4].removeprefix("--secret=").replace("user-4711", "user"), State.ENABLED)


def enable_service(stage: Stage, words: list[str]) -> None:
    """gcloud services enable dataportability.googleapis.com"""
    assert ["enable", "dataportability.googleapis.com"] == words[1:3]
    stage.google.script_retry("*", ())


# What the stage knows of the commands of the runbook's remedies, and of what people do who are named there
COMMANDS: Mapping[str, Callable[[Stage, list[str]], None]] = {
    "gcloud secrets versions add": add_version,
    "gcloud secrets versions enable": enable_version,
    "gcloud services enable": enable_service,
}
PEOPLE: Mapping[str, Callable[[Stage], object]] = {
    "asks the user": lambda stage: stage.add_user("user"),
    "stores the bare token": lambda stage: stage.add_user("user"),
    "deploy `infra/bootstrap` again": lambda stage: stage.secrets.script("*", ()),
    "wait": lambda stage: stage.google.script_retry("*", ()),
}


def carry_out(stage: Stage, remedy: str) -> None:
    """The first thing that the cell tells one to do."""
    commands = [word for word in words(remedy) if any(word.startswith(known) for known in COMMANDS)]
    if commands:
        known = next(known for known in COMMANDS if commands[0].startswith(known))
        COMMANDS[known](stage, shlex.split(commands[0])[1:])
        return
    PEOPLE[next(said for said in PEOPLE if said in remedy)](stage)


@pytest.mark.parametrize("what", COMMON)
async def test_the_row_of_a_common_fault_ends_it(what: str) -> None:
    broken = BY_NAME[what]
    async with running(broken) as (stage, function):
        line = await function.deliver(EVENT)
        assert broken.outcome == line["outcome"] != "retried"
        again = await function.deliver(EVENT, attempt=2)
        assert again["outcome"] != "retried"
        carry_out(stage, row_of(line)[4])
        function.later(hours=2)  # the longest pause after a call in doubt is over, and what is published is new
        assert "retried" == (await function.deliver(EVENT, attempt=3, published=function.now))["outcome"]
