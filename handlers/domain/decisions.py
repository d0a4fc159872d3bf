"""What to do with a failed job: pure decisions on its event, its ledger entry and Google's answer."""

from datetime import datetime, timedelta

from msgspec import Struct

from handlers.domain.answers import AlreadyRunning, Answer, Cooldown, NewJob, NotSent, OutcomeUnknown
from handlers.domain.events import Delivery, JobEvent, encode, known_fields, with_time
from handlers.domain.ledger_entry import NEW_EXPORT, LedgerEntry
from handlers.domain.outcomes import Fault, Reason, Rejection, RetryLater

# Bytes that a deferral keeps of an event and its attributes: the schedule has 50 of each collection in hand at once, in
# several copies. Of a larger event the fields that are read are kept.
_KEPT_BYTES_MAX = 128 << 10

_LATER_PAUSES = 30  # times the first: an hour lies between the second call in doubt and the third, or the verdict

_PARKED = Rejection(
    Reason.OUTCOME_UNKNOWN, "A call to Google had no answer, so an export may be running: look before you try again."
)
_THIS_JOB = Rejection(Reason.JOB_NOT_RETRYABLE, "Google says that this very job is still running.")


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """What the settings say about retrying. `doubt_pause` is in seconds."""

    budget: int
    event_max_age: timedelta
    park_ambiguous: bool
    doubt_pause: float

    def judge_age(self, job: JobEvent, now: datetime) -> Rejection | None:
        """Whether the job failed too long ago."""
        if job.failed_at and now - job.failed_at > self.event_max_age:
            days = self.event_max_age / timedelta(days=1)
            return Rejection(Reason.EVENT_EXPIRED, f"The job failed more than {days:g} days ago. {NEW_EXPORT}")
        return None

    def judge_entry(self, entry: LedgerEntry) -> Rejection | None:
        """Whether what is known of the job forbids a call."""
        if entry.calls_in_doubt and self.park_ambiguous:
            return _PARKED
        return self.judge_retries(entry.retries_used)

    def pause_before(self, entry: LedgerEntry) -> float:
        """Seconds from the entry's latest call in doubt to the next decision on it: `doubt_pause`, and thirty times
        that after each further one, or where no call is left. So no outage of less than an hour is the reason of a
        rejection. A parked doubt waits for nothing.
        """
        lapsed = entry.state == "claimed"  # whoever asks has found that its lease is over
        in_doubt = entry.calls_in_doubt + lapsed
        if self.park_ambiguous or in_doubt <= entry.doubts_waited_for:
            return 0.0
        is_last = entry.retries_used + lapsed >= self.budget
        return self.doubt_pause * (1 if in_doubt == 1 and not is_last else _LATER_PAUSES)

    def judge_retries(self, used: int) -> Rejection | None:
        """Whether the chain has used up its budget."""
        if used < self.budget:
            return None
        said = f"This job and those before it have used {used} of {self.budget} retries. {NEW_EXPORT}"
        return Rejection(Reason.RETRY_BUDGET_EXHAUSTED, said)


class Decision(Struct, frozen=True):
    """The entry to record, and how the delivery ends where there is nothing to announce."""

    entry: LedgerEntry
    nack: RetryLater | Fault | None = None


def decide(answer: Answer, entry: LedgerEntry, policy: RetryPolicy, job: JobEvent, delivery: Delivery) -> Decision:
    """What Google's answer makes of a claimed entry."""
    match answer:
        case NewJob(job_id) | AlreadyRunning(job_id) if job_id == entry.job_id:
            return Decision(entry.rejected(_THIS_JOB))
        case NewJob(job_id):
            return Decision(entry.retried(job_id))
        case AlreadyRunning(job_id):
            return Decision(entry.adopted(job_id))
        case Rejection():
            return Decision(entry.rejected(answer))
        case Cooldown(until):
            return Decision(entry.deferred(until, *event_to_keep(delivery, job, entry.updated_at)))
        case NotSent(detail):
            return Decision(entry.released(), RetryLater(detail))
        case RetryLater() | Fault():
            return Decision(entry.released(), answer)
        case OutcomeUnknown(detail, ours):
            doubted = entry.in_doubt(detail)
            if policy.park_ambiguous:
                return Decision(doubted.rejected(_PARKED))
            return Decision(doubted, Fault(detail) if ours else RetryLater(detail))


def event_to_keep(delivery: Delivery, job: JobEvent, now: datetime) -> tuple[bytes, str]:
    """The data to put back, which tells when the job failed or started, and its attributes as JSON. Without that time
    each put-back would make the event young again.
    """
    name, moment = ("startedAt", job.started_at) if job.started_at else ("failedAt", job.failed_at or now)
    data, attributes = delivery.data, encode(delivery.attributes)
    if not job.tells_time:
        data = with_time(data, name, moment)
    if len(data) + len(attributes) > _KEPT_BYTES_MAX:
        data, attributes = known_fields(job, name, moment), b"{}"
    return data, attributes.decode()
