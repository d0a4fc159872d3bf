"""What the ledger knows of one failed job, and the transitions between its states.

    open ──claim──► claimed ──record──► retried | rejected | deferred
     ▲                 │ release (nothing was sent), or an answer that never came (one call in doubt)
     └─────────────────┘
     └──── the schedule ◄─── deferred, when its time has come

`retried` is final. `OUTCOME_UNKNOWN` waits for a person. Any other rejection answers for its user, its credential and
the events published before it; a later event, or another credential, claims the job again. Under
a deferral whose time has come, any event does. The watch has entries that are open, deferred, `ended` or rejected.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from handlers.domain.events import ATTEMPT_MAX, JOB_ID, USER_ID, JobEvent, MalformedEvent, parse_failed, timestamp
from handlers.domain.messages import ArchiveJobRetried, RetryRejected, as_text
from handlers.domain.outcomes import Cause, Reason, Rejection

COOLDOWN = "COOLDOWN"  # the reason of a deferral, which is published nowhere

_YEAR_MAX = 9990  # an entry is kept for longer than until its time comes, and years have four digits

NEW_EXPORT = "Start a new export."
_MAY_BE_RUNNING = "A call had no answer, so an export may be running: look before you start another one."

# What a stored value has to be: anything else is a person's mistake. Checked where an entry is read
_Id = Annotated[str, Meta(pattern=rf"^{JOB_ID}\Z")]
_Who = Annotated[str, Meta(pattern=rf"^({USER_ID})?\Z")]
_Count = Annotated[int, Meta(ge=0, le=ATTEMPT_MAX)]


def is_sound(entry: "LedgerEntry") -> bool:
    """What the types of its fields cannot say."""
    try:
        msgspec.json.decode(entry.attributes or "{}", type=dict[str, str])
    except msgspec.MsgspecError:
        return False
    may_be_kept = entry.not_before is None or entry.not_before.year < _YEAR_MAX
    return may_be_kept and (entry.state != "retried" or entry.new_job_id != "")


class LedgerEntry(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One failed job. The names in quotes are those of the stored fields, which must not change."""

    job_id: str
    root_job_id: _Id
    retries_before: _Count = field(name="attempt")  # that the chain had used before this job failed
    in_doubt_before: _Count = 0  # how many of those have no known answer
    user_id: _Who = ""
    credential_id: _Who = ""
    state: Literal["open", "claimed", "retried", "rejected", "deferred", "ended"] = "open"  # ended: of the watch alone
    claim_count: _Count = field(name="fence", default=0)
    lease_owner: str = field(name="holder", default="")  # random, new for each claim
    lease_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0  # as a setting can be
    calls_made: _Count = field(name="callsCounted", default=0)  # of archiveJobs.retry, those in doubt included
    doubts_waited_for: _Count = 0  # calls in doubt whose pause was over when the job was claimed or put back
    new_job_id: Annotated[str, Meta(pattern=rf"^({JOB_ID})?\Z")] = ""
    reason: str = ""  # of a rejection, or COOLDOWN; of the watch the end. Stays when the job is claimed again
    cause: str = ""
    detail: str = ""
    not_before: datetime | None = None  # of a deferral, until its outcome is published, or its event
    event: bytes = b""  # of a deferral: the data to put back, and its attributes as JSON
    attributes: str = ""
    decided_at: datetime | None = None  # on the store's clock, where the entry was written again since
    updated_at: datetime
    expire_at: datetime  # when the store may delete it

    @property
    def calls_in_doubt(self) -> int:
        """This job's calls that may have been carried out, with no answer to tell."""
        return self.calls_made - (self.state == "retried")

    @property
    def chain_calls_in_doubt(self) -> int:
        """Those of the whole chain."""
        return self.in_doubt_before + self.calls_in_doubt

    @property
    def retries_used(self) -> int:
        """By the chain up to now. A call in doubt counts as one."""
        return min(self.retries_before + self.calls_made, ATTEMPT_MAX)

    # Predicates

    def is_final_for(self, job: JobEvent, written_at: datetime, read_at: datetime) -> bool:
        """Whether this event needs no call: the job is answered, or waits for its time. All clocks are Google's."""
        if self.state == "deferred":
            return self.not_before is not None and read_at < self.not_before
        if self.state != "rejected":
            return self.state in ("retried", "ended")
        if self.reason == Reason.EVENT_EXPIRED:  # release 1.0 wrote that; an event's age is its own
            return False
        if self.reason == Reason.OUTCOME_UNKNOWN:  # it waits for a person
            return True
        is_later = job.published_at is not None and job.published_at > (self.decided_at or written_at)
        return self.is_of(job) and not is_later

    def answers_kept_event(self) -> bool:
        """Whether a deferral's event is answered by what became of the job. A rejection is one credential's."""
        if self.state != "rejected":
            return True
        try:
            return self.is_of(parse_failed(self.event))
        except MalformedEvent:  # it is put back, and rejected as such
            return False

    def is_of(self, job: JobEvent) -> bool:
        """Whether user and credential are the event's."""
        return (self.user_id, self.credential_id) == (job.user_id, job.credential_id)

    # Transitions

    def merged(self, job: JobEvent) -> "LedgerEntry":
        """With what the event says. Where the two disagree on the retries used, the larger number counts."""
        return replace(
            self,
            root_job_id=job.root_job_id or self.root_job_id or job.job_id,
            retries_before=max(job.retries_before, self.retries_before),
            user_id=job.user_id,
            credential_id=job.credential_id,
        )

    def claimed(self, job: JobEvent, *, owner: str, lease_seconds: float) -> "LedgerEntry":
        """A claim whose lease is over counts as a call in doubt: whoever held it may have sent one."""
        return replace(
            self.waited().merged(job),
            state="claimed",
            claim_count=self.claim_count + 1,
            lease_owner=owner,
            lease_seconds=lease_seconds,
            calls_made=self._calls_found,
            decided_at=None,
        )

    def waited(self) -> "LedgerEntry":
        """Its lease and its pause are over, and do not begin anew where it is written."""
        return replace(self, lease_seconds=0, doubts_waited_for=self._calls_found)

    @property
    def _calls_found(self) -> int:
        return self.calls_made + (self.state == "claimed")

    def retried(self, new_job_id: str) -> "LedgerEntry":
        return replace(self, state="retried", new_job_id=new_job_id, detail="", calls_made=self.calls_made + 1)

    def adopted(self, new_job_id: str) -> "LedgerEntry":
        """The new job runs already: it and all calls in doubt of this job are one retry."""
        return replace(self.retried(new_job_id), calls_made=1)

    def rejected(self, rejection: Rejection) -> "LedgerEntry":
        detail = rejection.detail
        if self.chain_calls_in_doubt:
            detail = detail.replace(NEW_EXPORT, _MAY_BE_RUNNING)
            if rejection.cause == Cause.ONE_TIME_GRANT_USED:  # perhaps by that very export
                detail = f"{detail} {_MAY_BE_RUNNING}"
        return replace(self, state="rejected", reason=rejection.reason, cause=rejection.cause, detail=detail)

    def deferred(self, until: datetime, event: bytes, attributes: str) -> "LedgerEntry":
        """Google will not retry before then; the event is kept to be put back."""
        kept = replace(self, event=event, attributes=attributes)
        return replace(kept, state="deferred", reason=COOLDOWN, cause="", not_before=until)

    def with_event_of(self, stored: "LedgerEntry") -> "LedgerEntry":
        """With the deferral of `stored`: its time and its event, or none."""
        return replace(self, not_before=stored.not_before, event=stored.event, attributes=stored.attributes)

    def ended(self, state: str, cause: str) -> "LedgerEntry":
        """Of the watch: the job's end is told. UNKNOWN is stored as a rejection, so that a later event is looked at."""
        stored: Literal["rejected", "ended"] = "rejected" if state == "UNKNOWN" else "ended"
        return replace(self, state=stored, reason=state, cause=cause, not_before=None, event=b"", attributes="")

    def in_doubt(self, detail: str) -> "LedgerEntry":
        """A call may have been carried out. It is counted, and another one may follow."""
        return replace(self, state="open", detail=detail, calls_made=self.calls_made + 1)

    def released(self) -> "LedgerEntry":
        """Nothing was carried out."""
        return replace(self, state="open")

    def done(self, written_at: datetime) -> "LedgerEntry":
        """No longer due: its outcome is published, or its event. The write moves the update time, so `decided_at` keeps
        the time of the decision.
        """
        decided_at = self.decided_at or (written_at if self.state in ("retried", "rejected") else None)
        return replace(self, not_before=None, event=b"", attributes="", decided_at=decided_at)

    def reopened(self) -> "LedgerEntry":
        """A person takes a rejection back, having looked at its calls in doubt. Those that parked the job count as
        carried out from here on (in doubt, they would park it again). Those that used up the budget are forgiven.
        """
        opened = replace(self, state="open", decided_at=None, doubts_waited_for=0)
        match self.reason:
            case Reason.OUTCOME_UNKNOWN:
                return replace(opened, retries_before=self.retries_used, calls_made=0)
            case Reason.RETRY_BUDGET_EXHAUSTED:
                return replace(opened, calls_made=0)
        return replace(opened, doubts_waited_for=self.doubts_waited_for)

    def entry_of_new_job(self) -> "LedgerEntry | None":
        """The entry of the job that came of it, so that the chain is known should that fail too."""
        if not self.new_job_id:
            return None
        return LedgerEntry(
            job_id=self.new_job_id,
            root_job_id=self.root_job_id,
            retries_before=self.retries_used,
            in_doubt_before=self.chain_calls_in_doubt,
            user_id=self.user_id,
            credential_id=self.credential_id,
            updated_at=self.updated_at,
            expire_at=self.expire_at,
        )

    # Messages: the same at every delivery

    def follow_up(self) -> ArchiveJobRetried:
        return ArchiveJobRetried(
            archive_job_id=self.new_job_id,
            retried_archive_job_id=self.job_id,
            root_archive_job_id=self.root_job_id,
            user_id=self.user_id,
            credential_id=self.credential_id,
            attempt=self.retries_used,
            retried_at=timestamp(self.updated_at),
        )

    def rejection(self, data: bytes) -> RetryRejected:
        """For the delivery with this data."""
        event, encoding = as_text(data)
        return RetryRejected(
            reason=self.reason,
            cause=self.cause,
            detail=self.detail,
            archive_job_id=self.job_id,
            root_archive_job_id=self.root_job_id,
            user_id=self.user_id,
            credential_id=self.credential_id,
            attempt=self.retries_used,
            calls_in_doubt=self.chain_calls_in_doubt,
            rejected_at=timestamp(self.updated_at),
            event=event,
            event_encoding=encoding,
        )
