"""The example's plan keeps every rule, with the watch and without."""

from collections.abc import Callable

import pytest

from tests.infra import monitoring, rules
from tests.infra.terraform import Plan

RULES = pytest.mark.parametrize("rule", [*rules.RULES, *monitoring.RULES], ids=lambda rule: rule.__name__)


@RULES
def test_the_example_keeps_the_rule(rule: Callable[[Plan], rules.Problems], plan: Plan) -> None:
    assert list(rule(plan)) == []


@RULES
def test_the_example_with_the_watch_keeps_the_rule(rule: Callable[[Plan], rules.Problems], watch_plan: Plan) -> None:
    assert list(rule(watch_plan)) == []
