"""How a delivery can end, and what can go wrong on the way there.

Outcome                one delivery is ...                                 answered with
├── Retried            done: its follow-up is published                    204
├── Rejected           done: it can never succeed, and why is published    204
├── Deferred           done: the job waits in the ledger                   204
├── RetryLater         to be delivered again (logged as not_now)           503
└── Fault              to be delivered again, and a fault of ours          500
The schedule ends as Resumed, the watch as Watching, Ended or Rejected (204), or as the last two.

StepError              a step raised it, because of ...                    and so the delivery is
├── Transient          something that passes                               RetryLater
│   └── Throttled      a quota: nothing was done                           RetryLater
└── Misconfigured      our settings, permissions, OAuth client or code     Fault

A `Rejection` is neither: this user's grant or this job cannot be retried, by Google's word or by a setting.
All texts are logged and published. They name codes and resources, never a token or a payload.
"""

from collections.abc import Awaitable
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from msgspec import Struct


class Reason(StrEnum):
    """Why a retry was rejected: the `reason` of the published rejection."""

    MALFORMED_EVENT = "MALFORMED_EVENT"
    EVENT_EXPIRED = "EVENT_EXPIRED"
    RETRY_BUDGET_EXHAUSTED = "RETRY_BUDGET_EXHAUSTED"
    REAUTHORIZATION_REQUIRED = "REAUTHORIZATION_REQUIRED"
    ACCESS_DENIED = "ACCESS_DENIED"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOB_NOT_RETRYABLE = "JOB_NOT_RETRYABLE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"


class Cause(StrEnum):
    """Why the user has to consent again: the `cause` of a REAUTHORIZATION_REQUIRED."""

    NO_SECRET = "NO_SECRET"
    SECRET_DISABLED = "SECRET_DISABLED"
    NO_REFRESH_TOKEN = "NO_REFRESH_TOKEN"
    INVALID_GRANT = "INVALID_GRANT"
    ADMIN_POLICY = "ADMIN_POLICY"
    OTHER_CLIENT = "OTHER_CLIENT"
    NO_SCOPE = "NO_SCOPE"
    ACCOUNT_STATE = "ACCOUNT_STATE"
    ONE_TIME_GRANT_USED = "ONE_TIME_GRANT_USED"


class Rejection(Struct, frozen=True):
    """A verdict on this user's grant or on this job. `detail` is a sentence that a person can act on."""

    reason: Reason
    detail: str
    cause: str = ""


class Retried(Struct, frozen=True):
    """Google made a new job, now or at an earlier delivery, and Pub/Sub has its follow-up."""

    new_job_id: str
    status: ClassVar = 204
    name: ClassVar = "retried"  # in the log line


class Rejected(Struct, frozen=True):
    """Pub/Sub has the rejection. A later version of the program may have recorded a reason that is not known here."""

    reason: str
    detail: str
    cause: str = ""
    status: ClassVar = 204
    name: ClassVar = "rejected"


class Deferred(Struct, frozen=True):
    """Google named a time before which it will not retry. The ledger holds the job until then."""

    until: datetime
    status: ClassVar = 204
    name: ClassVar = "deferred"


class Watching(Struct, frozen=True):
    """The job is looked at again at this time."""

    until: datetime
    status: ClassVar = 204
    name: ClassVar = "watching"


class Ended(Struct, frozen=True):
    """The job's end is known and published. `state`: FAILED went to the failed topic, any other to the ended topic."""

    state: str
    cause: str = ""
    status: ClassVar = 204

    @property
    def name(self) -> str:
        return "failed" if self.state == "FAILED" else "ended"


class RetryLater(Struct, frozen=True):
    """Nothing is decided. Pub/Sub delivers again after its back-off."""

    detail: str
    status: ClassVar = 503
    name: ClassVar = "not_now"


class Fault(Struct, frozen=True):
    """An operator has to fix something. Until then the event stays with Pub/Sub."""

    detail: str
    status: ClassVar = 500
    name: ClassVar = "fault"


class Resumed(Struct, frozen=True):
    """A run of the schedule has put so many events back on their topics."""

    put_back: int
    status: ClassVar = 204
    name: ClassVar = "resumed"


Outcome = Retried | Rejected | Deferred | Watching | Ended | Resumed | RetryLater | Fault


class StepError(Exception):
    """A step brought no result. Its text is fit for logs."""


class Transient(StepError):
    """Let Pub/Sub deliver again."""


class Throttled(Transient):
    """A quota is used up: this call was turned away, with nothing done.

    That is what the code means (https://grpc.io/docs/guides/status-codes/); no page says it of a service of Google's.
    """


class Misconfigured(StepError):
    """Cannot succeed until settings, permissions or the OAuth client are fixed."""


async def outcome_of(run: Awaitable[Outcome]) -> Outcome:
    """What a step raised is the outcome of the delivery, or of the run. Any other exception is a bug."""
    try:
        return await run
    except Transient as fault:
        return RetryLater(str(fault))
    except Misconfigured as fault:
        return Fault(str(fault))


class RedactedRepr:
    """Redacts its fields in `repr()`, and so in tracebacks and in asyncio's debug messages."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"
