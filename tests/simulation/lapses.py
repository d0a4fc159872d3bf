"""How many claims lapse with nothing sent: each of them counts as a call in doubt, and so as a retry."""

from collections.abc import Sequence

from msgspec import Struct

from tests.simulation import faults
from tests.simulation.record import CallAnswered, CallSent, ClaimAsked, Effect, Trouble, Written


class Lapses(Struct, frozen=True):
    """`unsent`: of the claims that lapsed and were counted, those under which nothing was sent."""

    claims: int = 0
    lapsed: int = 0
    unsent: int = 0

    def __add__(self, other: "Lapses") -> "Lapses":
        return Lapses(self.claims + other.claims, self.lapsed + other.lapsed, self.unsent + other.unsent)

    @property
    def share(self) -> float:
        return self.unsent / self.claims

    def __str__(self) -> str:
        said = f"{self.claims:,} claims, {self.lapsed:,} lapsed, {self.unsent:,} of these with nothing sent"
        return f"{said} ({self.share:.2%} of the claims)"


def in_schedule(effects: Sequence[Effect]) -> Lapses:
    """A call whose instance died as it was about to send it counts as nothing sent."""
    owners: dict[str, str] = {}
    calls: dict[str, str] = {}  # → the delivery that sent it
    claims = lapsed = unsent = 0
    for before, effect in zip([None, *effects], effects, strict=False):
        match effect:
            case ClaimAsked():
                owners[effect.owner] = effect.delivery
            case CallSent():
                calls[effect.call] = effect.delivery
                last = effect.call
            case Trouble(service="portability", what=faults.DIES_UNSENT) if isinstance(before, CallSent):
                del calls[last]
            case CallAnswered(meaning="not sent"):
                calls.pop(effect.call, None)
            case Written(after=after) if after.calls and effect.before and effect.before.state == "claimed":
                if after.claims > effect.before.claims:
                    lapsed += 1
                    unsent += owners[effect.before.owner] not in calls.values()
        if isinstance(effect, Written) and effect.after.state == "claimed":
            claims += 1
    return Lapses(claims, lapsed, unsent)
