"""The order of steps saves retries: the access token is there before the claim."""

from collections.abc import Callable

from handlers.bootstrap import Container
from tests.simulation.lapses import Lapses, in_schedule
from tests.simulation.mutants import ClaimsBeforeTheToken
from tests.simulation.world import World

_SCHEDULES = 200


def test_token_before_claim_quarters_claims_that_lapse_unsent(figure: Callable[[str, int], None]) -> None:
    now, before = _lapses(Container), _lapses(ClaimsBeforeTheToken)
    figure("claims that lapsed with nothing sent", now.unsent)
    figure("claims that lapsed with nothing sent, in the order of the first edition", before.unsent)
    assert now.unsent <= before.unsent / 4


def _lapses(kind: type[Container]) -> Lapses:
    return sum((in_schedule(World(seed, kind).run().record.effects) for seed in range(_SCHEDULES)), Lapses())
