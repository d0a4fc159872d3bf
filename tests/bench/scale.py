"""What happens at 1, 1,000 and 100,000 failed jobs a minute: a model, with its assumptions as parameters.

    python -m tests.bench.scale [--latency 0.5] [--portability 6000] …

Second by second, in numbers of messages: Pub/Sub pushes what is due, the longest due first, as much at once as its
window allows; what finds no instance (429) or no quota (503) comes again after the subscription's back-off, until its
deliveries are used up. docs/scale.md has the tables, what follows from them, and what is not modelled.
"""

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from heapq import heappop, heappush
from typing import Any

from infra.delivery.prices import DOCUMENT_DELETES, DOCUMENT_WRITES
from tests.bench.scale_assumed import Assumed
from tests.bench.scale_cost import Taken, usd

RATES = (1, 1_000, 100_000)  # failed jobs a minute
VARIED: list[dict[str, Any]] = [
    {},
    {"attempts": 30},
    {"attempts": 30, "max_instances": 40},
    {"attempts": 30, "back_off": 60.0},
    {"attempts": 30, "back_off": 120.0},
]


@dataclass(slots=True)
class Found:
    """What became of the messages of one run."""

    published: int = 0
    retried: int = 0
    dead: int = 0
    turned_away: Counter[str] = field(default_factory=Counter)  # deliveries, by who had no room for them
    most: int = 0  # deliveries of one message
    instances: int = 1
    backlog: int = 0  # at its highest
    seconds: int = 0  # until nothing was left
    taken: Taken = field(default_factory=Taken)


class Quotas:
    """What is left of each at this second."""

    def __init__(self, assumed: Assumed) -> None:
        self._assumed = assumed
        self.ramp = assumed.firestore
        self._operations = 0.0  # of the last minutes

    def refill(self, second: int) -> None:
        if second % 300 == 0:  # it grows by what was used, not by itself
            self.ramp = max(self.ramp, 1.5 * self._operations / 300)
            self._operations = 0.0
        if second % 60 == 0:
            self.portability, self.secret = self._assumed.portability, float(self._assumed.secret)
        self.firestore = self.ramp

    def serve(self, batch: int, anew: float, found: Found, *, again: bool) -> int:
        """How many of these deliveries, of which a share `anew` reads its secret, every quota lets through.

        A first delivery reads it while it makes its claim; one that comes again reads the ledger, then makes its claim,
        then reads the secret. A claim that led to no answer of Google's is released, which is another write.
        """
        taken = found.taken
        claimed = min(batch, int(self.firestore / (DOCUMENT_WRITES + again)))
        asked = anew * (claimed if again else batch)
        read = min(asked, self.secret)
        ready = int(claimed * (1 - anew * (1 - read / asked))) if asked else claimed
        done = min(ready, self.portability)
        writes = DOCUMENT_WRITES * done + 2 * (claimed - done)
        self.secret -= read
        self.portability -= done
        self.firestore -= writes + claimed * again
        self._operations += writes + claimed * again
        taken.accesses += read
        taken.reads += claimed * again
        taken.writes += writes
        refused = {
            "Firestore": batch - claimed,
            "Secret Manager": claimed - ready,
            "Data Portability API": ready - done,
        }
        found.turned_away += Counter(refused)
        return done


@cache
def run(rate: int, assumed: Assumed) -> Found:
    """`rate` jobs fail a minute, for `assumed.minutes`. Callers share what is found: they only read it."""
    found, quotas = Found(), Quotas(assumed)
    due: list[tuple[int, int, int]] = []  # a heap: from which second on, at which attempt, how many messages
    window, instances, spread, waiting = assumed.window_first, 1, 0.0, 0
    users = rate * assumed.minutes / assumed.jobs_a_user
    while found.seconds < assumed.minutes * 60 or due:
        second = found.seconds
        quotas.refill(second)
        if second < assumed.minutes * 60:
            fresh = rate * (second + 1) // 60 - rate * second // 60
            heappush(due, (second, 1, fresh))
            found.published += fresh
            waiting += fresh
        room = int(min(window / assumed.latency, assumed.capacity))
        at_most = room + assumed.beyond(window)
        pushed = in_vain = 0
        while due and due[0][0] <= second and pushed < at_most:
            moment, attempt, count = heappop(due)
            batch = min(count, at_most - pushed)
            if batch < count:
                heappush(due, (moment, attempt, count - batch))
            taken_in = max(0, min(batch, room - pushed))
            pushed += batch
            found.turned_away["Cloud Run (429)"] += batch - taken_in
            anew = assumed.read_anew(attempt, instances, users)
            done = quotas.serve(taken_in, anew, found, again=attempt > 1)
            refused = batch - done
            found.retried += done
            found.most = max(found.most, attempt) if batch else found.most
            waiting -= done
            in_vain += refused
            if refused and attempt >= assumed.attempts:
                found.dead += refused
                waiting -= refused
            elif refused:
                spread = (spread + 0.618) % 1  # no chance in it: every run is the same
                wait = assumed.wait(attempt) * (1 + assumed.jitter * spread)
                heappush(due, (second + math.ceil(wait), attempt + 1, refused))
        instances = assumed.running(min(pushed, room))
        window = assumed.narrowed(window, pushed, in_vain)
        found.taken.deliveries += pushed
        found.taken.instance_seconds += min(instances, min(pushed, room) * assumed.latency)
        found.instances = max(found.instances, instances)
        found.backlog = max(found.backlog, waiting)
        found.seconds += 1
    taken = found.taken
    taken.messages = found.published + 2 * found.retried + found.dead
    taken.deletes = DOCUMENT_DELETES * found.retried
    taken.minutes = min(math.ceil(found.seconds / 60), taken.deliveries)
    return found


def report(assumed: Assumed, *, varied: bool = False) -> str:
    """A Markdown table: a row a rate, or a row for each setting of VARIED at the highest rate."""
    if varied:
        rows = [(", ".join(f"{name} {value}" for name, value in one.items()) or "as above", one) for one in VARIED]
        runs = [(label, run(RATES[-1], replace(assumed, **one))) for label, one in rows]
    else:
        runs = [(f"{rate:,}", run(rate, assumed)) for rate in RATES]
    columns = [
        "deliveries turned away, by",
        "retried",
        "dead letters",
        "most deliveries",
        "backlog",
        "over after",
        "USD",
    ]
    lines = [
        f"| {'setting' if varied else 'jobs a minute'} | instances | {' | '.join(columns)} |",
        f"| {'---' if varied else '---:'} | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, found in runs:
        by = ", ".join(f"{name} {count:,}" for name, count in found.turned_away.most_common() if count) or "none"
        lines.append(
            f"| {label} | {found.instances} | {by} | {found.retried:,} of {found.published:,} | {found.dead:,} "
            f"| {found.most} | {found.backlog:,} | {found.seconds / 60:.0f} min | {usd(found.taken):,.4f} |"
        )
    return "\n".join(lines)


def told(arguments: list[str]) -> str:
    """What a command line is answered with: it has an option for each assumption."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--varied", action="store_true", help="settings beside each other, at the highest rate")
    for name, of in Assumed.__dataclass_fields__.items():
        options.add_argument(
            f"--{name.replace('_', '-')}", type=type(of.default), default=of.default, help=of.metadata["help"]
        )
    given = vars(options.parse_args(arguments))
    return report(varied=given.pop("varied"), assumed=Assumed(**given))


if __name__ == "__main__":
    print(told(sys.argv[1:]))
