"""What happened to a job: the ledger's entries of its chain, and what each of them means for what comes next.

A chain is found by its links alone: an entry names the chain's root and the job that came after it, and entries are
looked up by their name.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from handlers.domain.decisions import RetryPolicy
from handlers.domain.events import JobId, timestamp
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Reason, Transient
from handlers.ports import Store, Unreadable, UnreadableEntry, VersionedEntry
from ops.messages import REOPENED

_LONGEST_CHAIN = 100  # the largest RETRY_BUDGET
_SECONDS = 30.0  # for the whole chain, tries again included
_PAUSE_SECONDS = 0.5
_LONGEST_BACK_OFF = 600.0  # seconds between two deliveries (infra/subscriptions.tf)
_LONGEST_LEASE = 86_400.0  # seconds; CLAIM_LEASE_SECONDS allows no more, but an entry may have been edited by hand
# The log's names of these fields, in place of the ledger's.
_IDS = {"job_id": "archiveJobId", "root_job_id": "rootArchiveJobId", "new_job_id": "newArchiveJobId"}
_HIDDEN = ("event", "attributes", "lease_owner")  # a producer's own data, and a word of no meaning

Found = VersionedEntry | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One job's entry with what it means. `lease_ends_at` is by this machine's clock, of a claim only."""

    entry: LedgerEntry
    lease_ends_at: datetime | None
    next: str

    def as_json(self) -> dict[str, Any]:
        names = {field.name: field.encode_name for field in msgspec.structs.fields(LedgerEntry)} | _IDS
        fields = msgspec.structs.asdict(self.entry)
        told: dict[str, Any] = {names[name]: fields[name] for name in fields if name not in _HIDDEN}
        told |= {"used": self.entry.retries_used, "callsInDoubt": self.entry.chain_calls_in_doubt}
        told |= {"leaseEndsAt": self.lease_ends_at, "next": self.next}
        return {name: timestamp(value) if isinstance(value, datetime) else value for name, value in told.items()}


def is_job_id(text: str) -> bool:
    try:
        return "/" not in msgspec.convert(text, JobId)
    except msgspec.ValidationError:
        return False


async def chain_of(store: Store, job_id: str) -> list[Found]:
    """The entries of a job's chain, in its order; none if the ledger does not know the job.

    Where links are missing or broken, what is known before the gap and after it. Raises Transient or Misconfigured.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            asked = await _load(store, job_id)
            if asked is None:
                return []
            if isinstance(asked, Unreadable):
                return [asked]
            chain = await _from(store, asked.entry.root_job_id)
            return chain if job_id in map(job_id_of, chain) else chain + await _from(store, job_id)
    except TimeoutError:
        raise Transient(f"reading the ledger: no answer within {_SECONDS:g} s") from None


def job_id_of(found: Found) -> str:
    return found.job_id if isinstance(found, Unreadable) else found.entry.job_id


async def _from(store: Store, job_id: str) -> list[Found]:
    chain: list[Found] = []
    seen = {""}
    while job_id not in seen and len(chain) <= _LONGEST_CHAIN and (found := await _load(store, job_id)):
        chain.append(found)
        seen.add(job_id)
        job_id = "" if isinstance(found, Unreadable) else found.entry.new_job_id
    return chain


async def _load(store: Store, job_id: str) -> Found | None:
    if not is_job_id(job_id):  # it would be another document's path
        return Unreadable(job_id, f"{job_id!a} stands in the ledger where a job's id should: was it edited by hand?")
    while True:
        try:
            return await store.load(job_id)
        except UnreadableEntry as error:
            return Unreadable(job_id, str(error))
        except Transient:
            await asyncio.sleep(_PAUSE_SECONDS)


async def watches_of(store: Store, job_ids: list[str]) -> list[Found]:
    """What the watch's collection holds of these jobs. Raises Transient or Misconfigured."""
    try:
        async with asyncio.timeout(_SECONDS):
            found = [await _load(store, job_id) for job_id in job_ids]
    except TimeoutError:
        raise Transient(f"reading the watch's collection: no answer within {_SECONDS:g} s") from None
    return [one for one in found if one]


def tell_watch(found: Found, now: datetime) -> dict[str, str]:
    """What the watch does next about a job."""
    if isinstance(found, Unreadable):
        return {"archiveJobId": found.job_id, "unreadable": found.detail, "next": found.detail}
    entry, until = found.entry, found.entry.not_before
    state = entry.reason if entry.state in ("ended", "rejected") else "watched"
    told = {"archiveJobId": entry.job_id, "state": state}
    told |= {"userId": entry.user_id, "credentialId": entry.credential_id, "writtenAt": timestamp(found.written_at)}
    match entry.state:
        case "ended" | "rejected":
            words = "A later started event begins again." if entry.state == "rejected" else ""
            cause = f" ({entry.cause})" if entry.cause else ""
            return told | {"next": f"Ended as {entry.reason}{cause}; that is published. {words}".rstrip()}
        case "deferred" if until and until > now:
            words = f"The next look is due at {clock(until)} ({duration(until - now)} from now)"
            return told | {
                "notBefore": timestamp(until),
                "next": f"{words}; then the scheduled run puts its event back.",
            }
        case "deferred":
            return told | {"next": "The next look is due: the scheduled run puts its event back."}
    return told | {"next": "Its event is back on the started topic: the next delivery looks at the job."}


def tell(found: VersionedEntry, policy: RetryPolicy, now: datetime) -> Told:
    """What an entry means. Leases and pauses are on the store's clock."""
    entry, lease = found.entry, min(found.entry.lease_seconds, _LONGEST_LEASE)
    left = timedelta(seconds=lease - found.age)
    ends_at = now + left if entry.state == "claimed" else None
    unheld = left < timedelta() if entry.state == "claimed" else entry.state == "open" and entry.claim_count
    pause = policy.pause_before(entry)
    ways = []
    if entry.state == "open" and entry.reason in REOPENED and not (entry.calls_made or entry.not_before):
        ways.append(f"It was reopened; if its event was not put back: {_redrive(entry.job_id, entry.reason)}")
    if unheld and not entry.not_before and found.age > _LONGEST_BACK_OFF + pause:
        ways.append(f"If Pub/Sub has given it up: python -m ops redrive dead --job {entry.job_id}")
    following = f"{_next(found, policy, now, left)} {'; '.join(ways)}".rstrip()
    return Told(entry=entry, lease_ends_at=ends_at, next=following)


def _next(found: VersionedEntry, policy: RetryPolicy, now: datetime, left: timedelta) -> str:
    entry = found.entry
    match entry.state:
        case "open" if entry.not_before:
            return "The scheduled run puts its event back."
        case "open" if not entry.claim_count and policy.judge_retries(entry.retries_used):
            return (
                "Made by the chain's last retry: if it was reported as failed, it was rejected, without a trace here."
            )
        case "open" if not entry.claim_count:
            return "Made by a retry; nobody has reported it as failed."
        case "open":
            return f"The next delivery {_claims(found, 0, policy, now)}."
        case "claimed" if left >= timedelta():
            return f"Held by a delivery until {clock(now + left)} ({duration(left)} from now) at the latest."
        case "claimed":
            takes_over = f"the next one takes it over, counts one call in doubt and {_claims(found, 1, policy, now)}"
            return f"Its delivery died or was cut off, and the lease lapsed {duration(-left)} ago: {takes_over}."
        case "retried":
            return f"Done. A further delivery only publishes the follow-up, {entry.new_job_id}, again."
        case "deferred":
            until = entry.not_before or now
            if until <= now:
                return "Its time has come: the next scheduled run puts its event back."
            waits = f"Waits until {clock(until)} ({duration(until - now)} from now)"
            return f"{waits}, then the scheduled run puts its event back."
        case "rejected":
            return _after_rejection(entry)
        case "ended":
            return f"Ended as {entry.reason}; that is published."


def _claims(found: VersionedEntry, lapsed: int, policy: RetryPolicy, now: datetime) -> str:
    """What the delivery that claims it does."""
    entry = found.entry
    pause = timedelta(seconds=policy.pause_before(entry) - found.age)
    waits = f"waits until {clock(now + pause)}, since a call had no answer, and then " if pause > timedelta() else ""
    if now - entry.updated_at > policy.event_max_age:
        days = policy.event_max_age / timedelta(days=1)
        return f"rejects it as EVENT_EXPIRED, unless its event says that it failed within {days:g} days"
    doubted = msgspec.structs.replace(entry, state="open", calls_made=entry.calls_made + lapsed)
    if rejection := policy.judge_entry(doubted):
        return f"{waits}rejects it as {rejection.reason}"
    return f"{waits}asks Google to retry it, as retry {doubted.retries_used + 1} of {policy.budget}"


def _after_rejection(entry: LedgerEntry) -> str:
    redrive, by_name = _redrive(entry.job_id), _redrive(entry.job_id, entry.reason)
    match entry.reason:
        case Reason.OUTCOME_UNKNOWN:
            return f"Waits for a person: an export may be running. If none is: {by_name}"
        case Reason.RETRY_BUDGET_EXHAUSTED if entry.calls_in_doubt:
            return f"Done. An export may be running. If Google carried out none of its calls in doubt: {by_name}"
        case Reason.RETRY_BUDGET_EXHAUSTED if entry.chain_calls_in_doubt:
            return "Done. An export of an earlier call may be running: look before the user starts a new one."
        case Reason.EVENT_EXPIRED | Reason.RETRY_BUDGET_EXHAUSTED:
            return "Done. The user needs a new export."
        case Reason.REAUTHORIZATION_REQUIRED:
            return f"Done, until the user has consented again and the new token is stored; then: {redrive}"
    return f"Done, until its event is published again. If you have fixed the cause: {redrive}"


def _redrive(job_id: str, reason: str = "") -> str:
    named = f" --reason {reason}" if reason else ""
    return f"python -m ops redrive rejected{named} --job {job_id} --go"


def clock(moment: datetime) -> str:
    """Seconds are enough for people, and UTC is what the logs have."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def duration(length: timedelta) -> str:
    """A length of time, in the largest unit that does it justice: 90 s, 45 min, 30 h, 12 days."""
    seconds = length.total_seconds()
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
