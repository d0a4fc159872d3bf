"""What the ledger holds: how many jobs in which state, and the oldest of those that nobody has answered yet."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from handlers.bootstrap import WATCH_SUFFIX
from handlers.domain.events import timestamp
from handlers.ports import Unreadable, VersionedEntry
from ops.cloud import Cloud
from ops.ledger_search import SearchableStore, Where

MAX_LISTED = 1000
_MAX_READ = 10_000  # of each state; the oldest of them are listed
_IN_DOUBT: Where = {"state": "open", "callsCounted": list(range(1, 31))}  # as many values as one query may have
_STORED = ("claimed", "deferred", "rejected", "retried")

# What can be asked for. An open entry without a call waits for its delivery, or for nobody: a retry has made it.
STATES: dict[str, Where] = {
    "in-doubt": _IN_DOUBT,
    "parked": {"state": "rejected", "reason": "OUTCOME_UNKNOWN"},
    **{state: {"state": state} for state in _STORED},
}
_DEFAULT = ("in-doubt", "claimed", "deferred", "parked")  # what has no final answer


@dataclass(slots=True)
class Listing:
    """`counts` are of the whole ledger, `entries` of what was asked for."""

    counts: dict[str, int]
    entries: list[VersionedEntry] = field(default_factory=list)  # the oldest first
    unreadable: list[Unreadable] = field(default_factory=list)
    complete: bool = True

    def as_json(self) -> dict[str, Any]:
        return {
            "counts": self.counts,
            "complete": self.complete,
            "entries": [
                {
                    "archiveJobId": found.entry.job_id,
                    "state": found.entry.state,
                    "reason": found.entry.reason,
                    "cause": found.entry.cause,
                    "userId": found.entry.user_id,
                    "credentialId": found.entry.credential_id,
                    "used": found.entry.retries_used,
                    "callsInDoubt": found.entry.chain_calls_in_doubt,
                    "notBefore": timestamp(found.entry.not_before) if found.entry.not_before else "",
                    "writtenAt": timestamp(found.written_at),
                }
                for found in self.entries
            ],
            "unreadable": [{"archiveJobId": one.job_id, "detail": one.detail} for one in self.unreadable],
        }


async def list_ledger(
    cloud: Cloud, states: tuple[str, ...], users: tuple[str, ...], reasons: tuple[str, ...]
) -> Listing:
    """Raises CliError, Transient or Misconfigured."""
    ledger = cloud.ledger()
    listing = Listing(await _counts(ledger, cloud.ledger(WATCH_SUFFIX)))
    entries: dict[str, VersionedEntry] = {}
    for where in _selections(states, users, reasons):
        found = await ledger.find(where, _MAX_READ)
        listing.complete = listing.complete and len(found) < _MAX_READ
        entries |= {one.entry.job_id: one for one in found if isinstance(one, VersionedEntry)}
        listing.unreadable += [one for one in found if isinstance(one, Unreadable)]
    listing.entries = sorted(entries.values(), key=lambda found: found.written_at)
    listing.complete = listing.complete and len(listing.entries) <= MAX_LISTED
    del listing.entries[MAX_LISTED:]
    return listing


async def _counts(ledger: SearchableStore, watch: SearchableStore) -> dict[str, int]:
    """A watched job that has ended stays for a while: as `ended`, where its end is UNKNOWN as `rejected`."""
    looks, ended, unknown, total, doubt, *stored = await asyncio.gather(
        *(watch.count(where) for where in ({}, {"state": "ended"}, {"state": "rejected"})),
        *(ledger.count(where) for where in ({}, _IN_DOUBT, *({"state": state} for state in _STORED))),
    )
    by_state = dict(zip(_STORED, stored, strict=True))
    watched = {"watched": looks - ended - unknown, "ended": ended + unknown}
    return {"open": total - sum(stored), "in-doubt": doubt, **by_state, **watched}


def _selections(states: tuple[str, ...], users: tuple[str, ...], reasons: tuple[str, ...]) -> list[Where]:
    """Equalities alone: Firestore merges single-field indexes for those."""
    chosen = states or (() if users or reasons else _DEFAULT)
    by_state: list[Where] = [STATES[state] for state in chosen] or [{}]
    by_user: list[Where] = [{"userId": user} for user in users] or [{}]
    by_reason: list[Where] = [{"reason": reason} for reason in reasons] or [{}]
    return [{**reason, **user, **state} for state in by_state for user in by_user for reason in by_reason]
