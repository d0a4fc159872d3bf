"""What a call over HTTP can come to. All of it are values: an exception would hide what was sent.

RetryLater and Fault are answers, too: Google did not carry the call out, for now or for a fault of ours.
"""

from datetime import datetime

from msgspec import Struct

from handlers.domain.outcomes import Fault, Rejection, RetryLater


class NewJob(Struct, frozen=True):
    """Google retries the job as this one."""

    job_id: str


class AlreadyRunning(Struct, frozen=True):
    """This job does the same export already, so it is the answer to all calls for the failed one."""

    job_id: str


class Cooldown(Struct, frozen=True):
    """Google will not retry before this time."""

    until: datetime


class NotSent(Struct, frozen=True):
    """The request was never sent: free of cost."""

    detail: str


class Unauthorized(Struct, frozen=True):
    """401: not carried out. Another access token may do; `if_again` is what it means where that one meets it, too."""

    if_again: Rejection | RetryLater


class OutcomeUnknown(Struct, frozen=True):
    """The call may have been carried out. `ours`: the fault is ours: a bug, or a success that is not Google's."""

    detail: str
    ours: bool = False


class JobState(Struct, frozen=True):
    """What Google says of a job. `state` is a word of Google's, or "" where it says none."""

    state: str
    export_time: datetime | None = None


Answer = NewJob | AlreadyRunning | Cooldown | Rejection | NotSent | RetryLater | Fault | OutcomeUnknown
