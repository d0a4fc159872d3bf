"""What a call over HTTP can come to. All of it are values: an exception would hide what was sent."""

from datetime import datetime

from msgspec import Struct

from handlers.domain.outcomes import Rejection


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


class BackOff(Struct, frozen=True):
    """Google answered that it will not carry the request out for now."""

    detail: str


class Unauthorized(Struct, frozen=True):
    """401: not carried out. Another access token may do; `if_again` is what it means where that one meets it, too."""

    if_again: Rejection | BackOff


class FaultOfOurs(Struct, frozen=True):
    """Not carried out, and neither user nor job is to blame: an operator has to look."""

    detail: str


class OutcomeUnknown(Struct, frozen=True):
    """The call may have been carried out. `ours`: the answer was a success that Google would not give."""

    detail: str
    ours: bool = False


class JobState(Struct, frozen=True):
    """What Google says of a job. `state` is a word of Google's, or "" where it says none."""

    state: str
    export_time: datetime | None = None


Answer = NewJob | AlreadyRunning | Cooldown | Rejection | NotSent | BackOff | FaultOfOurs | OutcomeUnknown
