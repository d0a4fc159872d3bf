"""Beside a fault that never heals, whatever does not depend on it ends in time."""

from collections.abc import Callable
from functools import cached_property

import pytest
from msgspec.structs import replace

from handlers.bootstrap import Container
from handlers.ledger import Ledger
from handlers.retry_failed_job import RetryFailedJob
from tests.simulation import story
from tests.simulation.liveness import FAULTS, LivenessWorld

_SCHEDULES = 10  # of each fault


@pytest.mark.parametrize("fault", FAULTS)
def test_events_end_in_time_beside_a_fault_that_never_heals(fault: str, figure: Callable[[str, int], None]) -> None:
    first = FAULTS.index(fault)
    for seed in range(first, first + _SCHEDULES * len(FAULTS), len(FAULTS)):
        run = (world := LivenessWorld(seed)).run()
        assert fault == world.fault
        assert not run.violations, story.of_seed(seed, world=LivenessWorld)
    figure("schedules with a fault that never heals", _SCHEDULES)


class LeaseOfADay(Container):
    """A claim that nobody gives back keeps its job from everybody."""

    @cached_property
    def ledger(self) -> Ledger:
        self.settings = replace(self.settings, claim_lease_seconds=86_400.0)
        return super().ledger


class ImpatientDeliveries(Container):
    """A delivery has less time than the answers of a slow service take."""

    @cached_property
    def retry_use_case(self) -> RetryFailedJob:
        return replace(super().retry_use_case, deadline=5.0)


@pytest.mark.parametrize(
    ("mutant", "fault", "first"), [(LeaseOfADay, "an instance frozen", 120), (ImpatientDeliveries, "a service slow", 1)]
)
def test_code_that_waits_for_what_never_heals_is_found(mutant: type[Container], fault: str, first: int) -> None:
    for seed in range(first, 1_200, len(FAULTS)):
        violations = LivenessWorld(seed, mutant).run().violations
        if any("not ended within" in violation and violation.endswith(f"beside {fault}") for violation in violations):
            return
    pytest.fail(f"not found: {mutant.__doc__}")
