"""The effects of a run, as the world saw them: what the promises are checked on, and what a person reads.

`at` is in virtual seconds. A `delivery` is named message#attempt, a `call` by its delivery and its number in it.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Literal

from msgspec import Struct

Meaning = Literal["made", "adopted", "refused", "cooldown", "held back", "ours", "unauthorized", "unknown", "not sent"]

DELIVERY: ContextVar[str] = ContextVar("DELIVERY", default="")  # which delivery the running code works for
SIGNATURE = "simulatedDelivery"  # of a delivery, on what it writes and publishes
_LATE = 43_200.0  # seconds that a write may be late: clocks differ, and what stood still goes on with what it knew


def is_run(delivery: str) -> bool:
    """Whether this is no delivery, but a run of the schedule."""
    return delivery.startswith("resume")


class Effect(Struct, frozen=True):
    at: float


class EventPublished(Effect, frozen=True):
    """A message on the failed topic. `job` is "" where nobody can read one from it. `put_back_by` is the run of the
    schedule that published it.
    """

    message: str
    job: str
    user: str
    credential: str
    attempt: int
    failed_at: float  # in seconds since the run began; of the publish where the event does not say
    says_when: bool  # whether it says
    put_back_by: str
    data: bytes
    attributes: Mapping[str, str]


class Delivered(Effect, frozen=True):
    delivery: str
    message: str
    instance: str


class Answered(Effect, frozen=True):
    """The instance is done with the delivery. `bug` is an exception that should have been an outcome. `line` has fields
    of its log line.
    """

    delivery: str
    status: int
    outcome: str
    bug: str
    line: Mapping[str, Any] = {}


class Acked(Effect, frozen=True):
    delivery: str
    message: str


class Nacked(Effect, frozen=True):
    delivery: str
    message: str
    why: str


class DeadLettered(Effect, frozen=True):
    message: str


class Forgotten(Effect, frozen=True):
    """An emulator delivers it no more, or the recording was over before it did."""

    message: str


class ResumeStarted(Effect, frozen=True):
    run: str
    instance: str


class Resumed(Effect, frozen=True):
    """A run of the schedule is over. `bug` is an exception that should have been an outcome."""

    run: str
    status: int
    outcome: str
    bug: str


class Entry(Struct, frozen=True):
    """What the ledger's document of a job says."""

    state: str = ""
    claims: int = 0
    owner: str = ""
    lease_seconds: float = 0
    attempt: int = 0  # before this job's own calls
    calls: int = 0
    root: str = ""
    new_job: str = ""
    reason: str = ""
    cause: str = ""
    user: str = ""
    credential: str = ""
    not_before: float = 0  # in seconds since the run began; 0: it is not due at any time
    kept: str = ""  # the credential of the event that is kept until then
    unknown: str = ""  # a field that only a later version knows
    kept_until: float = 0  # in seconds since the run began: from then on the store may delete it
    told_at: float = 0  # the time that its messages tell, likewise


class ClaimAsked(Effect, frozen=True):
    """The delivery will call itself by this name in the ledger."""

    delivery: str
    owner: str


class Written(Effect, frozen=True):
    """The ledger's document of a job changed. `age` is that of the document which it replaces, in seconds."""

    delivery: str
    job: str
    before: Entry | None
    after: Entry
    age: float

    def is_kept_for(self, seconds: float) -> bool:
        """From here on, or from when it is due; or until the same time as before."""
        after, before = self.after, self.before
        if before and after.kept_until == before.kept_until and after.not_before <= before.not_before:
            return True
        return after.kept_until >= max(self.at, after.not_before) + seconds - _LATE


class CallSent(Effect, frozen=True):
    """archiveJobs.retry leaves the instance. `credential` is the one whose access token it carries, `expired` for how
    many seconds that has been out of date.
    """

    call: str
    delivery: str
    job: str
    credential: str
    expired: float


class CallArrived(Effect, frozen=True):
    """Google reads the call. `new_job` is the job that it made, "" where it made none."""

    call: str
    job: str
    new_job: str


class CallAnswered(Effect, frozen=True):
    """What the instance can know of the call. `job` is the id that the answer named, `reason` the verdict in it,
    `until` the end of a cooldown. The meaning is "" where nobody can tell whether the answer reached the instance.
    """

    call: str
    meaning: Meaning | Literal[""]
    job: str
    reason: str
    until: float = 0.0


class SecretAsked(Effect, frozen=True):
    """The instance asks for the secret of a credential."""

    delivery: str
    instance: str
    credential: str


class TokenAsked(Effect, frozen=True):
    """The instance asks for an access token with a credential's refresh token."""

    delivery: str
    instance: str
    credential: str


class Verdict(Effect, frozen=True):
    """Google or the secret says that this credential cannot be used."""

    credential: str
    cause: str


class FollowUp(Effect, frozen=True):
    """Pub/Sub accepted a follow-up. `told_at` is the time that it tells, in seconds since the run began."""

    delivery: str
    job: str
    new_job: str
    root: str
    attempt: int
    user: str
    credential: str
    told_at: float
    attributes: Mapping[str, str]


class Rejection(Effect, frozen=True):
    """Pub/Sub accepted a rejection. `told_at` as in a follow-up."""

    delivery: str
    job: str
    reason: str
    cause: str
    attempt: int
    calls_in_doubt: int
    detail: str
    event: bytes
    root: str
    user: str
    credential: str
    told_at: float
    attributes: Mapping[str, str]


class GrantChanged(Effect, frozen=True):
    """From now on this credential is good for retries, or is not."""

    credential: str
    good: bool


class Trouble(Effect, frozen=True):
    """The next exchange of this instance with this service will not go as it should."""

    instance: str
    service: str
    what: str


class FaultOfOurs(Effect, frozen=True):
    """From now on something that we have to set up right is wrong, or is right again."""

    what: str
    wrong: bool


class Instance(Effect, frozen=True):
    """`release` is told at the start, where it is another one than this."""

    name: str
    what: str
    release: str = ""


class Froze(Effect, frozen=True):
    """The instance stands still for so long."""

    name: str
    seconds: float


class Together(Effect, frozen=True):
    """A service got what several deliveries ask for in one call."""

    service: str
    deliveries: str


class Leak(Effect, frozen=True):
    """A secret showed up where it has no business."""

    where: str


class Record:
    """All effects of one run, in order."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)

    def together(self, at: float, service: str, deliveries: Iterable[str]) -> None:
        """A call came in for these; it is of note where they are several."""
        several = sorted(set(deliveries))
        if len(several) > 1:
            self.add(Together(at, service, " ".join(several)))

    def history(self) -> str:
        """One line for each effect: when, what, and the particulars."""
        return "\n".join(map(_line, self.effects))


def _line(effect: Effect) -> str:
    particulars = []
    for name in effect.__struct_fields__[1:]:
        value = getattr(effect, name)
        if isinstance(value, Entry):
            said = " ".join(str(part) for field in value.__struct_fields__ if (part := getattr(value, field)))
            particulars.append(f"{name}=[{said}]")
        elif isinstance(value, float):
            particulars.append(f"{name}={value:.3f}")
        elif isinstance(value, bytes):
            particulars.append(f"{name}={value[:120].decode(errors='backslashreplace')}")
        elif value not in ("", None):
            particulars.append(f"{name}={value}")
    return f"{effect.at:12.3f}  {type(effect).__name__:<14} {' '.join(particulars)}"
