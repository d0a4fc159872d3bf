"""The simulation can fail: it finds every fault that is planted, and says what is wrong."""

from collections.abc import Callable

import pytest

from tests.simulation.instance import Composition
from tests.simulation.planted import FAULTS, MOST_SCHEDULES, first_seed_that_finds


@pytest.mark.parametrize(("fault", "said"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_planted_fault_is_found(fault: type[Composition], said: str, figure: Callable[[str, int], None]) -> None:
    found = first_seed_that_finds(fault, said) is not None
    figure("faults planted", 1)
    figure("faults planted and found", found)
    assert found, f"not found in {MOST_SCHEDULES} schedules: {fault.__doc__}"


def test_nothing_is_found_where_nothing_is_planted() -> None:
    assert first_seed_that_finds(Composition, "", most=100) is None
