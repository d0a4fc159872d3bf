"""What a row of a table of answers is: an answer that a service may give, and what has to come of the delivery."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from local.scripted import Answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a delivery ends that meets the answer at each of its calls to that service."""

    outcome: str  # retried, rejected, deferred, not_now, fault, watching, failed or ended
    reason: str = ""  # of the rejection
    cause: str = ""  # of the rejection or the ended event
    in_doubt: bool = False  # the call counts against the budget
    calls: int = 1  # to that service
    new_job: str = ""  # where the answer names it
    seconds: float | None = None  # from now to when a deferred job is due
    state: str = ""  # of the ended event


@dataclass(frozen=True, slots=True)
class Row:
    """`make` gives the answer for a failed job's id and the time now."""

    name: str
    make: Callable[[str, datetime], Answer]
    verdict: Verdict


def row(name: str, answer: Answer | Callable[[str, datetime], Answer], verdict: Verdict) -> Row:
    """A row with an answer that depends on job and time, or that does not."""
    return Row(name, answer if callable(answer) else lambda _job, _now: answer, verdict)


def in_both_forms(rows: Iterable[Row]) -> Iterator[Row]:
    """Each row, and once more with its error in a list, as Google's JSON streams have it."""
    for each in rows:
        yield each
        yield replace(each, name=f"{each.name} in a list", make=_listed(each.make))


def _listed(make: Callable[[str, datetime], Answer]) -> Callable[[str, datetime], Answer]:
    def listed(job: str, now: datetime) -> Answer:
        answer = make(job, now)
        return replace(answer, body=[answer.body])

    return listed


FAULT = Verdict("fault")
NOT_NOW = Verdict("not_now")
IN_DOUBT = Verdict("not_now", in_doubt=True)
FAULT_IN_DOUBT = Verdict("fault", in_doubt=True)


def rejected(reason: str, cause: str = "", calls: int = 1) -> Verdict:
    """The job or the user is rejected."""
    return Verdict("rejected", reason, cause, calls=calls)
