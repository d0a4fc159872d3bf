"""What goes wrong in a run, and how often: drawn anew by each seed, so that each explores another corner.

(Swarm testing: https://users.cs.utah.edu/~regehr/papers/swarm12.pdf. Runs in which every fault is a little likely
are all alike; runs that leave most faults out reach what the others would hide.)
"""

from collections.abc import Mapping
from functools import partial
from random import Random

from tests.simulation.record import FaultOfOurs, Record, Trouble
from tests.simulation.timeline import Timeline

_LATENCY = {"firestore": 0.02, "secrets": 0.01, "oauth": 0.1, "portability": 0.3, "pubsub": 0.02}  # seconds
SERVICES = tuple(_LATENCY)
ACCOUNT = "account"  # the program's own credentials, from the metadata server

# what can happen to one exchange over the wire
REFUSED = "refused"  # nothing arrives, and the caller knows it
LOST = "lost"  # it arrives and is carried out; its answer is lost
VOID = "void"  # nothing arrives, and the caller waits for nothing
LATE = "late"  # it arrives long after the caller has given up
SLOW = "slow"  # seconds, not milliseconds
MISTAKEN = "mistaken"  # the service refuses it, for something that we have set up wrongly for a moment
BROKEN = "broken"  # the service answers with an error, before it did anything
BROKEN_AFTER = "broken after"  # ... after it did everything
FOREIGN = "foreign"  # somebody else answers: a proxy, a front end, another server
DAMAGED = "damaged"  # the answer is not what was sent
EMPTY = "empty"  # the answer is a stream with nothing in it
HELD_BACK = "held back"  # the service wants less of us
UNAUTHORIZED = "unauthorized"  # a hiccup of the service: a token is not known there yet
DIES_UNSENT = "dies unsent"  # the instance dies as it is about to send
DIES_SENT = "dies sent"  # ... as soon as it has sent
DIES_AFTER = "dies after"  # ... when the request was carried out, before the answer is there
FREEZES = "freezes"  # the instance stands still for a while, between sending and reading the answer

_OF_THE_WIRE = (REFUSED, LOST, VOID, LATE, SLOW)
_OF_THE_INSTANCE = (DIES_UNSENT, DIES_SENT, DIES_AFTER, FREEZES)
_OF_A_SERVICE: Mapping[str, tuple[str, ...]] = {
    "firestore": (MISTAKEN, MISTAKEN, EMPTY),
    "secrets": (MISTAKEN, DAMAGED),
    "oauth": (BROKEN, BROKEN_AFTER, FOREIGN),
    "portability": (BROKEN, BROKEN_AFTER, FOREIGN, HELD_BACK, UNAUTHORIZED),
    "pubsub": (MISTAKEN,),
}
TROUBLES = {service: (*_OF_THE_WIRE, *_OF_THE_INSTANCE, *_OF_A_SERVICE[service]) for service in SERVICES}
_CERTAIN = frozenset((REFUSED, SLOW, MISTAKEN, DAMAGED, EMPTY, HELD_BACK, UNAUTHORIZED))  # no call is in doubt


class Faults:
    """Rates of trouble per service, and outages; over at `calm_at`."""

    def __init__(self, timeline: Timeline, record: Record, *, calm_at: float, storm: bool) -> None:
        self._rng = timeline.rng
        self._timeline = timeline
        self._record = record
        self.record = record.add
        self._rates: dict[str, list[tuple[float, str]]] = {}
        self._down: dict[str, str] = {}
        self._wrong: set[str] = set()
        self.happened: set[tuple[str, str]] = set()
        self.calm_at = calm_at
        self.latency = {
            service: typical * self._rng.choice((0.3, 1.0, 5.0, 20.0)) for service, typical in _LATENCY.items()
        }
        self.latest = 200.0  # seconds after its caller gave up on it at which a request can still arrive
        self.freezes_for = self._rng.choice((1.0, 20.0, 60.0, 160.0, 400.0))
        self._draw_rates(1.0 if storm else self._rng.random())
        self._draw_windows()
        timeline.after(calm_at, self._calm)

    def trouble(self, service: str, instance: str, *, reads: bool = False) -> str:
        """What happens to the next exchange with this service; mostly "", nothing."""
        trouble = self._down.get(service) or self._timeline.trouble(service, partial(self._drawn, service))
        if trouble:
            self._record.add(Trouble(self._timeline.now, instance, service, trouble))
        return trouble

    def _drawn(self, service: str) -> str:
        rates = self._rates.get(service)
        if rates:
            roll = self._rng.random()
            for rate, trouble in rates:
                roll -= rate
                if roll < 0:
                    self.happened.add((service, trouble))
                    return trouble
        return ""

    def is_wrong(self, what: str) -> bool:
        """Whether we have set this up wrongly just now."""
        return what in self._wrong

    def is_away(self, what: str) -> bool:
        """Whether what has no exchanges of its own is away just now."""
        return what in self._down

    def set_wrong(self, what: str, wrong: bool) -> None:
        timeline = self._timeline
        if wrong != (what in self._wrong) and not (wrong and (timeline.now >= self.calm_at or not timeline.happens())):
            (self._wrong.add if wrong else self._wrong.remove)(what)
            self._record.add(FaultOfOurs(timeline.now, what, wrong))

    def was_wrong(self, what: str) -> None:
        """Something was set up wrongly for this moment, or an answer was nobody's that we know."""
        self._record.add(FaultOfOurs(self._timeline.now, what, True))
        self._record.add(FaultOfOurs(self._timeline.now, what, False))

    def _draw_rates(self, mood: float) -> None:
        rng = self._rng
        if mood < 0.15:
            return  # nothing but what Pub/Sub and Google do on a fine day
        for service in SERVICES:
            troubles = TROUBLES[service]
            if mood < 0.35:
                troubles = tuple(trouble for trouble in troubles if trouble in _CERTAIN)
            drawn = [(_rate(rng), trouble) for trouble in troubles if rng.random() < 0.18]
            rng.shuffle(drawn)
            if drawn:
                self._rates[service] = drawn

    def _draw_windows(self) -> None:
        rng, after = self._rng, self._timeline.after
        for service in (*SERVICES, ACCOUNT):
            if rng.random() < 0.06:
                begins = rng.uniform(0.0, self.calm_at)
                foreign = (FOREIGN,) if FOREIGN in TROUBLES.get(service, ()) else ()
                after(begins, self._set_down, service, rng.choice((REFUSED, VOID, *foreign)))
                after(begins + rng.uniform(5.0, 200.0), self._set_down, service, "")
            if rng.random() < 0.08:
                begins = rng.choice((0.0, rng.uniform(0.0, self.calm_at)))
                after(begins, self.set_wrong, service, True)
                after(begins + rng.uniform(5.0, 300.0), self.set_wrong, service, False)

    def _set_down(self, service: str, trouble: str) -> None:
        if trouble and self._timeline.now < self.calm_at and self._timeline.happens():
            self._down[service] = trouble
        else:
            self._down.pop(service, None)

    def _calm(self) -> None:
        self._rates.clear()
        self._down.clear()
        for what in sorted(self._wrong):
            self.set_wrong(what, False)


def _rate(rng: Random) -> float:
    return rng.choice((0.02, 0.05, 0.15, 0.4))
