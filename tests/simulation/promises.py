"""The promises of README.md, held against the effects of a run, one after the other."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from tests.simulation.google import Job
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
    Ended,
    Entry,
    EventPublished,
    FaultOfOurs,
    FollowUp,
    Froze,
    GrantChanged,
    Instance,
    Leak,
    Rejection,
    Trouble,
    Written,
)

# Rejections that Google's answer, or the operator's `park`, stands behind: nothing may follow them.
_FINAL = ("ACCESS_DENIED", "JOB_NOT_FOUND", "JOB_NOT_RETRYABLE", "OUTCOME_UNKNOWN")
_FELT_FOR = 600.0  # seconds after a fault of ours at which a frozen instance can still share what was fetched in it
_AT_WORK = 90.0  # seconds that a delivery may take
_MAYBE_CARRIED_OUT = ("made", "adopted", "unknown", "")  # "": nobody has learned of its answer


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings of the run, and what only the simulation knows. From `settled_at` on all that went wrong is over."""

    budget: int
    park: bool
    settled_at: float
    jobs: Sequence[Job]


def broken(effects: Sequence[Effect], terms: Terms) -> list[str]:
    """A sentence for every promise that the run broke."""
    judge = _Judge(terms)
    for effect in effects:
        judge.sees(effect)
    judge.sees_the_end()
    return judge.violations


class _Judge:
    """What is known up to one moment of the run."""

    def __init__(self, terms: Terms) -> None:
        self.violations: list[str] = []
        self._terms = terms
        self._jobs = {job.name: job for job in terms.jobs}
        self._events: dict[str, EventPublished] = {}
        self._delivered: dict[str, Delivered] = {}
        self._answered: dict[str, Answered] = {}
        self._nacked: list[Answered] = []
        self._settled: set[str] = set()  # messages that are acknowledged or dead letters
        self._dead: set[str] = set()  # jobs of dead letters
        self._entries: dict[str, Entry] = {}
        self._holders: dict[str, str] = {}  # → the delivery that calls itself so
        self._deferred: dict[str, list[list[float]]] = defaultdict(list)  # job → spells, from and to
        self._takeovers: dict[str, int] = defaultdict(int)
        self._calls: dict[str, list[CallSent]] = defaultdict(list)  # by job
        self._claims_used: dict[tuple[str, int], list[str]] = defaultdict(list)
        self._meanings: dict[str, CallAnswered] = {}
        self._carried_out: dict[str, int] = defaultdict(int)
        self._follow_ups: dict[str, FollowUp] = {}
        self._published: dict[str, list[FollowUp | Rejection]] = defaultdict(list)  # by delivery
        self._rejected: set[str] = set()
        self._grants: dict[str, list[GrantChanged]] = defaultdict(list)
        self._dead_instances: set[str] = set()
        self._ending: set[str] = set()  # instances
        self._thawed_at: dict[str, float] = defaultdict(lambda: float("-inf"))  # by instance
        self._faults: dict[str, list[list[float]]] = defaultdict(list)  # of ours, from and to
        self._troubled_at: dict[str, float] = defaultdict(lambda: float("-inf"))  # by service

    def sees(self, effect: Effect) -> None:
        getattr(self, f"_sees_{type(effect).__name__}", _ignore)(effect)

    def _breaks(self, at: float, sentence: str) -> None:
        self.violations.append(f"{sentence} (at {at:.3f})")

    # --- the ledger: a stale holder never overwrites the one that took over ---

    def _sees_ClaimAsked(self, effect: ClaimAsked) -> None:
        self._holders[effect.holder] = effect.delivery

    def _sees_Written(self, effect: Written) -> None:
        job, before, after = effect.job, effect.before, effect.after
        for sentence in self._illegal(effect):
            self._breaks(effect.at, f"{job}: {sentence}")
        if before and (after.in_doubt < before.in_doubt or after.attempt < before.attempt):
            self._breaks(effect.at, f"{job}: the ledger forgot a retry that was counted")
        if before and before.state == "claimed" and (after.state == "claimed" or _withdrawn(before, after)):
            self._takeovers[job] += 1
            if self._at_work(self._holders[before.holder]):
                self._breaks(effect.at, f"{job}: the claim of {before.holder} lapsed while its holder was at work")
        if before and before.state == "deferred":
            self._deferred[job][-1][1] = effect.at
        if after.state == "deferred":
            self._deferred[job].append([effect.at, float("inf")])
        self._entries[job] = after

    def _illegal(self, effect: Written) -> Iterator[str]:
        before, after = effect.before or Entry(state="open"), effect.after
        mine, resumed = self._holders.get(before.holder) == effect.delivery, effect.delivery.startswith("resume")
        if before.state == "retried" or (before.state == "rejected" and before.reason in _FINAL):
            if after != replace(before, waits=False):
                yield "a final answer was overwritten"
            return
        if after.state == "claimed" or _withdrawn(before, after):
            if before.state == "claimed" and effect.age <= before.lease_seconds:
                yield f"a live claim of {before.holder} was taken over"
            if after.fence <= before.fence:
                yield "a claim did not raise the fence"
            if after.holder and self._holders.get(after.holder) != effect.delivery:
                yield "a claim was written in another delivery's name"
        elif before.state == "claimed" and not mine:
            yield f"the claim of {before.holder} was overwritten by {effect.delivery}, which does not hold it"
        elif before.state != "claimed" and effect.before and after != replace(before, waits=False) and not resumed:
            yield f"{effect.delivery} recorded {after.state} without a claim"

    def _at_work(self, delivery: str) -> bool:
        """Whether this delivery is in the hands of an instance that lives, and never stood still in the meantime."""
        alive = self._delivered[delivery].instance not in self._dead_instances
        return alive and not self._stood_still(delivery) and delivery not in self._answered

    def _stood_still(self, delivery: str) -> bool:
        """Whether its instance has, since it had this delivery in hand."""
        delivered = self._delivered[delivery]
        return self._thawed_at[delivered.instance] >= delivered.at

    # --- calls: one for each claim, a claim for each call, and never more than the budget ---

    def _sees_CallSent(self, effect: CallSent) -> None:
        at, job = effect.at, effect.job
        entry = self._entries.get(job, Entry())
        if entry.state != "claimed" or self._holders.get(entry.holder) != effect.delivery:
            self._breaks(at, f"{job}: {effect.delivery} called Google without holding the claim")
        earlier = self._claims_used[job, entry.fence]
        if any(self._meaning(call) not in ("unauthorized", "not sent") and not self._denied(call) for call in earlier):
            self._breaks(at, f"{job}: Google was called twice under one claim")
        earlier.append(effect.call)
        thawed_at = self._thawed_at[self._delivered[effect.delivery].instance]
        if effect.expired > 0 and at > thawed_at + _AT_WORK:  # one that came before its instance stood still may be old
            self._breaks(at, f"{job}: the access token had ended {effect.expired:.0f} s before it was sent")
        used = self._used(job, self._may_be_carried_out)
        if used >= self._terms.budget:
            self._breaks(at, f"{job}: Google was called although {used} of {self._terms.budget} retries may be used")
        for known in self._calls[job]:
            if self._meaning(known.call) in ("made", "adopted", "refused") and self._entry_says(job, known.call):
                self._breaks(at, f"{job}: Google was called again although its answer was in the ledger")
        self._calls[job].append(effect)

    def _sees_CallAnswered(self, effect: CallAnswered) -> None:
        self._meanings[effect.call] = effect

    def _sees_CallArrived(self, effect: CallArrived) -> None:
        self._carried_out[effect.job] += bool(effect.new_job)

    def _meaning(self, call: str) -> str:
        return self._meanings[call].meaning if call in self._meanings else ""

    def _denied(self, call: str) -> bool:
        """403: not carried out, and another grant may do."""
        return self._meaning(call) == "refused" and self._meanings[call].reason == "ACCESS_DENIED"

    def _entry_says(self, job: str, call: str) -> bool:
        entry, known = self._entries.get(job, Entry()), self._meanings[call]
        return entry.new_job == known.job != "" or entry.reason == known.reason != ""

    def _used(self, job: str, count: Any) -> int:
        """What this job and those before it in the chain have used of the budget, by this count."""
        known = self._jobs.get(job)
        used = 0
        while known:
            used += count(known.name) + known.used_before
            known = self._jobs.get(known.parent)
        return used

    def _may_be_carried_out(self, job: str) -> int:
        return sum(self._meaning(sent.call) in _MAYBE_CARRIED_OUT for sent in self._calls[job])

    def _at_most(self, job: str) -> int:
        return self._may_be_carried_out(job) + self._takeovers[job]

    # --- follow-ups: all name one job, which Google gave and the ledger holds ---

    def _sees_FollowUp(self, effect: FollowUp) -> None:
        at, job = effect.at, effect.job
        self._published[effect.delivery].append(effect)
        first = self._follow_ups.setdefault(job, effect)
        if (first.new_job, first.root, first.attempt) != (effect.new_job, effect.root, effect.attempt):
            self._breaks(at, f"{job}: its follow-ups differ: {first.new_job} and {effect.new_job}")
        if not any(self._meanings[sent.call].job == effect.new_job for sent in self._answered_calls(job)):
            self._breaks(at, f"{job}: its follow-up names {effect.new_job}, which Google did not give")
        entry = self._entries.get(job, Entry())
        if entry.state != "retried" or entry.new_job != effect.new_job:
            self._breaks(at, f"{job}: its follow-up was published before the ledger had its new job")
        if job in self._jobs and effect.root != self._jobs[job].root:
            self._breaks(at, f"{job}: its follow-up names {effect.root} as the first of its chain")
        least, most = self._used(job, self._carried_out.__getitem__), self._used(job, self._at_most)
        if not least <= effect.attempt <= most:
            self._breaks(at, f"{job}: its follow-up counts {effect.attempt} retries, and it was {least} to {most}")

    def _answered_calls(self, job: str) -> list[CallSent]:
        return [sent for sent in self._calls[job] if sent.call in self._meanings]

    # --- rejections: for a reason that holds, with the event whole ---

    def _sees_Rejection(self, effect: Rejection) -> None:
        self._published[effect.delivery].append(effect)
        event = self._event(effect.delivery)
        self._rejected.add(event.job)
        if effect.event != event.data:
            self._breaks(effect.at, f"{event.job}: its rejection does not hold the event as it came")
        if not self._justified(effect, event):
            self._breaks(effect.at, f"{event.job or event.message}: was rejected for {effect.reason}, which was not so")

    def _justified(self, effect: Rejection, event: EventPublished) -> bool:
        job = event.job
        match effect.reason:
            case "MALFORMED_EVENT":
                return not job
            case "EVENT_EXPIRED":
                return event.expired
            case "RETRY_BUDGET_EXHAUSTED":
                return self._used(job, self._at_most) >= self._terms.budget
            case "REAUTHORIZATION_REQUIRED":
                begun = self._delivered[effect.delivery].at
                return self._was_ungood(self._jobs[job].credential, begun) or self._refused_twice(effect.delivery, job)
            case "OUTCOME_UNKNOWN":
                in_doubt = any(self._meaning(sent.call) in ("unknown", "") for sent in self._calls[job])
                return self._terms.park and (in_doubt or self._takeovers[job] > 0)
        return any(self._meanings[sent.call].reason == effect.reason for sent in self._answered_calls(job))

    def _was_ungood(self, credential: str, since: float) -> bool:
        """Whether the grant was not good at any moment since then."""
        changes = self._grants[credential]
        before = [change for change in changes if change.at <= since]
        return any(not change.good for change in [*before[-1:], *changes[len(before) :]])

    def _refused_twice(self, delivery: str, job: str) -> bool:
        """401 with a token, and 401 with a newer one."""
        mine = [sent for sent in self._calls[job] if sent.delivery == delivery]
        return len({sent.token for sent in mine if self._meaning(sent.call) == "unauthorized"}) > 1

    def _event(self, delivery: str) -> EventPublished:
        return self._events[self._delivered[delivery].message]

    # --- answers: nothing is acknowledged before its outcome is durable, and faults are ours where they are ---

    def _sees_Answered(self, effect: Answered) -> None:
        at, delivery = effect.at, effect.delivery
        self._answered[delivery] = effect
        begun = self._delivered[delivery].at
        if effect.bug:
            self._breaks(at, f"{delivery}: raised {effect.bug}")
        elif effect.status == 500 and not any(
            to + _FELT_FOR >= begun for spells in self._faults.values() for _, to in spells
        ):
            self._breaks(at, f"{delivery}: was answered with 500, though no fault was ours: {effect.outcome}")
        if effect.status == 503 and begun > self._terms.settled_at:
            self._nacked.append(effect)
        job = self._event(delivery).job
        entry = self._entries.get(job, Entry())
        if entry.state == "claimed" and self._holders[entry.holder] == delivery and self._could_write(delivery):
            self._breaks(at, f"{job}: {delivery} was answered, and its claim stayed behind")

    def _could_write(self, delivery: str) -> bool:
        """Whether nothing has come between this delivery and the ledger, which may take longer to answer than the one
        second that is left for it once an instance is to end.
        """
        begun = self._delivered[delivery].at
        ill = any(to >= begun for _, to in self._faults["firestore"]) or self._troubled_at["firestore"] >= begun
        return not ill and not self._stood_still(delivery) and self._delivered[delivery].instance not in self._ending

    def _sees_Acked(self, effect: Acked) -> None:
        self._settled.add(effect.message)
        job, begun = self._events[effect.message].job, self._delivered[effect.delivery].at
        published = self._published[effect.delivery]
        if not published and not any(to >= begun for _, to in self._deferred[job]):
            self._breaks(effect.at, f"{job or effect.message}: was acknowledged without a durable outcome")

    # --- the end: nothing is lost, and once nothing goes wrong any more, nothing is put off ---

    def sees_the_end(self) -> None:
        for message, event in self._events.items():
            ended = event.job in self._follow_ups or event.job in self._rejected or event.job in self._dead
            if message not in self._settled:
                self._breaks(event.at, f"{message}: was neither acknowledged nor made a dead letter")
            elif event.job and not ended:
                self._breaks(event.at, f"{event.job}: vanished")
        for nacked in self._nacked:
            if not self._excused(nacked):
                self._breaks(nacked.at, f"{nacked.delivery}: was put off though nothing was wrong: {nacked.outcome}")

    def _excused(self, nacked: Answered) -> bool:
        """Another delivery of the job was at work, or Google wanted to wait."""
        event, begun = self._event(nacked.delivery), self._delivered[nacked.delivery].at
        if any(
            sent.delivery == nacked.delivery and self._meaning(sent.call) == "cooldown"
            for sent in self._calls[event.job]
        ):
            return True
        return any(
            other.delivery != nacked.delivery
            and self._event(other.delivery).job == event.job
            and other.at <= nacked.at
            and (other.delivery not in self._answered or self._answered[other.delivery].at >= begun)
            for other in self._delivered.values()
        )

    # --- what is only noted ---

    def _sees_EventPublished(self, effect: EventPublished) -> None:
        self._events[effect.message] = effect

    def _sees_Delivered(self, effect: Delivered) -> None:
        self._delivered[effect.delivery] = effect

    def _sees_DeadLettered(self, effect: DeadLettered) -> None:
        self._settled.add(effect.message)
        self._dead.add(self._events[effect.message].job)

    def _sees_GrantChanged(self, effect: GrantChanged) -> None:
        self._grants[effect.credential].append(effect)

    def _sees_FaultOfOurs(self, effect: FaultOfOurs) -> None:
        if effect.wrong:
            self._faults[effect.what].append([effect.at, float("inf")])
        else:
            self._faults[effect.what][-1][1] = effect.at

    def _sees_Trouble(self, effect: Trouble) -> None:
        self._troubled_at[effect.service] = effect.at

    def _sees_Froze(self, effect: Froze) -> None:
        self._thawed_at[effect.name] = max(effect.at + effect.seconds, self._thawed_at[effect.name])

    def _sees_Instance(self, effect: Instance) -> None:
        if effect.what == "dies":
            self._dead_instances.add(effect.name)
        elif effect.what == "gets SIGTERM":
            self._ending.add(effect.name)

    def _sees_Ended(self, effect: Ended) -> None:
        if effect.left:
            self._breaks(effect.at, f"{effect.name}: was killed ten seconds after SIGTERM with {effect.left} in hand")

    def _sees_Leak(self, effect: Leak) -> None:
        self._breaks(effect.at, f"a secret is in {effect.where}")


def _withdrawn(before: Entry, after: Entry) -> bool:
    """Whether it was claimed and given up in one: in the way of a claim that may still be under way."""
    return after.state == "open" and after.fence == before.fence + 1


def _ignore(effect: Effect) -> None:
    pass
