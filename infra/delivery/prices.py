"""What the function costs, with the arithmetic: list prices in USD, in us-central1, no free tier taken off.

`make prices` prints the tables that stand in infra/README.md.
"""

import math
import sys
from dataclasses import dataclass

AS_OF = "November 2026"
MONTH_SECONDS = 730 * 3600
MILLION = 1_000_000

# What one failed job takes that is retried once, with success; tests/infra/test_prices.py counts it on a real run.
MESSAGES = 4  # published and delivered: the failed event, the follow-up
RETAINED_DAYS = 7  # for which the topic keeps the failed event
DOCUMENT_WRITES = 3  # the claim; the answer, and the new job's entry with it
DOCUMENT_DELETES = 2  # both entries, when their time to live is over
SECRET_ACCESSES = 1  # the user's refresh token; fewer when a user's jobs fail together
LOG_BYTES = 2_000  # the function's line and Cloud Run's own, about
AUDIT_BYTES = 1_500  # Secret Manager's entry for an access, about

# What a watched job takes, which succeeds; tests/infra/test_prices.py counts all of it on a whole watch.
WATCHED_HOURS = 48
WATCH_INTERVAL_SECONDS, LONGEST_WAIT_SECONDS = 300, 3000  # between two looks, at least and at most
TOKEN_SECONDS = 3599 - 120  # for which an access token is at hand: an hour, less one delivery and a reserve
STARTED_MESSAGES = 4  # published and delivered: the started event, the ended event
LOOK_MESSAGES = 2  # published and delivered: the event that is put back
STARTED_READS = STARTED_WRITES = 1  # whether it is known; its entry
LOOK_READS = 2  # what is due; the entry
LOOK_WRITES = 3  # opened, put back, and kept for the next look, or ended
WATCH_DELETES = 1  # the entry, when its time to live is over

# What infra/ watches it with; tests/infra/test_prices.py counts it in the plan.
ALERT_CONDITIONS = 10
ALERT_SERIES = 34  # that the conditions read in a minute
COUNTS, DISTRIBUTIONS = 7, 7  # metrics that an event adds to: at most a point a minute each, of 8 and of 80 bytes
POINT_BYTES = COUNTS * 8 + DISTRIBUTIONS * 80

# Assumed. The instance's time is shared by the deliveries in hand.
LATENCY_SECONDS = 0.5
MEMORY_GIB = 0.5
SCHEDULE_SECONDS = 600  # from one run to the next
SCHEDULED_RUNS = MONTH_SECONDS / SCHEDULE_SECONDS
SCHEDULED_SECONDS = 0.1  # what Cloud Run charges at least
TEST_MINUTES, DEPLOYMENT_MINUTES, CHECK_MINUTES = 30, 20, 5
BUILD_MINUTES = 3 * TEST_MINUTES + 2 * DEPLOYMENT_MINUTES + CHECK_MINUTES  # each build waits for the one before it


@dataclass(frozen=True, slots=True)
class Price:
    usd: float
    per: float
    source: str


VCPU_SECOND = Price(0.000024, 1, "https://cloud.google.com/run/pricing")
GIB_SECOND = Price(0.0000025, 1, "https://cloud.google.com/run/pricing")
REQUEST = Price(0.40, MILLION, "https://cloud.google.com/run/pricing")
MESSAGE_BYTE = Price(40, 2**40, "https://cloud.google.com/pubsub/pricing")
RETAINED_GIB = Price(0.27, 1, "https://cloud.google.com/pubsub/pricing")
DOCUMENT_READ = Price(0.03, 100_000, "https://cloud.google.com/firestore/pricing")
DOCUMENT_WRITE = Price(0.09, 100_000, "https://cloud.google.com/firestore/pricing")
DOCUMENT_DELETE = Price(0.01, 100_000, "https://cloud.google.com/firestore/pricing")
SECRET_ACCESS = Price(0.03, 10_000, "https://cloud.google.com/secret-manager/pricing")
SECRET_VERSION = Price(0.06, 1, "https://cloud.google.com/secret-manager/pricing")
METRIC_BYTE = Price(0.2580, 2**20, "https://cloud.google.com/stackdriver/pricing")
ALERT_CONDITION = Price(0.10, 1, "https://cloud.google.com/stackdriver/pricing")
ALERT_READ = Price(0.35, MILLION, "https://cloud.google.com/stackdriver/pricing")
LOG_BYTE = Price(0.50, 2**30, "https://cloud.google.com/stackdriver/pricing")
SCHEDULER_JOB = Price(0.10, 1, "https://cloud.google.com/scheduler/pricing")
IMAGE_GIB = Price(0.10, 1, "https://cloud.google.com/artifact-registry/pricing")
BUILD_MINUTE = Price(0.006, 1, "https://cloud.google.com/build/pricing")

Row = tuple[str, str, float]


def cost(price: Price, amount: float) -> float:
    """USD for an amount of what the price is for."""
    return price.usd * amount / price.per


def instance(seconds: float) -> float:
    """USD for an instance's time: one CPU and its memory."""
    return cost(VCPU_SECOND, seconds) + cost(GIB_SECOND, seconds * MEMORY_GIB)


def at_rest() -> list[Row]:
    """A month without events."""
    runs = round(SCHEDULED_RUNS)
    return [
        ("Cloud Scheduler", "1 job", cost(SCHEDULER_JOB, 1)),
        (
            "its runs",
            f"{runs:,} x ({SCHEDULED_SECONDS} s of an instance, 1 request, 1 document read)",
            instance(runs * SCHEDULED_SECONDS) + cost(REQUEST, runs) + cost(DOCUMENT_READ, runs),
        ),
        ("Secret Manager: the OAuth client, the smoke test's", "2 versions", cost(SECRET_VERSION, 2)),
        ("Artifact Registry: images", "1 GiB, about", cost(IMAGE_GIB, 1)),
        ("Cloud Monitoring: alerts", f"{ALERT_CONDITIONS} conditions", cost(ALERT_CONDITION, ALERT_CONDITIONS)),
        (
            "what they read",
            f"{ALERT_SERIES} series x {MONTH_SECONDS // 60:,} minutes",
            cost(ALERT_READ, ALERT_SERIES * MONTH_SECONDS / 60),
        ),
        ("functions, topics, ledger and its backups", "nothing runs, nothing is stored", 0.0),
    ]


def per_million(at_once: int) -> list[Row]:
    """A million events, with this many in an instance's hands at the same time."""
    seconds = MILLION * LATENCY_SECONDS / at_once
    return [
        ("Cloud Run: instance", f"1 M x {LATENCY_SECONDS} s / {at_once} at once", instance(seconds)),
        ("Cloud Run: requests", "1 M", cost(REQUEST, MILLION)),
        ("Pub/Sub", f"1 M x {MESSAGES} x 1,000 bytes", cost(MESSAGE_BYTE, MILLION * MESSAGES * 1000)),
        (
            "Pub/Sub: the failed events, kept",
            f"1 M x 1,000 bytes x {RETAINED_DAYS} days",
            cost(RETAINED_GIB, MILLION * 1000 / 2**30 * RETAINED_DAYS * 86_400 / MONTH_SECONDS),
        ),
        ("Firestore: writes", f"1 M x {DOCUMENT_WRITES}", cost(DOCUMENT_WRITE, MILLION * DOCUMENT_WRITES)),
        ("Firestore: deletes", f"1 M x {DOCUMENT_DELETES}", cost(DOCUMENT_DELETE, MILLION * DOCUMENT_DELETES)),
        ("Secret Manager: accesses", f"1 M x {SECRET_ACCESSES}", cost(SECRET_ACCESS, MILLION * SECRET_ACCESSES)),
        ("Cloud Logging", f"1 M x {LOG_BYTES:,} bytes", cost(LOG_BYTE, MILLION * LOG_BYTES)),
        (
            "Cloud Monitoring: metrics",
            f"{seconds / 60:,.0f} minutes x {POINT_BYTES} bytes",
            cost(METRIC_BYTE, seconds / 60 * POINT_BYTES),
        ),
    ]


def looks(hours: float) -> tuple[int, int]:
    """How often a job of so many hours is looked at, and how many of the looks need a new access token.

    A look comes with the first run of the schedule after its time. The next is due when half of the job's age is over.
    """
    number = accesses = 0
    at, due, token_until = 0.0, float(WATCH_INTERVAL_SECONDS), 0.0
    while at < hours * 3600:
        at = math.ceil(due / SCHEDULE_SECONDS) * SCHEDULE_SECONDS + LATENCY_SECONDS
        due = at + min(max(at / 2, WATCH_INTERVAL_SECONDS), LONGEST_WAIT_SECONDS)
        number += 1
        if at >= token_until:
            accesses += 1
            token_until = at + TOKEN_SECONDS
    return number, accesses


def watched(at_once: int) -> list[Row]:
    """A thousand watched jobs, with this many looks in an instance's hands at the same time."""
    jobs, (number, accesses) = 1000, looks(WATCHED_HOURS)
    deliveries = number + 1
    messages = STARTED_MESSAGES + number * LOOK_MESSAGES
    reads, writes = STARTED_READS + number * LOOK_READS, STARTED_WRITES + number * LOOK_WRITES
    seconds = jobs * deliveries * LATENCY_SECONDS / at_once
    return [
        (
            "Cloud Run: instance",
            f"{jobs:,} x {deliveries} x {LATENCY_SECONDS} s / {at_once} at once",
            instance(seconds),
        ),
        ("Cloud Run: requests", f"{jobs:,} x {deliveries}", cost(REQUEST, jobs * deliveries)),
        ("Pub/Sub", f"{jobs:,} x {messages} x 1,000 bytes", cost(MESSAGE_BYTE, jobs * messages * 1000)),
        ("Firestore: reads", f"{jobs:,} x {reads}", cost(DOCUMENT_READ, jobs * reads)),
        ("Firestore: writes", f"{jobs:,} x {writes}", cost(DOCUMENT_WRITE, jobs * writes)),
        ("Firestore: deletes", f"{jobs:,} x {WATCH_DELETES}", cost(DOCUMENT_DELETE, jobs * WATCH_DELETES)),
        ("Secret Manager: accesses", f"{jobs:,} x {accesses}", cost(SECRET_ACCESS, jobs * accesses)),
        (
            "Cloud Logging",
            f"{jobs:,} x {deliveries} x {LOG_BYTES:,} bytes",
            cost(LOG_BYTE, jobs * deliveries * LOG_BYTES),
        ),
        ("Cloud Scheduler", "the same job, no run more", 0.0),
    ]


def table(title: str, rows: list[Row]) -> str:
    """A Markdown table with its sum."""
    lines = [f"| {title} | arithmetic | USD |", "| --- | --- | ---: |"]
    lines += [f"| {name} | {arithmetic} | {usd:,.2f} |" for name, arithmetic, usd in rows]
    return "\n".join([*lines, f"| **together** | | **{sum(usd for _, _, usd in rows):,.2f}** |"])


def report() -> str:
    """All of it, as it stands in infra/README.md."""
    sources = sorted({price.source for price in globals().values() if isinstance(price, Price)})
    tokens, build = cost(SECRET_VERSION, 1000), cost(BUILD_MINUTE, BUILD_MINUTES)
    audit = cost(LOG_BYTE, MILLION * SECRET_ACCESSES * AUDIT_BYTES)
    number, accesses = looks(WATCHED_HOURS)
    alone = sum(usd for _, _, usd in watched(1)) / 1000
    return f"""\
List prices of {AS_OF}, in USD, in us-central1, without the free tiers (which cover most small uses).

{table("at rest, a month", at_rest())}

On top of that, **{tokens:,.2f} a month for every 1,000 refresh tokens** that your product stores, since Secret Manager
asks {SECRET_VERSION.usd:.2f} for each active version: destroy the versions that are replaced.

{table("a million events, quiet (one at a time)", per_million(1))}

{table("a million events, busy (80 at once)", per_million(80))}

{table(f"a thousand watched jobs of {WATCHED_HOURS} hours, busy (80 at once)", watched(80))}

Such a job is looked at {number} times, {accesses} of them with a new access token: it lasts for an hour, and so
does the longest wait, of 50 minutes and a run of the schedule. Alone on its instance, a job costs {alone:.4f}.

Assumed: Google's answers take {LATENCY_SECONDS} s together. The log of accesses to secrets adds {audit:.2f} a million
events. A push of {BUILD_MINUTES} build minutes would cost {build:.2f} (2,500 minutes a month are free): of its three
builds, two also wait for the one before them. The Data Portability API costs nothing.
Google's pages have the last word:
{", ".join(f"<{source}>" for source in sources)}.
"""


if __name__ == "__main__":
    sys.stdout.write(report())
