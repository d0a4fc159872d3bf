"""The promises of the contract, held against the effects of a run, one after the other.

It knows effects alone: whatever records them can be judged by it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from tests.simulation import watch_invariants
from tests.simulation.freezes import AT_WORK, Freezes
from tests.simulation.record import (
    Acked,
    Answered,
    CallAnswered,
    CallArrived,
    CallSent,
    ClaimAsked,
    DeadLettered,
    Delivered,
    Effect,
    Entry,
    EventPublished,
    FaultOfOurs,
    FollowUp,
    Forgotten,
    Froze,
    GrantChanged,
    Instance,
    Leak,
    Rejection,
    Resumed,
    ResumeStarted,
    SecretAsked,
    TokenAsked,
    Trouble,
    Verdict,
    Written,
    is_run,
)
from tests.simulation.timeline import why_stopped

_ABOUT = 0.01  # seconds: times are told in milliseconds
_LATER_PAUSES = 30  # times the first
_FELT_FOR = 600.0  # seconds after a fault of ours at which a frozen instance can still share what was fetched in it
_SECRET_IN_HAND = 60.0  # seconds for which the refresh token of one look may be in use: two tries at the endpoint
_OF_A_RECORD = ("firestore", "account")
_SERVICES = (*_OF_A_RECORD, "secrets", "oauth", "pubsub")  # beside the API
_EVERY_SERVICE = (*_SERVICES, "portability")
_TIME_TO_GIVE_BACK = 30.0  # seconds: a call that times out, a pause, and another call
_STATUSES = {
    **dict.fromkeys(("made", "adopted", "refused", "cooldown"), (204,)),
    **dict.fromkeys(("not sent", "held back"), (503,)),
    "ours": (500,),
    "unknown": (500, 503),
}
_MAYBE_CARRIED_OUT = ("made", "adopted", "unknown", "")  # "": nobody has learned of its answer
_BY_CALLS = ("ACCESS_DENIED", "JOB_NOT_FOUND", "JOB_NOT_RETRYABLE", "ACCOUNT_STATE", "ONE_TIME_GRANT_USED")
_NEVER = float("-inf")
_LONGEST_RETENTION = 31 * 86_400.0  # seconds: https://cloud.google.com/pubsub/docs/subscription-message-retention


class Job(Protocol):
    """What is known of an archive job beside the effects."""

    name: str
    parent: str
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The settings of the run, and what only the simulation knows. From `settled_at` on all that went wrong is over."""

    budget: int
    park: bool
    doubt_pause: float
    event_max_age: float
    settled_at: float
    jobs: Mapping[str, Job]
    deadline: float = AT_WORK  # seconds that a delivery tries to record an answer
    watch_interval: float = 300.0

    @property
    def keep(self) -> float:
        """Seconds for which a job is remembered: as long as a message can come of which its event is not too old."""
        return self.event_max_age + _LONGEST_RETENTION


def broken(effects: Sequence[Effect], terms: Terms, judges: "type[Judge] | None" = None) -> list[str]:
    """A sentence for every promise that the run broke."""
    strays = watch_invariants.strays(effects)
    if strays:
        return strays  # the rest is about a ledger that the retries have for themselves
    judge = (judges or Judge)(terms)
    try:
        for effect in effects:
            judge.sees(effect)
        judge.sees_the_end()
    except Exception as error:  # it keeps its seed, and the other runs go on
        judge.violations.append(why_stopped(error))
    said = {"interval": terms.watch_interval, "keep": terms.keep, "settled_at": terms.settled_at}
    of_the_watch = watch_invariants.broken(effects, **said)
    return judge.violations + of_the_watch


class Decided(Struct, frozen=True):
    """A rejection in the ledger."""

    at: float
    delivery: str
    reason: str
    cause: str
    user: str
    credential: str
    told_at: float


class Judge:
    """What is known up to one moment of the run."""

    def __init__(self, terms: Terms) -> None:
        self.violations: list[str] = []
        self._terms = terms
        self._seen = Effect(0.0)  # what is judged just now
        self._events: dict[str, EventPublished] = {}
        self._delivered: dict[str, Delivered] = {}
        self._counted: dict[str, tuple[int, int]] = {}  # delivery → the retries and doubts of its job when it began
        self._answered: dict[str, Answered] = {}
        self._put_off: list[tuple[Answered, float]] = []  # with the time at which the lease that it met is over
        self._settled: set[str] = set()  # messages that are acknowledged or dead letters
        self._ended: set[str] = set()  # jobs with a follow-up, a rejection or a dead letter
        self._heard_at: dict[str, float] = defaultdict(lambda: _NEVER)  # job → its latest follow-up or rejection
        self._kept: dict[str, EventPublished] = {}  # of the job's latest deferral
        self._runs: dict[str, ResumeStarted] = {}  # of the schedule
        self._waiting: dict[str, float] = {}  # jobs of which all that was heard since then is that they are deferred
        self._entries: dict[str, Entry] = {}
        self._written_at: dict[str, float] = defaultdict(lambda: _NEVER)
        self._writer: dict[str, str] = {}
        self._lease_over: dict[str, float] = defaultdict(lambda: _NEVER)  # of the latest claim
        self._owners: dict[str, str] = {}  # → the delivery that calls itself so
        self._deferred: dict[str, list[list[float]]] = defaultdict(list)  # job → spells, from and to
        self._took_over: set[str] = set()  # deliveries that have met a claim that had lapsed
        self._told: dict[str, FollowUp | Rejection] = {}  # by delivery
        self._takeovers: dict[str, int] = defaultdict(int)
        self._doubts_waited_for: dict[str, int] = defaultdict(int)
        self._pause_over: dict[str, float] = defaultdict(lambda: _NEVER)
        self._claim_ended: dict[str, float] = defaultdict(lambda: _NEVER)  # when a claim of the job ended
        self._calls: dict[str, list[CallSent]] = defaultdict(list)  # by job
        self._claims_used: dict[tuple[str, int], list[str]] = defaultdict(list)
        self._meanings: dict[str, CallAnswered] = {}
        self._made: dict[str, int] = defaultdict(int)  # by job
        self._follow_ups: dict[str, FollowUp] = {}
        self._decided: dict[str, list[Decided]] = defaultdict(list)  # by job
        self._grants: dict[str, list[GrantChanged]] = defaultdict(list)
        self._verdicts: dict[tuple[str, str], float] = {}  # of a credential, when it was last given
        self._secret_asked: dict[tuple[str, str], float] = defaultdict(lambda: _NEVER)  # by instance and credential
        self._dead_instances: set[str] = set()
        self._ending: set[str] = set()  # instances
        self._freezes = Freezes()
        self._faults: dict[str, list[list[float]]] = defaultdict(list)  # of ours, from and to
        self._troubled_at: dict[tuple[str, str], float] = defaultdict(lambda: _NEVER)  # by instance and service

    def sees(self, effect: Effect) -> None:
        self._seen = effect
        getattr(self, f"_sees_{type(effect).__name__}", _ignore)(effect)

    def _breaks(self, at: float, sentence: str) -> None:
        self.violations.append(f"{sentence} (at {at:.3f})")

    def _event(self, delivery: str) -> EventPublished:
        return self._events[self._delivered[delivery].message]

    # --- the ledger: a stale owner never overwrites the one that took over, and questions are answered once ---

    def _sees_ClaimAsked(self, effect: ClaimAsked) -> None:
        self._owners[effect.owner] = effect.delivery
        if self._delivered[effect.delivery].instance in self._ending and self._terms.settled_at < float("inf"):
            self._breaks(effect.at, f"{effect.delivery} claimed a job after SIGTERM")

    def _sees_Written(self, effect: Written) -> None:
        at, job, before, after = effect.at, effect.job, self._before(effect), effect.after
        for sentence in self._illegal(effect, before, after):
            self._breaks(at, f"{job}: {sentence}")
        if before.state == "claimed" and _ends_another_claim(before, after):
            self._takeovers[job] += 1
            self._took_over.add(effect.delivery)
            if self._at_work(self._owners[before.owner]):
                self._breaks(at, f"{job}: the claim of {before.owner} lapsed while its owner was at work")
        if before.state == "claimed":
            self._claim_ended[job] = at
        if before.state == "deferred":
            self._deferred[job][-1][1] = at
        if after.state == "deferred":
            self._deferred[job].append([at, float("inf")])
            if before.state != "deferred" or (before.user, before.credential) != (after.user, after.credential):
                self._kept[job] = self._event(effect.delivery)
        if after.state == "rejected" != before.state:
            who = after.user, after.credential
            decided = Decided(at, effect.delivery, after.reason, after.cause, *who, after.told_at)
            self._decided[job].append(decided)
            if not self._is_justified(decided, job) or after.reason != (self._comes_first(before) or after.reason):
                self._breaks(at, f"{job}: was rejected for {after.cause or after.reason}, which was not so")
        doubts = after.calls + (after.state == "claimed")
        waits = after.state in ("open", "claimed") and doubts > self._doubts_waited_for[job]
        self._pause_over[job] = at + self._pause(after, doubts) if waits else _NEVER
        self._written_at[job], self._writer[job] = at, effect.delivery
        if after.claims > before.claims:
            self._lease_over[job] = at + after.lease_seconds
        self._entries[job] = after

    def _before(self, effect: Written) -> Entry:
        return effect.before or Entry(state="open")

    def _illegal(self, effect: Written, before: Entry, after: Entry) -> Iterator[str]:
        delivery, by_schedule = effect.delivery, is_run(effect.delivery)
        if after.attempt < before.attempt or (after.calls < before.calls and not self._is_adopted(effect.job)):
            yield "the ledger forgot a retry that was counted"
        if after.unknown != before.unknown and effect.before:
            yield "a field was lost that this version does not know"
        if not effect.is_kept_for(self._terms.keep):
            yield f"the ledger may forget it {after.kept_until - effect.at:.0f} s later"
        if before.state == "deferred" and after.state != "deferred" and effect.at < before.not_before:
            yield "a deferral ended before its time"
        is_kept = before.kept in ("", after.kept, after.credential)
        if after.state == "rejected" and not by_schedule and not is_kept:
            yield f"the event of {before.kept} that was kept is gone, and {after.credential} was rejected"
        if effect.before and after.kept and not before.kept and after.state != "deferred":
            yield f"the event of {after.kept} is due once more, though it was put back"
        if _is_no_longer_due(before, after) and (by_schedule or before.state != "claimed"):
            if by_schedule and before.state in ("open", "claimed"):
                yield from self._illegal_wait(effect, before)
            return
        if before.state == "retried":
            yield "a final answer was overwritten"
        elif by_schedule:
            if before.state not in ("deferred", "open") or after.state != "open":
                yield f"the schedule made {before.state} {after.state}"
            yield from self._illegal_wait(effect, before)
        elif _ends_another_claim(before, after):
            yield from self._illegal_claim(effect, before, after)
        elif before.state == "claimed":
            if self._owners.get(before.owner) != delivery:
                yield f"the claim of {before.owner} was overwritten by {delivery}, which does not hold it"
            elif after.state == "deferred":
                yield from self._illegal_deferral(effect)
        elif effect.before:
            event = self._event(delivery)
            kept = before.kept if _is_of(before, event) else event.credential
            known = {"kept": kept, "attempt": max(before.attempt, event.attempt), "root": after.root}
            known["told_at"] = after.told_at
            expected = replace(before, user=event.user, credential=event.credential, **known)
            if before.state != "deferred" or after != expected or after == before:
                yield f"{delivery} recorded {after.state} without a claim"
            yield from self._illegal_trace(effect)

    def _illegal_claim(self, effect: Written, before: Entry, after: Entry) -> Iterator[str]:
        event = self._event(effect.delivery)
        if after.claims <= before.claims:
            yield "a claim was not counted"
        if after.attempt != max(before.attempt, event.attempt):
            yield f"a claim for {before.attempt} and {event.attempt} earlier retries has {after.attempt}"
        if after.owner and self._owners.get(after.owner) != effect.delivery:
            yield "a claim was written in another delivery's name"
        if not _is_of(after, event):
            yield f"a claim names {after.credential}, and its event {event.credential}"
        if before.state == "rejected" and not self._is_new_question(event, self._decided[effect.job][-1]):
            yield "a final answer was overwritten"
        if after.calls != before.calls + (before.state == "claimed"):
            yield "a claim that lapsed was not counted as a call"
        yield from self._illegal_trace(effect)
        yield from self._illegal_wait(effect, before)

    def _illegal_wait(self, effect: Written, before: Entry) -> Iterator[str]:
        """Of a claim, and of the schedule: lease and pause have to be over, and do not begin anew."""
        if before.state == "claimed" and effect.age <= before.lease_seconds:
            yield f"a live claim of {before.owner} was taken over"
        doubts = before.calls + (before.state == "claimed")
        pause = self._pause(before, doubts)
        if doubts > self._doubts_waited_for[effect.job] and effect.age < pause and not self._terms.park:
            yield f"it was claimed or put back {effect.age:.0f} s after a call in doubt, and the pause is {pause:.0f} s"
        self._doubts_waited_for[effect.job] = doubts

    def _illegal_trace(self, effect: Written) -> Iterator[str]:
        if self._is_to_be_rejected(effect.delivery, effect.at):
            yield f"{effect.delivery} left a trace, though its event itself is to be rejected"

    def _illegal_deferral(self, effect: Written) -> Iterator[str]:
        """It lasts as long as Google has said. Where that was no time but a delay, it begins with the claim."""
        answers, until = self._answers(effect.job, effect.delivery), effect.after.not_before
        asked = answers[-1].until if answers else 0.0
        if not asked - AT_WORK <= until <= asked + _ABOUT and not self._stood_still(effect.delivery):
            yield f"it waits until {until:.0f}, and Google said {asked:.0f}"

    def _comes_first(self, entry: Entry) -> str:
        """The reason that the ledger itself has for a rejection, before any grant or answer."""
        if entry.calls and self._terms.park:
            return "OUTCOME_UNKNOWN"
        return "RETRY_BUDGET_EXHAUSTED" if entry.attempt + entry.calls >= self._terms.budget else ""

    def _pause(self, entry: Entry, doubts: int) -> float:
        """Seconds after the latest call in doubt: longer after a second one, and where no call is left."""
        is_first = doubts == 1 and entry.attempt + doubts < self._terms.budget
        return self._terms.doubt_pause * (1 if is_first else _LATER_PAUSES)

    def _is_new_question(self, event: EventPublished, decided: Decided) -> bool:
        """Whether this rejection does not answer for this event."""
        same = (decided.user, decided.credential) == (event.user, event.credential)
        return decided.reason != "OUTCOME_UNKNOWN" and (not same or event.at > decided.at)

    def _is_to_be_rejected(self, delivery: str, at: float) -> bool:
        """For its event's own age or attempt."""
        event = self._event(delivery)
        return self._is_expired(event, at) or event.attempt >= self._terms.budget

    def _is_expired(self, event: EventPublished, at: float) -> bool:
        return at - event.failed_at > self._terms.event_max_age

    def _at_work(self, delivery: str) -> bool:
        """Whether this delivery is in the hands of an instance that lives, and never stood still in the meantime."""
        alive = self._delivered[delivery].instance not in self._dead_instances
        return alive and not self._stood_still(delivery) and delivery not in self._answered

    def _stood_still(self, delivery: str) -> bool:
        """Whether its instance has, since it had this delivery in hand."""
        delivered = self._delivered[delivery]
        return self._freezes.stood_still(delivered.instance, delivered.at)

    # --- calls: one for each claim, a claim for each call, at once after it, and never more than the budget ---

    def _sees_CallSent(self, effect: CallSent) -> None:
        at, job = effect.at, effect.job
        entry, instance = self._entries.get(job, Entry()), self._delivered[effect.delivery].instance
        if not self._holds(effect.delivery, entry):
            self._breaks(at, f"{job}: {effect.delivery} called Google without holding the claim")
        earlier = [call for call in self._claims_used[job, entry.claims] if self._meaning(call) != "not sent"]
        if len(earlier) > 1 or any(
            self._meaning(call) != "unauthorized" and not self._denied(call) for call in earlier
        ):
            self._breaks(at, f"{job}: Google was called twice under one claim")
        self._claims_used[job, entry.claims].append(effect.call)
        if instance in self._ending:
            self._breaks(at, f"{job}: {effect.delivery} called Google after SIGTERM")
        if effect.credential != (named := self._event(effect.delivery).credential):
            self._breaks(at, f"{job}: a call carried a token of {effect.credential}, and its event names {named}")
        if effect.expired > 0 and at > self._freezes.thawed_at[instance] + AT_WORK:
            # one that came before its instance stood still may be old
            self._breaks(at, f"{job}: the access token had ended {effect.expired:.0f} s before it was sent")
        used = self._used(job, self._maybe_carried_out)
        if used >= self._terms.budget:
            self._breaks(at, f"{job}: Google was called although {used} of {self._terms.budget} retries may be used")
        self._calls[job].append(effect)

    def _sees_CallAnswered(self, effect: CallAnswered) -> None:
        self._meanings[effect.call] = effect

    def _sees_CallArrived(self, effect: CallArrived) -> None:
        self._made[effect.job] += bool(effect.new_job)

    def _sees_SecretAsked(self, effect: SecretAsked) -> None:
        self._secret_asked[effect.instance, effect.credential] = effect.at
        self._sees_delay(effect)

    def _sees_TokenAsked(self, effect: TokenAsked) -> None:
        asked_at = self._secret_asked[effect.instance, effect.credential]
        if effect.at > asked_at + _SECRET_IN_HAND and self._freezes.thawed_at[effect.instance] < asked_at:
            self._breaks(effect.at, f"{effect.credential}: a refresh token was remembered")
        self._sees_delay(effect)

    def _sees_delay(self, effect: SecretAsked | TokenAsked) -> None:
        if effect.delivery in self._delivered:
            job = self._event(effect.delivery).job
            if self._is_to_be_rejected(effect.delivery, effect.at):
                said = f"{effect.delivery} asked for a token, though its event itself is to be rejected"
                self._breaks(effect.at, f"{job}: {said}")
            entry = self._entries.get(job, Entry())
            if self._holds(effect.delivery, entry) and not self._claims_used[job, entry.claims]:
                self._breaks(effect.at, f"{job}: {effect.delivery} asked for a token between its claim and its call")

    def _holds(self, delivery: str, entry: Entry) -> bool:
        return entry.state == "claimed" and self._owners.get(entry.owner) == delivery

    def _meaning(self, call: str) -> str:
        return self._meanings[call].meaning if call in self._meanings else ""

    def _denied(self, call: str) -> bool:
        """403: not carried out, and another grant may do."""
        return self._meaning(call) == "refused" and self._meanings[call].reason == "ACCESS_DENIED"

    # --- counting: calls, those in doubt, and what the messages say of them ---

    def _chain(self, job: str) -> Iterator[Job]:
        """This job and those before it."""
        known = self._terms.jobs.get(job)
        while known:
            yield known
            known = self._terms.jobs.get(known.parent)

    def _used(self, job: str, count: Callable[[str], int]) -> int:
        """What the chain has used of the budget, by this count, and by what the events of its first job told."""
        jobs = [known.name for known in self._chain(job)]
        told = self._entries.get(jobs[-1], Entry()).attempt if jobs else 0
        return told + sum(map(count, jobs))

    def _is_adopted(self, job: str) -> bool:
        """Whether Google named a job that runs already: it and all calls in doubt are one retry."""
        return any(self._meaning(sent.call) == "adopted" for sent in self._calls[job])

    def _counts_as_one(self, job: str) -> bool:
        """Whether the recorded answer is an adopted job."""
        entry = self._entries.get(job, Entry())
        answers = (known for known in self._answers(job) if known.meaning == "adopted")
        return entry.state == "retried" and any(known.job == entry.new_job for known in answers)

    def _maybe_carried_out(self, job: str) -> int:
        if self._counts_as_one(job):
            return 1
        return sum(self._meaning(sent.call) in _MAYBE_CARRIED_OUT for sent in self._calls[job])

    def _carried_out(self, job: str) -> int:
        return min(self._made[job], 1) if self._is_adopted(job) else self._made[job]

    def _at_most(self, job: str) -> int:
        if self._counts_as_one(job):
            return 1
        return self._maybe_carried_out(job) + self._takeovers[job]

    def _unknown(self, job: str) -> int:
        if self._is_adopted(job):
            return 0
        return sum(self._meaning(sent.call) == "unknown" for sent in self._calls[job])

    # --- follow-ups: all name one job, which Google gave and the ledger holds ---

    def _sees_FollowUp(self, effect: FollowUp) -> None:
        at, job = effect.at, effect.job
        self._hears_of(effect, job)
        told = replace(effect, at=0.0, delivery="")
        if told != (first := self._follow_ups.setdefault(job, told)):
            self._breaks(at, f"{job}: its follow-ups differ: {first.new_job} and {effect.new_job}")
        if not any(known.job == effect.new_job for known in self._answers(job)):
            self._breaks(at, f"{job}: its follow-up names {effect.new_job}, which Google did not give")
        entry = self._entries.get(job, Entry())
        if entry.state != "retried" or entry.new_job != effect.new_job:
            self._breaks(at, f"{job}: its follow-up was published before the ledger had its new job")
        if not _tells_of(effect, entry) or effect.attributes != _attributes("archive-job-retried", effect.user, job):
            self._breaks(at, f"{job}: its follow-up tells another user, credential or time, or has other attributes")
        if job in self._terms.jobs and effect.root != self._terms.jobs[job].root:
            self._breaks(at, f"{job}: its follow-up names {effect.root} as the first of its chain")
        least, most = self._used(job, self._carried_out), self._used(job, self._at_most)
        if not least <= effect.attempt <= most:
            self._breaks(at, f"{job}: its follow-up counts {effect.attempt} retries, and it was {least} to {most}")

    def _answers(self, job: str, delivery: str = "") -> list[CallAnswered]:
        """To the calls for this job, or to those of this delivery alone."""
        calls = [sent.call for sent in self._calls[job] if delivery in ("", sent.delivery)]
        return [self._meanings[call] for call in calls if call in self._meanings]

    def _hears_of(self, effect: FollowUp | Rejection, job: str) -> None:
        self._told[effect.delivery] = effect
        self._ended.add(job)
        self._heard_at[job] = effect.at
        self._waiting.pop(job, None)

    # --- rejections: for Google's own word, which answers for this event, with the event whole ---

    def _sees_Rejection(self, effect: Rejection) -> None:
        at, event = effect.at, self._event(effect.delivery)
        self._hears_of(effect, event.job)
        if effect.event != event.data:
            self._breaks(at, f"{event.job}: its rejection does not hold the event as it came")
        answering = list(self._answering(effect, event))
        if not answering:
            said = f"rejected for {effect.cause or effect.reason}, which was not so, or answered another event"
            self._breaks(at, f"{event.job or event.message}: was {said}")
        elif event.job and not any(_tells_of(effect, decided) for decided in answering):
            self._breaks(at, f"{event.job}: its rejection tells another user, credential or time than its decision")
        known = self._terms.jobs.get(event.job)
        key = effect.job or event.message
        attributes = _attributes("archive-job-retry-rejected", effect.user, key) | {"reason": effect.reason}
        if effect.attributes != attributes or (event.job and effect.job != event.job):
            self._breaks(at, f"{event.job or event.message}: its rejection has other attributes, or names another job")
        if known and effect.root != known.root:
            self._breaks(at, f"{event.job}: its rejection names {effect.root} as the first of its chain")
        if event.job:
            self._check_counts(effect, event.job)

    def _answering(self, effect: Rejection, event: EventPublished) -> Iterator[Decided]:
        """The decisions that this can tell: the ledger's, or one by the event itself, which leaves no trace."""
        who = event.user, event.credential
        by_event = Decided(effect.at, effect.delivery, effect.reason, effect.cause, *who, effect.told_at)
        if effect.reason == "MALFORMED_EVENT":
            yield from [by_event] * (not event.job)
        elif effect.reason == "EVENT_EXPIRED":
            yield from [by_event] * self._is_expired(event, effect.at)
        elif event.attempt >= self._terms.budget:
            parked = self._found_claimed(effect, event.job) and self._terms.park and effect.reason == "OUTCOME_UNKNOWN"
            if effect.reason == "RETRY_BUDGET_EXHAUSTED" or parked or self._is_justified(by_event, event.job):
                yield by_event
        for decided in self._decided[event.job]:
            same = (decided.reason, decided.cause) == (effect.reason, effect.cause)
            if same and (decided.delivery == effect.delivery or not self._is_new_question(event, decided)):
                yield decided

    def _found_claimed(self, effect: Rejection, job: str) -> bool:
        """Whether its look can have found a claim that lapsed: in doubt, though nobody has taken it over."""
        is_claimed = self._entries.get(job, Entry()).state == "claimed"
        return is_claimed or self._claim_ended[job] >= self._delivered[effect.delivery].at

    def _is_justified(self, decided: Decided, job: str) -> bool:
        begun, word = self._delivered[decided.delivery].at, decided.cause or decided.reason
        if word in _BY_CALLS:
            answers = self._answers(job, decided.delivery)
            refused = [known for known in answers if known.meaning == "unauthorized"]
            return bool(answers) and answers[-1].reason == word and (word != "ACCOUNT_STATE" or len(refused) == 2)
        match decided.reason:
            case "RETRY_BUDGET_EXHAUSTED":
                return self._used(job, self._at_most) >= self._terms.budget
            case "OUTCOME_UNKNOWN":
                return self._terms.park and self._at_most(job) > 0  # "made" too, where that could not be recorded
            case "REAUTHORIZATION_REQUIRED":
                is_told = self._verdicts.get((decided.credential, word), _NEVER) >= begun
                return is_told and self._was_ungood(decided.credential, begun)
        return False

    def _was_ungood(self, credential: str, since: float) -> bool:
        """Whether the grant was not good at any moment since then."""
        changes = self._grants[credential]
        before = [change for change in changes if change.at <= since]
        return not changes or any(not change.good for change in [*before[-1:], *changes[len(before) :]])

    def _check_counts(self, effect: Rejection, job: str) -> None:
        """What it says of retries and doubts lies between what was so when its delivery began, and what can be."""
        least, unknown = self._counted[effect.delivery]
        event, own = self._event(effect.delivery), self._at_most(job)
        by_event = effect.reason == "EVENT_EXPIRED" or event.attempt >= self._terms.budget
        # by the event itself, it tells what its look has found: a claim counts as a call, though nobody took it over
        lapsed = by_event and self._found_claimed(effect, job)
        most = max(self._used(job, self._at_most) - own, event.attempt) + own + lapsed
        if not least <= effect.attempt <= most:
            self._breaks(
                effect.at, f"{job}: its rejection counts {effect.attempt} retries, and it was {least} to {most}"
            )
        doubts = sum(self._at_most(known.name) - (known.name != job) for known in self._chain(job)) + lapsed
        if not unknown <= effect.calls_in_doubt <= min(doubts, effect.attempt):
            said = f"{effect.calls_in_doubt} calls in doubt, and it was {unknown} to {doubts}"
            self._breaks(effect.at, f"{job}: its rejection counts {said}")
        if effect.calls_in_doubt and "Start a new export" in effect.detail:
            self._breaks(effect.at, f"{job}: its rejection asks for a new export, though one may be running")

    # --- answers: nothing is acknowledged before its outcome is durable, and faults are ours where they are ---

    def _sees_Answered(self, effect: Answered) -> None:
        at, delivery = effect.at, effect.delivery
        self._answered[delivery] = effect
        delivered, job = self._delivered[delivery], self._event(delivery).job
        begun, fetched_since = delivered.at, self._freezes.fetched_since(delivered.instance, delivered.at)
        entry = self._entries.get(job, Entry())
        if effect.bug:
            self._breaks(at, f"{delivery}: raised {effect.bug}")
        elif effect.status == 500 and not self._was_ours(delivered.instance, fetched_since, job):
            self._breaks(at, f"{delivery}: was answered with 500, though no fault was ours: {effect.outcome}")
        is_calm = begun > self._terms.settled_at or self._went_well(delivered, job)
        if effect.status == 503 and is_calm and begun > self._pause_over[job]:
            self._put_off.append((effect, self._lease_over[job] if entry.state == "claimed" else _NEVER))
        if self._holds(delivery, entry):
            called, gave_up = self._claims_used[job, entry.claims], at < begun + self._terms.deadline - 1
            if self._was_undisturbed(delivery, _OF_A_RECORD, since=at - _TIME_TO_GIVE_BACK):
                self._breaks(at, f"{job}: {delivery} was answered, and its claim stayed behind")
            elif called and gave_up and not self._stood_still(delivery) and not self._was_wrong(_OF_A_RECORD, begun):
                said = f"{delivery} gave up after {at - begun:.0f} s, with Google's answer not recorded"
                self._breaks(at, f"{job}: {said}")
        self._check_status(effect, job)
        if effect.line and job and not effect.bug and not self._stood_still(delivery):
            self._check_line(effect, job)

    def _check_line(self, effect: Answered, job: str) -> None:
        """What metrics and alerts are made of."""
        delivery, line = effect.delivery, effect.line
        sent = [known.meaning for known in self._answers(job, delivery) if known.meaning != "not sent"]
        unknown = sent.count("unknown") + (delivery in self._took_over)
        if line["calls"] != len(sent) or (sent and line["callsUnknown"] != unknown):
            said = f"{line['calls']} calls, {line['callsUnknown']} in doubt, and it was {len(sent)} and {unknown}"
            self._breaks(effect.at, f"{delivery}: its log line counts {said}")
        if effect.status != 204 and "failedStep" not in line:
            self._breaks(effect.at, f"{delivery}: its log line names no step: {effect.outcome}")
        told = self._told.get(delivery)
        if effect.status == 204 and told:
            names = {"attempt": told.attempt, "rootArchiveJobId": told.root, "credentialId": told.credential}
            if names.items() - line.items() or (isinstance(told, FollowUp) and "failedStep" in line):
                self._breaks(effect.at, f"{delivery}: its log line is not what it has told: {line}")

    def _went_well(self, delivered: Delivered, job: str) -> bool:
        """Whether nothing has gone wrong around this delivery, nor under a request that it may have shared."""
        if self._terms.settled_at == float("inf"):  # nobody knows all that is wrong
            return False
        instance, since = delivered.instance, delivered.at - AT_WORK
        is_free = instance not in self._ending and self._entries.get(job, Entry()).state != "claimed"
        wrong = self._was_ours(instance, since, job)
        return is_free and not wrong and self._is_calm(instance, since, _EVERY_SERVICE)

    def _sees_Resumed(self, effect: Resumed) -> None:
        run = self._runs[effect.run]
        if effect.bug:
            self._breaks(effect.at, f"{effect.run}: raised {effect.bug}")
        elif effect.status == 500 and not self._was_ours(run.instance, effect.at - AT_WORK, ""):
            self._breaks(effect.at, f"{effect.run}: ended with 500, though no fault was ours: {effect.outcome}")
        if self._is_calm(run.instance, run.at, ("firestore", "pubsub", "account")):
            for job, entry in self._entries.items():
                if 0 < entry.not_before < run.at and self._is_left(job, entry, effect):
                    self._breaks(effect.at, f"{job}: {effect.run} left it due")

    def _is_left(self, job: str, entry: Entry, effect: Resumed) -> bool:
        """Whether nobody else has written to it since this run began, and neither lease nor pause was in its way."""
        begun, lease_over = self._runs[effect.run].at, self._lease_over[job] if entry.state == "claimed" else _NEVER
        is_others = self._written_at[job] >= begun and self._writer[job] != effect.run
        return not is_others and max(lease_over, self._pause_over[job]) < begun

    def _sees_ResumeStarted(self, effect: ResumeStarted) -> None:
        self._runs[effect.run] = effect

    def _was_ours(self, instance: str, begun: float, job: str) -> bool:
        """Whether anything was our fault meanwhile, or while something was fetched that the instance still shares. An
        entry that cannot be read is one for its job alone.
        """
        since = begun - (_FELT_FOR if self._freezes.stood_still(instance, begun - _FELT_FOR) else AT_WORK)
        return any(
            to >= since
            for what, spells in self._faults.items()
            for _, to in spells
            if what == job or not what.startswith("job-")
        )

    def _check_status(self, effect: Answered, job: str) -> None:
        """An answer of Google's decides how the delivery ends, where nothing else came between."""
        answers, begun = self._answers(job, effect.delivery), self._delivered[effect.delivery].at
        ours = any(to >= begun for what, spells in self._faults.items() for _, to in spells if what != "portability")
        if not answers or ours or not self._was_undisturbed(effect.delivery, _SERVICES):
            return
        meaning = answers[-1].meaning
        expected = _STATUSES.get(meaning, (204, 500, 503))
        if meaning == "unknown" and self._terms.park:
            expected = (204,)
        if effect.status not in expected:
            self._breaks(
                effect.at, f"{effect.delivery}: was answered with {effect.status}, and Google's word was {meaning}"
            )

    def _was_undisturbed(self, delivery: str, services: Sequence[str], since: float = _NEVER) -> bool:
        """Whether nothing has come between this delivery and these services, and its instance never stood still."""
        delivered = self._delivered[delivery]
        is_calm = self._is_calm(delivered.instance, max(delivered.at, since), services)
        return is_calm and not self._stood_still(delivery)

    def _is_calm(self, instance: str, since: float, services: Sequence[str]) -> bool:
        troubled = any(self._troubled_at[instance, service] >= since for service in services)
        return not troubled and not self._was_wrong(services, since) and not self._freezes.stood_still(instance, since)

    def _was_wrong(self, services: Sequence[str], since: float) -> bool:
        return any(to >= since for what in services for _, to in self._faults[what])

    def _sees_Acked(self, effect: Acked) -> None:
        self._settled.add(effect.message)
        if effect.delivery in self._told:
            return
        event, begun = self._events[effect.message], self._delivered[effect.delivery].at
        deferred = [since for since, to in self._deferred[event.job] if to >= begun]
        if not deferred:
            self._breaks(effect.at, f"{event.job or effect.message}: was acknowledged without a durable outcome")
            return
        if self._heard_at[event.job] < deferred[-1]:  # else it was resumed before this acknowledgement
            self._waiting[event.job] = effect.at
        entry = self._entries[event.job]
        if entry.state == "deferred" and self._written_at[event.job] < begun:
            if not _is_of(entry, event):
                said = f"it waits without {effect.delivery}, which names another credential"
                self._breaks(effect.at, f"{event.job}: {said}")
            if entry.attempt < event.attempt:
                self._breaks(effect.at, f"{event.job}: it waits without {effect.delivery}, which tells more retries")

    # --- the end: nothing is lost, and once nothing goes wrong any more, nothing is put off ---

    def sees_the_end(self) -> None:
        for message, event in self._events.items():
            self._seen = event
            if message not in self._settled:
                self._breaks(event.at, f"{message}: was neither acknowledged nor made a dead letter")
            elif event.job and (event.job not in self._ended or event.job in self._waiting):
                self._breaks(event.at, f"{event.job}: vanished")
        for answered, lease_over in self._put_off:
            self._seen = answered
            if not self._is_excused(answered, lease_over):
                self._breaks(
                    answered.at, f"{answered.delivery}: was put off, though nothing was wrong: {answered.outcome}"
                )

    def _is_excused(self, answered: Answered, lease_over: float) -> bool:
        """Another delivery of the job was at work, or had died with a lease, or Google wanted to wait."""
        event, begun = self._event(answered.delivery), self._delivered[answered.delivery].at
        answers = self._answers(event.job, answered.delivery)
        if any(known.meaning in ("cooldown", "held back") for known in answers):
            return True
        if len(answers) > 1 and answers[-1].meaning == "unauthorized":
            return True
        return any(
            other.delivery != answered.delivery
            and self._event(other.delivery).job == event.job
            and other.at <= answered.at
            and self._over(other, lease_over) >= begun
            for other in self._delivered.values()
        )

    def _over(self, delivered: Delivered, lease_over: float) -> float:
        """Until when this delivery may keep others from the job."""
        if answered := self._answered.get(delivered.delivery):
            return answered.at
        return lease_over if delivered.instance in self._dead_instances else float("inf")

    # --- what is only noted ---

    def _sees_EventPublished(self, effect: EventPublished) -> None:
        if effect.put_back_by:
            self._waiting.pop(effect.job, None)
            self._check_put_back(effect)
        self._events[effect.message] = effect

    def _check_put_back(self, effect: EventPublished) -> None:
        at, job, kept = effect.at, effect.job, self._kept.get(effect.job)
        added = kept and not kept.says_when
        if not kept or not effect.says_when or abs(effect.failed_at - kept.failed_at) > _ABOUT:
            self._breaks(at, f"{job}: its event came back without the time of the failure")
        elif effect.data != kept.data and not (added and effect.data.startswith(kept.data[:-1] + b',"failedAt":"')):
            self._breaks(at, f"{job}: its event did not come back as it came: {effect.data!r}")
        elif effect.attributes != kept.attributes and not self._was_wrong(("pubsub",), at - AT_WORK):
            self._breaks(at, f"{job}: its event came back with the attributes {effect.attributes}")

    def _sees_Delivered(self, effect: Delivered) -> None:
        self._delivered[effect.delivery] = effect
        job = self._event(effect.delivery).job
        unknown = sum(self._unknown(known.name) for known in self._chain(job))
        self._counted[effect.delivery] = self._used(job, self._carried_out), unknown

    def _sees_DeadLettered(self, effect: DeadLettered) -> None:
        self._settled.add(effect.message)
        self._ended.add(self._events[effect.message].job)
        self._waiting.pop(self._events[effect.message].job, None)

    def _sees_Forgotten(self, effect: Forgotten) -> None:
        self._settled.add(effect.message)

    def _sees_GrantChanged(self, effect: GrantChanged) -> None:
        self._grants[effect.credential].append(effect)

    def _sees_Verdict(self, effect: Verdict) -> None:
        self._verdicts[effect.credential, effect.cause] = effect.at

    def _sees_FaultOfOurs(self, effect: FaultOfOurs) -> None:
        if effect.wrong:
            self._faults[effect.what].append([effect.at, float("inf")])
        else:
            self._faults[effect.what][-1][1] = effect.at

    def _sees_Trouble(self, effect: Trouble) -> None:
        self._troubled_at[effect.instance, effect.service] = effect.at

    def _sees_Froze(self, effect: Froze) -> None:
        self._freezes.add(effect)

    def _sees_Instance(self, effect: Instance) -> None:
        if effect.what == "dies":
            self._dead_instances.add(effect.name)
        elif effect.what == "gets SIGTERM":
            self._ending.add(effect.name)

    def _sees_Leak(self, effect: Leak) -> None:
        self._breaks(effect.at, f"a secret is in {effect.where}")


def _ends_another_claim(before: Entry, after: Entry) -> bool:
    """Whether this is a claim, or one that was given up in the same write: in the way of what may be under way."""
    is_claim = after.state == "claimed" and not _is_no_longer_due(before, after)
    return is_claim or (after.state == "open" and after.claims == before.claims + 1)


def _is_no_longer_due(before: Entry, after: Entry) -> bool:
    """Whether nothing else is written: the event of what was deferred once is published, or its outcome."""
    if not before.not_before or after.lease_seconds not in (before.lease_seconds, 0):
        return False
    others = {"lease_seconds": after.lease_seconds, "unknown": after.unknown}  # what is lost is judged apart
    return after == replace(before, not_before=0.0, kept="", **others)


def _tells_of(effect: FollowUp | Rejection, decided: Entry | Decided) -> bool:
    same = (effect.user, effect.credential) == (decided.user, decided.credential)
    return same and abs(effect.told_at - decided.told_at) < _ABOUT


def _attributes(event_type: str, user: str, key: str) -> dict[str, str]:
    known = {"eventType": event_type, "dedupKey": key}
    return known | {"userId": user} if user else known


def _is_of(entry: Entry, event: EventPublished) -> bool:
    return (entry.user, entry.credential) == (event.user, event.credential)


def _ignore(effect: Effect) -> None:
    pass
