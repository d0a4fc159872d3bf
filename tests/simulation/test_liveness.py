"""Beside a fault that never heals, whatever does not depend on it ends in time."""

from collections.abc import Callable
from functools import cached_property

import pytest
from msgspec.structs import replace

from handlers.bootstrap import Container
from handlers.ledger import Ledger
from handlers.retry_failed_job import RetryFailedJob
from handlers.watch_job import WatchJob
from tests.simulation import story
from tests.simulation.liveness import FAULTS, LivenessWorld, fault_of
from tests.simulation.watched import watched_seeds

_SCHEDULES = 40  # ten of each fault, one of these with watched jobs


@pytest.mark.parametrize("fault", FAULTS)
def test_events_end_in_time_beside_a_fault_that_never_heals(fault: str, figure: Callable[[str, int], None]) -> None:
    for seed in (seed for seed in range(_SCHEDULES) if fault == fault_of(seed)):
        assert not LivenessWorld(seed).run().violations, story.of_seed(seed, world=LivenessWorld)
        figure("schedules with a fault that never heals", 1)


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


class ImpatientLooks(Container):
    """A look has less time than the answers of a slow service take."""

    @cached_property
    def watch_use_case(self) -> WatchJob:
        return replace(super().watch_use_case, deadline=5.0)


@pytest.mark.parametrize(
    ("mutant", "fault", "seeds"),
    [
        (LeaseOfADay, "an instance frozen", range(120, 1_200)),
        (ImpatientDeliveries, "a service slow", range(1_200)),
        (ImpatientLooks, "a service slow", watched_seeds(0, 40)),
    ],
)
def test_code_that_waits_for_what_never_heals_is_found(mutant: type[Container], fault: str, seeds: range) -> None:
    for seed in (seed for seed in seeds if fault == fault_of(seed)):
        violations = LivenessWorld(seed, mutant).run().violations
        if any("not ended within" in violation and violation.endswith(f"beside {fault}") for violation in violations):
            return
    pytest.fail(f"not found: {mutant.__doc__}")
