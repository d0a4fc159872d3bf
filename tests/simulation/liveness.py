"""Faults that never heal: whatever does not depend on the faulty thing ends all the same, and soon.

One fault in each world, and no other: an instance that stands still for ever, a service that is slow for ever, a
message that is delivered again and again for ever, a secret that is away for ever.
"""

from collections.abc import Sequence
from dataclasses import replace

from handlers.bootstrap import Container
from tests.simulation.deviations import Rehearsal
from tests.simulation.faults import SERVICES, Faults
from tests.simulation.grants import SECRET_PREFIX
from tests.simulation.record import Acked, Effect, EventPublished, FaultOfOurs
from tests.simulation.watch_record import StartedPublished
from tests.simulation.watched import ONE_IN
from tests.simulation.world import Run, World

FAULTS = ("an instance frozen", "a service slow", "duplicates", "a secret away")
_FOR_EVER = 8 * 86_400.0  # seconds: longer than anything waits, a cooldown included
_SLOW = 3.0  # seconds each way: calls of ten seconds' patience are answered
_EVERY = 40.0  # seconds between two duplicates, on average
_DUPLICATES_FOR = 3_000.0  # seconds
# Seconds from an event to its end. A frozen instance keeps pushes for their 120 s, and may hold a claim: its lease, and
# then the pause after a call in doubt, are waited for.
WITHIN = {"an instance frozen": 7200.0, "a service slow": 600.0, "duplicates": 1200.0, "a secret away": 300.0}


def fault_of(seed: int) -> str:
    """In turn; in the seeds with watched jobs, too."""
    return FAULTS[(seed + seed // ONE_IN) % len(FAULTS)]


class NoOtherFaults(Faults):
    """All services work, at their latencies."""

    def _draw_rates(self, mood: float) -> None:
        """None."""

    def _draw_windows(self) -> None:
        """None."""


class LivenessWorld(World):
    """A world with one fault that never heals."""

    faults_kind = NoOtherFaults

    def __init__(self, seed: int, kind: type[Container] = Container, rehearsal: Rehearsal | None = None) -> None:
        super().__init__(seed, kind, rehearsal)
        self.pubsub.most_attempts = 30  # a dead letter is no end here
        self.fault = fault_of(seed)
        self.away = ""  # the credential whose secret is
        rng, after = self.timeline.rng, self.timeline.after
        match self.fault:
            case "an instance frozen":
                while len(self._instances) < 2:
                    self._start()
                after(rng.choice((1.0, self.calm_at)) * rng.random(), self._instances[0].freeze, _FOR_EVER)
            case "a service slow":
                self.faults.latency[rng.choice(SERVICES)] = _SLOW
            case "duplicates":
                self.pubsub.calm_at = float("inf")
                after(1.0, self._deliver_again)
            case "a secret away":
                self.away = rng.choice(self._credentials)
                self.grants.away.add(SECRET_PREFIX + self.away)
        self.calm_at = float("inf")  # to the judge: nothing is ever over

    def _strike(self) -> None:
        """Nobody dies."""

    def _deliver_again(self) -> None:
        self.pubsub.deliver_again()
        if self.timeline.now < _DUPLICATES_FOR:
            self.timeline.after(2 * _EVERY * self.timeline.rng.random(), self._deliver_again)

    def run(self) -> Run:
        run = super().run()
        return replace(run, violations=run.violations + self._not_ended(run.record.effects))

    def _not_ended(self, effects: Sequence[Effect]) -> list[str]:
        """A sentence for every event that does not depend on the faulty thing, and did not end in time."""
        ours = {effect.what for effect in effects if isinstance(effect, FaultOfOurs)}
        if any(not what.startswith(("job-", "secret of ")) for what in ours):
            return []  # the OAuth client is nobody's that Google knows
        within, ends = WITHIN[self.fault], dict[str, float]()
        for effect in effects:
            if isinstance(effect, Acked):
                ends.setdefault(effect.message, effect.at)
        return [
            f"{event.message} of {event.job}: not ended within {within:.0f} s of {event.at:.3f} beside {self.fault}"
            for event in effects
            if isinstance(event, EventPublished | StartedPublished)
            and event.credential != self.away
            and not {event.job, f"{event.job} of the watch", f"secret of {event.credential}"} & ours
            and ends.get(event.message, float("inf")) > event.at + within
        ]
