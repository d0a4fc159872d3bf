"""What happens at 1, 1,000 and 100,000 failed jobs a minute: a model, with its assumptions as parameters.

    python -m tests.bench.scale [--latency 0.5] [--portability 6000] …

Second by second, in numbers of messages: Pub/Sub pushes what is due, as much at once as its window allows; what a quota
turns away is answered 503 and comes again after the subscription's back-off. Sources of the defaults, as of 2026:
https://cloud.google.com/secret-manager/quotas, https://cloud.google.com/pubsub/docs/push,
https://cloud.google.com/firestore/native/docs/best-practices#ramping_up_traffic
"""

import argparse
import math
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush

from infra.delivery.prices import DOCUMENT_WRITE, DOCUMENT_WRITES, MILLION, REQUEST, cost, per_million

RATES = (1, 1_000, 100_000)  # failed jobs a minute


@dataclass(frozen=True, slots=True)
class Assumed:
    """The parameters; times are in seconds. The first four are infra/'s settings."""

    concurrency: int = field(default=80, metadata={"help": "deliveries at once in one instance"})
    max_instances: int = field(default=10, metadata={"help": "instances at most"})
    back_off: float = field(default=10.0, metadata={"help": "first wait after a 503; doubles up to 600 s"})
    attempts: int = field(default=30, metadata={"help": "deliveries until the dead-letter topic takes a message"})
    latency: float = field(default=0.5, metadata={"help": "one delivery, most of it Google's answers"})
    cpu: float = field(default=0.005, metadata={"help": "CPU of one delivery: twice what make bench measures"})
    secret: int = field(default=90_000, metadata={"help": "Secret Manager: accesses a minute in a project"})
    portability: int = field(default=6_000, metadata={"help": "Data Portability API: calls a minute; not published"})
    firestore: float = field(default=500.0, metadata={"help": "writes a second that a new collection takes at once"})
    jobs_a_user: float = field(default=1.0, metadata={"help": "failing while the user's access token lives"})
    window: int = field(default=100, metadata={"help": "pushes at once that Pub/Sub begins with"})
    minutes: int = field(default=10, metadata={"help": "how long jobs fail at this rate"})


@dataclass(slots=True)
class Found:
    """What became of the messages of one run."""

    published: int = 0
    retried: int = 0
    dead: int = 0
    turned_away: Counter[str] = field(default_factory=Counter)  # 503s, by the quota behind them
    instances: int = 0
    backlog: int = 0  # at its highest
    seconds: int = 0  # until nothing was left


def run(rate: int, assumed: Assumed) -> Found:
    """`rate` jobs fail a minute, for `assumed.minutes`."""
    found, window = Found(), float(assumed.window)
    due: list[tuple[int, int, int]] = []  # a heap: from which second on, at which attempt, how many messages
    waiting = 0
    instance = min(assumed.concurrency / assumed.latency, 1 / assumed.cpu)  # deliveries a second
    left: dict[str, float] = {}
    while found.seconds < assumed.minutes * 60 or due:
        second = found.seconds
        if second % 60 == 0:
            left = {"Data Portability API": assumed.portability, "Secret Manager": assumed.secret}
        if second < assumed.minutes * 60:
            fresh = rate * (second + 1) // 60 - rate * second // 60
            heappush(due, (second, 1, fresh))
            found.published += fresh
            waiting += fresh
        left["Firestore"] = assumed.firestore * 1.5 ** (second // 300) / DOCUMENT_WRITES
        room = int(min(window / assumed.latency, instance * assumed.max_instances))
        pushed, turned_away = 0, 0
        while due and due[0][0] <= second and pushed < room:
            moment, attempt, count = heappop(due)
            batch = min(count, room - pushed)
            if batch < count:
                heappush(due, (moment, attempt, count - batch))
            pushed += batch
            accepted = _accepted(batch, left, assumed, found)
            refused = batch - accepted
            turned_away += refused
            found.retried += accepted
            waiting -= accepted
            if refused and attempt >= assumed.attempts:
                found.dead += refused
                waiting -= refused
            elif refused:
                wait = min(assumed.back_off * 2 ** (attempt - 1), 600)
                heappush(due, (second + math.ceil(wait), attempt + 1, refused))
        # Pub/Sub sends more at once while it is answered well, and less while not; by how much is not published.
        if pushed:
            window = max(assumed.window, window / 2) if turned_away > pushed / 2 else min(window * 2, 100_000)
        found.instances = max(found.instances, math.ceil(pushed / instance))
        found.backlog = max(found.backlog, waiting)
        found.seconds += 1
    return found


def _accepted(batch: int, left: dict[str, float], assumed: Assumed, found: Found) -> int:
    """How many of a batch every quota lets through, in the order in which a delivery meets them."""
    for name, units in (("Firestore", 1.0), ("Secret Manager", 1 / assumed.jobs_a_user), ("Data Portability API", 1.0)):
        through = min(batch, int(left[name] / units))
        left[name] -= through * units
        if through < batch:
            found.turned_away[name] += batch - through
        batch = through
    return batch


def usd(rate: int, assumed: Assumed, found: Found) -> float:
    """What all of it costs, at list prices. A delivery that is turned away costs a request, a claim and its release."""
    at_once = rate / 60 * assumed.latency / found.instances
    retried = sum(row[2] for row in per_million(round(min(max(at_once, 1), assumed.concurrency))))
    in_vain = found.turned_away.total()
    return retried * found.retried / MILLION + cost(REQUEST, in_vain) + cost(DOCUMENT_WRITE, 2 * in_vain)


def report(assumed: Assumed) -> str:
    """A Markdown table: a row a rate."""
    lines = [
        "| jobs a minute | instances | turned away (503) | retried | dead letters | backlog | over after | USD |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rate in RATES:
        found = run(rate, assumed)
        reasons = ", ".join(f"{name} {count:,}" for name, count in found.turned_away.most_common()) or "none"
        lines.append(
            f"| {rate:,} | {found.instances} | {reasons} | {found.retried:,} of {found.published:,} | {found.dead:,} "
            f"| {found.backlog:,} | {found.seconds / 60:.0f} min | {usd(rate, assumed, found):,.4f} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """An option for each assumption."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, of in Assumed.__dataclass_fields__.items():
        options.add_argument(
            f"--{name.replace('_', '-')}", type=type(of.default), default=of.default, help=of.metadata["help"]
        )
    return options


if __name__ == "__main__":
    print(report(Assumed(**vars(parser().parse_args()))))
