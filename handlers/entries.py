"""What the ledger knows of one failed job, and how it goes on.

    open ──claim──► claimed ──record──► retried | rejected | deferred
     ▲                 │ release (nothing was sent), or an answer that never came (one call in doubt)
     └─────────────────┘

`retried` is final, and so is a rejection that Google's answer stands behind, until a person reopens it. Any other
rejection, and a deferral whose time has come, can be claimed again: consent may have been given anew since.
"""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from handlers.outcomes import Reason

REVISABLE = (Reason.EVENT_EXPIRED, Reason.RETRY_BUDGET_EXHAUSTED, Reason.REAUTHORIZATION_REQUIRED)
COOLDOWN = "COOLDOWN"  # the reason of a deferral, which is published nowhere


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What is known of one failed job. `attempt` is how many retries its chain had used before it failed."""

    job_id: str
    root_job_id: str
    attempt: int
    user_id: str = ""
    credential_id: str = ""
    state: Literal["open", "claimed", "retried", "rejected", "deferred"] = "open"
    fence: int = 0  # how often it was claimed
    holder: str = ""  # who holds the present claim: a random word of its own
    lease_seconds: float = 0
    calls_counted: int = 0  # of archiveJobs.retry that were carried out, or may have been
    new_job_id: str = ""
    reason: str = ""  # of a rejection, or COOLDOWN; it stays when the job is claimed again
    detail: str = ""
    not_before: datetime | None = None  # of what was deferred, until its outcome is published
    event: bytes = b""  # of a deferral: the data to put back, and its attributes as JSON
    attributes: str = ""
    updated_at: datetime
    expire_at: datetime  # when the store may forget it

    @property
    def calls_in_doubt(self) -> int:
        """Calls that may have been carried out, with no answer to tell."""
        return self.calls_counted - (self.state == "retried")

    @property
    def used(self) -> int:
        """Retries that the chain has used up to now; a call in doubt counts as one."""
        return self.attempt + self.calls_counted

    # How it goes on. Whoever had claimed it has no hold on it from then on.

    def retried(self, new_job_id: str) -> "Entry":
        """Google made a new job."""
        return replace(self, state="retried", new_job_id=new_job_id, detail="", calls_counted=self.calls_counted + 1)

    def rejected(self, reason: Reason, detail: str) -> "Entry":
        return replace(self, state="rejected", reason=reason, detail=detail)

    def deferred(self, until: datetime, event: bytes, attributes: str) -> "Entry":
        """Google will not retry before then; what to put back then is kept."""
        kept: dict[str, Any] = {"event": event, "attributes": attributes}
        return replace(self, state="deferred", reason=COOLDOWN, not_before=until, **kept)

    def in_doubt(self, detail: str) -> "Entry":
        """A call may have been carried out: it is counted, and another one may follow."""
        return replace(self, state="open", detail=detail, calls_counted=self.calls_counted + 1)

    def released(self) -> "Entry":
        """Nothing was carried out."""
        return replace(self, state="open")

    def done(self) -> "Entry":
        """What was deferred once is due no longer."""
        return replace(self, not_before=None, event=b"", attributes="")

    def reopened(self) -> "Entry":
        """A rejection is taken back by a person, who has looked at its calls in doubt. Those that parked the job count
        as carried out from here on (in doubt, they would park it again); those that used up its retries are forgiven.
        """
        match self.reason:
            case Reason.OUTCOME_UNKNOWN:
                return replace(self, state="open", attempt=self.used, calls_counted=0)
            case Reason.RETRY_BUDGET_EXHAUSTED:
                return replace(self, state="open", calls_counted=0)
        return replace(self, state="open")

    def of_new_job(self) -> "Entry | None":
        """The entry of the job that came of it, so that its chain is known should it fail too."""
        if not self.new_job_id:
            return None
        return Entry(
            job_id=self.new_job_id,
            root_job_id=self.root_job_id,
            attempt=self.used,
            user_id=self.user_id,
            credential_id=self.credential_id,
            updated_at=self.updated_at,
            expire_at=self.expire_at,
        )

    def is_settled(self, now: datetime) -> bool:
        """Whether it needs no call: it is answered for good, or waits for its time."""
        match self.state:
            case "retried":
                return True
            case "rejected":
                return self.reason not in REVISABLE
            case "deferred":
                return self.not_before is not None and now < self.not_before
        return False
