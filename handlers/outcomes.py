"""How a delivery can end, and what can go wrong on the way there.

Outcome                one delivery is ...                                 answered with
├── Retried            done: its follow-up is published                    204
├── Rejected           done: it can never succeed, and why is published    204
├── Deferred           done: the job waits in the ledger                   204
├── NotNow             to be delivered again                               503
└── Broken             to be delivered again, and a fault of ours          500
(A run of the schedule is Resumed, 204, or one of the last two.)

Fault                  a step brought no result, because of ...            and so the delivery is
├── Refused            the user's grant or the job itself                  Rejected
├── Unavailable        something that passes                               NotNow
│   └── Throttled      too many calls: this one was turned away            NotNow
└── Misconfigured      our settings, permissions or OAuth client           Broken

The texts of all these are logged and published: they name codes and resources, never a token or a payload.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from msgspec import Struct


class Reason(StrEnum):
    """Why a retry was rejected. README.md says what each reason stands for."""

    MALFORMED_EVENT = "MALFORMED_EVENT"
    EVENT_EXPIRED = "EVENT_EXPIRED"
    RETRY_BUDGET_EXHAUSTED = "RETRY_BUDGET_EXHAUSTED"
    REAUTHORIZATION_REQUIRED = "REAUTHORIZATION_REQUIRED"
    ACCESS_DENIED = "ACCESS_DENIED"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOB_NOT_RETRYABLE = "JOB_NOT_RETRYABLE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"


class Retried(Struct, frozen=True):
    """Google made a new job, now or at an earlier delivery, and Pub/Sub has its follow-up."""

    new_job_id: str
    status: ClassVar = 204


class Rejected(Struct, frozen=True):
    """Pub/Sub has the rejection. `detail` is one sentence that a person can act on."""

    reason: Reason
    detail: str
    status: ClassVar = 204


class Deferred(Struct, frozen=True):
    """Google named a time before which it will not retry; the ledger holds the job until then."""

    until: datetime
    status: ClassVar = 204


class NotNow(Struct, frozen=True):
    """Nothing is settled; Pub/Sub delivers again after its back-off."""

    detail: str
    status: ClassVar = 503


class Broken(Struct, frozen=True):
    """Somebody who runs this function has to mend it; until then the event stays with Pub/Sub."""

    detail: str
    status: ClassVar = 500


class Resumed(Struct, frozen=True):
    """A run of the schedule is over: so many deferred jobs are back on the failed topic."""

    put_back: int
    status: ClassVar = 204


Outcome = Retried | Rejected | Deferred | NotNow | Broken


class Fault(Exception):
    """A step brought no result. Its text is fit for logs."""


class Refused(Fault):
    """It can never succeed as it stands, and that is not our doing."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Unavailable(Fault):
    """It may well succeed later."""


class Throttled(Unavailable):
    """A quota is used up for now: to ask again at once would only make it worse. That nothing was done is what the code
    means (https://grpc.io/docs/guides/status-codes/); for no service of Google's a page says it.
    """


class Misconfigured(Fault):
    """It cannot succeed until settings, permissions or the OAuth client are put right."""


def put_off(fault: Unavailable | Misconfigured) -> NotNow | Broken:
    """How it ends where a step brought no result, and nobody but us and time can mend that."""
    return NotNow(str(fault)) if isinstance(fault, Unavailable) else Broken(str(fault))
