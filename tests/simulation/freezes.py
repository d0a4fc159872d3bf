"""When instances stood still: what both judges have to know of it."""

from collections import defaultdict

from tests.simulation.record import Froze

AT_WORK = 90.0  # seconds that a delivery may take
_NEVER = float("-inf")


class Freezes:
    """`thawed_at`: when each instance went on, or will."""

    def __init__(self) -> None:
        self.thawed_at: dict[str, float] = defaultdict(lambda: _NEVER)
        self._began_at: dict[str, float] = {}  # the latest stretch of each instance

    def add(self, effect: Froze) -> None:
        if effect.at > self.thawed_at[effect.name] + AT_WORK:  # else it had no time to end what was under way
            self._began_at[effect.name] = effect.at
        self.thawed_at[effect.name] = max(effect.at + effect.seconds, self.thawed_at[effect.name])

    def stood_still(self, instance: str, since: float) -> bool:
        return self.thawed_at[instance] >= since

    def fetched_since(self, instance: str, begun: float) -> float:
        """How old what a delivery reads that began then can be: an earlier one's answer is shared when both go on."""
        return min(begun, self._began_at[instance]) if self.stood_still(instance, begun) else begun
