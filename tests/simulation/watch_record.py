"""The effects of the watch: its messages and deliveries, its looks at Google, and what it tells.

They have types of their own, so that the judge of the retries does not take a look for a retry. Messages and deliveries
of the watch have names that begin with a `w`.
"""

from tests.simulation.record import (
    Acked,
    Answered,
    DeadLettered,
    Delivered,
    Effect,
    Nacked,
    Rejection,
    Written,
)


def is_watchs(delivery: str) -> bool:
    """Whether a message or a delivery of this name is one of the watch."""
    return delivery.startswith("w")


class StartedPublished(Effect, frozen=True):
    """A message on the started topic, or a follow-up that is pushed to the watch. `job` is "" where it is malformed.

    `started_at` is in seconds since the run began: as the event says, at the latest when it was published. `root` is as
    it came. `put_back_by` is the run of the schedule that published it.
    """

    message: str
    job: str
    user: str
    credential: str
    root: str
    attempt: int
    started_at: float
    says_when: bool
    put_back_by: str
    data: bytes


class WatchDelivered(Delivered, frozen=True):
    pass


class WatchAnswered(Answered, frozen=True):
    pass


class WatchAcked(Acked, frozen=True):
    pass


class WatchNacked(Nacked, frozen=True):
    pass


class WatchDeadLettered(DeadLettered, frozen=True):
    pass


class Kept(Written, frozen=True):
    """The watch's document of a job changed."""


class StateChanged(Effect, frozen=True):
    """From now on Google says that the job has ended."""

    job: str
    state: str


class LookSent(Effect, frozen=True):
    """portabilityArchiveState is asked for, with an access token of this credential. `expired`: as of a call."""

    look: str
    delivery: str
    job: str
    credential: str
    expired: float = 0.0


class LookAnswered(Effect, frozen=True):
    """What the instance can know of the look: the state ("none" where the answer has none), or the `cause` of a
    refusal, or until when to wait. All are empty where Google has said nothing of the job.
    """

    look: str
    delivery: str
    job: str
    state: str = ""
    cause: str = ""
    until: float = 0.0
    ours: bool = False  # whether the answer is a fault of ours
    exported: float = 0.0  # the archive's export time, in seconds since the run began; 0: the answer has none


class EndTold(Effect, frozen=True):
    """Pub/Sub accepted an ended event."""

    delivery: str
    job: str
    root: str
    user: str
    credential: str
    attempt: int
    state: str
    cause: str
    ended_at: float = 0.0  # in seconds since the run began


class FailureTold(Effect, frozen=True):
    """Pub/Sub accepted a message of the watch on the failed topic."""

    delivery: str
    data: bytes
    attributes: str


class WatchRejection(Rejection, frozen=True, kw_only=True):
    """Pub/Sub accepted a rejection of the watch."""

    source: str
