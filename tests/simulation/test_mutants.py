"""The simulation can fail: it finds every mutant, and says what is wrong."""

from collections.abc import Callable

import pytest

from handlers.bootstrap import Container
from tests.simulation.mutants import HINTS, MOST_SCHEDULES, MUTANTS, first_seed_that_finds


@pytest.mark.parametrize(("mutant", "said"), MUTANTS.items(), ids=[mutant.__name__ for mutant in MUTANTS])
def test_mutant_is_found(mutant: type[Container], said: str, figure: Callable[[str, int], None]) -> None:
    found = first_seed_that_finds(mutant, said, HINTS.get(mutant, 0)) is not None
    figure("mutants", 1)
    figure("mutants found", found)
    assert found, f"not found in {MOST_SCHEDULES} schedules: {mutant.__doc__}"
