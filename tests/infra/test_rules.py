"""The example's plan keeps every rule."""

from collections.abc import Callable

import pytest

from tests.infra import monitoring, rules
from tests.infra.terraform import Plan


@pytest.mark.parametrize("rule", [*rules.RULES, *monitoring.RULES], ids=lambda rule: rule.__name__)
def test_the_example_keeps_the_rule(rule: Callable[[Plan], rules.Problems], plan: Plan) -> None:
    assert list(rule(plan)) == []
