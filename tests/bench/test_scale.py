"""Rules of the model of scale: it loses no message, it knows infra/'s settings, and docs/scale.md says what it says."""

import re
import shlex
from pathlib import Path

import pytest

from tests.bench.scale import RATES, Assumed, parser, report, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("attempts", [3, 30])
def test_every_message_is_retried_or_dead_in_the_end(rate: int, attempts: int) -> None:
    found = run(rate, Assumed(attempts=attempts))
    assert rate * 10 == found.published == found.retried + found.dead


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("concurrency", "concurrency"), ("max_instances", "max_instances"), ("attempts", "max_delivery_attempts")],
)
def test_its_defaults_are_what_terraform_sets(ours: str, theirs: str) -> None:
    variables = (ROOT / "infra" / "variables.tf").read_text()
    default = re.search(rf'variable "{theirs}" {{.*?default\s+= (\d+)', variables, re.DOTALL)
    assert default is not None
    assert int(default[1]) == getattr(Assumed(), ours)


def test_the_tables_in_the_document_are_what_its_commands_print() -> None:
    document = (ROOT / "docs" / "scale.md").read_text()
    commands = re.findall(r"^`python -m tests\.bench\.scale(.*)`$", document, re.MULTILINE)
    assert 3 == len(commands)
    for command in commands:
        assert report(Assumed(**vars(parser().parse_args(shlex.split(command))))) in document
