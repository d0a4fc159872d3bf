"""How many inputs are tried, and the count of the bad ones among them."""

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.properties import inputs

_EXAMPLES = os.environ.get("EXAMPLES")
settings.register_profile(
    "properties",
    max_examples=int(_EXAMPLES or 100),
    derandomize=_EXAMPLES is None,  # `make test` says the same thing twice; a search does not
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("properties")


@pytest.fixture(autouse=True)
def _count_bad_inputs(figure: Callable[[str, int], None]) -> Iterator[None]:
    inputs.bad = 0
    yield
    figure("bad inputs tried", inputs.bad)
