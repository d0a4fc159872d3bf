"""What happened to a job: the ledger's entries of its chain, and what each of them means for what comes next.

A chain is found by its links alone: an entry names the chain's root and the job that came after it, and entries are
looked up by their name. (Searching for a root would need an index that the ledger does not keep.)
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from handlers.entries import Entry
from handlers.events import timestamp
from handlers.ledger import Store, Stored
from handlers.outcomes import Reason, Unavailable
from handlers.retry_failed_job import Rules

_LONGEST_CHAIN = 100  # the largest RETRY_BUDGET
_SECONDS = 30.0  # for the whole chain, tries again included
_PAUSE_SECONDS = 0.5
_LONGEST_BACK_OFF = 600.0  # seconds between two deliveries (infra/subscriptions.tf)
_HIDDEN = ("event", "attributes", "holder")  # a producer's own data, and a word of no meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One job's entry with what it means. `lease_ends_at` is by this machine's clock, of a claim only."""

    entry: Entry
    lease_ends_at: datetime | None
    next: str

    def as_json(self) -> dict[str, Any]:
        fields = {name: value for name, value in msgspec.structs.asdict(self.entry).items() if name not in _HIDDEN}
        counts = {"used": self.entry.used, "calls_in_doubt": self.entry.calls_in_doubt}
        told = fields | counts | {"lease_ends_at": self.lease_ends_at, "next": self.next}
        return {
            _camel(name): timestamp(value) if isinstance(value, datetime) else value for name, value in told.items()
        }


async def chain_of(store: Store, job_id: str) -> list[Stored]:
    """The entries of a job's chain, in its order; none if the ledger does not know the job.

    Where links are missing, what is known before the gap and after it. Raises Unavailable or Misconfigured.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            stored = await _load(store, job_id)
            if stored is None:
                return []
            chain = await _from(store, stored.entry.root_job_id)
            known = [one.entry.job_id for one in chain]
            return chain if job_id in known else chain + await _from(store, job_id)
    except TimeoutError:
        raise Unavailable(f"reading the ledger: no answer within {_SECONDS:g} s") from None


async def _from(store: Store, job_id: str) -> list[Stored]:
    chain: list[Stored] = []
    seen = {""}
    while job_id not in seen and len(chain) <= _LONGEST_CHAIN and (stored := await _load(store, job_id)):
        chain.append(stored)
        seen.add(job_id)
        job_id = stored.entry.new_job_id
    return chain


async def _load(store: Store, job_id: str) -> Stored | None:
    while True:
        try:
            return await store.load(job_id)
        except Unavailable:
            await asyncio.sleep(_PAUSE_SECONDS)


def told(stored: Stored, rules: Rules, now: datetime) -> Told:
    """What an entry means."""
    entry, left = stored.entry, timedelta(seconds=stored.entry.lease_seconds - stored.age)  # on the store's clock
    ends_at = now + left if entry.state == "claimed" else None
    following = _next(entry, rules, now, left)
    unheld = left < timedelta() if entry.state == "claimed" else entry.state == "open" and entry.fence
    if unheld and not entry.not_before and stored.age > _LONGEST_BACK_OFF:
        following += f" If Pub/Sub has given it up: python -m ops redrive dead --job {entry.job_id}"
    return Told(entry=entry, lease_ends_at=ends_at, next=following)


def _next(entry: Entry, rules: Rules, now: datetime, left: timedelta) -> str:
    match entry.state:
        case "open" if entry.not_before:
            return "The scheduled run puts its event back."
        case "open" if not entry.fence:
            return "Made by a retry; nobody has reported it as failed."
        case "open":
            return f"The next delivery {_claims(entry, 0, rules, now)}."
        case "claimed" if left >= timedelta():
            return f"Held by a delivery until {clock(now + left)} ({span(left)} from now) at the latest."
        case "claimed":
            takes_over = f"takes it over, counts one call in doubt and {_claims(entry, 1, rules, now)}"
            return (
                f"Its delivery died or was cut off, and the lease lapsed {span(-left)} ago: the next one {takes_over}."
            )
        case "retried":
            return f"Done. A further delivery only publishes the follow-up, {entry.new_job_id}, again."
        case "deferred":
            until = entry.not_before or now
            if until <= now:
                return "Its time has come: the next scheduled run puts its event back."
            waits = f"Waits until {clock(until)} ({span(until - now)} from now)"
            return f"{waits}, then the scheduled run puts its event back."
        case "rejected":
            return _after_rejection(entry)


def _claims(entry: Entry, lapsed: int, rules: Rules, now: datetime) -> str:
    """What the delivery that claims it does."""
    if now - entry.updated_at > rules.event_max_age:
        days = rules.event_max_age / timedelta(days=1)
        return f"rejects it as EVENT_EXPIRED, unless its event says that it failed within {days:g} days"
    if reason := rules.forbids(used=entry.used + lapsed, in_doubt=entry.calls_in_doubt + lapsed):
        return f"rejects it as {reason}"
    return f"asks Google to retry it, as retry {entry.used + lapsed + 1} of {rules.budget}"


def _after_rejection(entry: Entry) -> str:
    redrive = f"python -m ops redrive rejected --job {entry.job_id} --go"
    match entry.reason:
        case Reason.RETRY_BUDGET_EXHAUSTED if entry.calls_in_doubt:
            by_name = redrive.replace("--job", "--reason RETRY_BUDGET_EXHAUSTED --job")
            return f"Done. If Google carried out none of its calls in doubt (an outage): {by_name}"
        case Reason.EVENT_EXPIRED | Reason.RETRY_BUDGET_EXHAUSTED:
            return "Done. The user needs a new export."
        case Reason.REAUTHORIZATION_REQUIRED:
            return f"Done, until the user has consented again and the new token is stored; then: {redrive}"
    return f"Done for good. If you have put right what stood behind it: {redrive}"


def clock(moment: datetime) -> str:
    """Seconds are enough for people, and UTC is what the logs have."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def span(length: timedelta) -> str:
    """A length of time, in the largest unit that does it justice: 90 s, 45 min, 30 h, 12 days."""
    seconds = length.total_seconds()
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
