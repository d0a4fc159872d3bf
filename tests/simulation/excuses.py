"""The judge where several releases share a ledger: what the one before this one (1.0) does not promise.

It is judged like this one, but for what it never promised, in deliveries that it handled itself. This one is excused
for what 1.0 has written or left out, and nothing else: the fields that it drops (without `inDoubtBefore` too few calls
in doubt are told, without `cause` none is published, without `decidedAt` a rejection counts as decided when 1.0 wrote
it last; without `doubtsWaitedFor` a pause is due once more, so a 503 in it is right), the time of the failure in an
event that it keeps, the entry of a new job where its first try to record the answer met a fault, an adopted job that
it does not count as one retry, or takes for a rejection, and an EVENT_EXPIRED that it records.
"""

import re

from msgspec.structs import replace

from tests.predecessor import RELEASE
from tests.simulation.invariants import Decided, Judge, Terms
from tests.simulation.record import Answered, CallSent, Effect, Entry, EventPublished, Instance, Written

NEXT = "next"  # the release to come

_UNREADABLE = r'raised ValidationError\("Invalid enum value'

# what a sentence of the judge says → why 1.0 never promised that
_NOT_PROMISED = {
    r"asked for a token between its claim and its call": "it claims while it waits for the token",
    r"a refresh token was remembered": "it remembers them",
    r"it was claimed or put back \d+ s after a call in doubt": "it knows no pause",
    r"the event of \S+ that was kept is gone": "its rejections answer for every credential",
    r"is due once more, though it was put back": "it writes over what the schedule has written under its claim",
    r"claimed a job after SIGTERM": "it hears of that behind what was waiting to go on",
    r"though its event itself is to be rejected": "it claims before it looks at age and budget",
    r"was rejected for \S+, which was not so": "it blames users and jobs for other answers than Google's own",
    r"was answered with 500, though no fault was ours": "it knows neither the canary nor OTHER_CLIENT",
    r"was answered with \d+, and Google's word was": "its table of answers is another",
    r"was put off, though nothing was wrong: .*'archiveJobs.retry is held back": "so a one-time grant is no end to it",
    r"it waits without \S+, which": "no other event changes what it keeps",
    r"a deferral ended before its time|left it due": "it goes by its own clock",
    r"it waits until \d+, and Google said": "its table of answers is another",
    r"its rejection counts 0 calls in doubt": "its rejections do not tell them",
    r"raised ValueError\('not enough values to unpack": "an empty answer of Firestore's is a bug to it",
    _UNREADABLE: "so is an entry that it cannot read",
}


# Where its first try to write an answer meets a fault, 1.0 takes it for written, and forgets the new job's entry.
_OF_A_FORGOTTEN_CHAIN = r"as the first of its chain|retries may be used|counts \d+ retries"


class VersionsJudge(Judge):
    """A judge that knows which release has done what."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._releases: dict[str, str] = {}  # by instance
        self._written_by: dict[str, set[str]] = {}  # jobs → releases
        self._deferred_by: dict[str, str] = {}  # jobs → releases
        self._retried_by: dict[str, str] = {}  # jobs → releases
        self._unlinked: dict[str, float] = {}  # new jobs whose entry 1.0 has not written with the answer, and when

    def _release(self, delivery: str) -> str:
        """Which release handles this delivery or run. (What is not signed is a new job's entry, of this release's.)"""
        known = self._runs.get(delivery) or self._delivered.get(delivery)
        return self._releases[known.instance] if known else ""

    def _breaks(self, at: float, sentence: str) -> None:
        if not self._is_excused_for(self._seen, sentence):
            super()._breaks(at, sentence)

    def _is_excused_for(self, effect: Effect, sentence: str) -> bool:
        if isinstance(effect, EventPublished):
            by = self._deferred_by.get(effect.job) == RELEASE
            return by and "came back without the time of the failure" in sentence  # which 1.0 does not fill in
        delivery = getattr(effect, "delivery", "") or getattr(effect, "run", "")
        if not delivery:
            return False
        if self._release(delivery) == NEXT and "a field was lost" in sentence:
            return True  # it is its own, and written anew with each claim
        job = getattr(effect, "job", "") or (self._event(delivery).job if delivery in self._delivered else "")
        chain = {job, *(known.name for known in self._chain(job))}
        if chain & self._unlinked.keys() and re.search(_OF_A_FORGOTTEN_CHAIN, sentence):
            return True
        if self._release(delivery) == RELEASE:
            return self._is_excused_predecessor(effect, sentence)
        by_it = any(RELEASE in self._written_by.get(known, ()) for known in chain)
        told = re.search(r"its rejection counts (\d+) calls in doubt, and it was (\d+)", sentence)
        return by_it and told is not None and self._unknown(job) <= int(told[1]) < int(told[2])

    def _is_excused_predecessor(self, effect: Effect, sentence: str) -> bool:
        match effect:
            case Written() if "a final answer was overwritten" in sentence:
                return self._before(effect).state == "rejected"  # it asks again for the very same event
            case CallSent(job=job) if "Google was called twice under one claim" in sentence:
                # after any 403, a proxy's too, it tries the newest grant: nothing was carried out
                earlier = self._claims_used[job, self._entries[job].claims]
                return len(earlier) == 1 and self._meaning(earlier[0]) == "ours"
            case Answered(delivery=delivery) if "its claim stayed behind" in sentence:
                # nine seconds after SIGTERM it lets go; the claim lapses, and counts as a call in doubt
                return self._delivered[delivery].instance in self._ending or bool(effect.bug)
            case _ if re.search(_UNREADABLE, sentence):
                return any(what.startswith("job-") for what in self._faults)  # no state of this release's
        return any(re.search(said, sentence) for said in _NOT_PROMISED)

    # --- what 1.0 drops ---

    def _before(self, effect: Written) -> Entry:
        before = super()._before(effect)
        return replace(before, cause="", unknown="") if self._release(effect.delivery) == RELEASE else before

    def _sees_Written(self, effect: Written) -> None:
        super()._sees_Written(effect)
        job, after, by = effect.job, effect.after, self._release(effect.delivery)
        self._written_by.setdefault(job, set()).add(by)
        before = self._before(effect)
        if after.state == "deferred" and (before.state != "deferred" or before.kept != after.kept):  # with its event
            self._deferred_by[job] = by
        if after.state == "retried":
            self._retried_by.setdefault(job, by)
            if by == RELEASE and before.state != "retried":
                self._unlinked[after.new_job] = effect.at
        if effect.before is None and self._unlinked.get(job) == effect.at:
            del self._unlinked[job]
        if by != RELEASE:
            return
        doubts = after.calls + (after.state == "claimed")
        self._doubts_waited_for[job] = 0
        if doubts and after.state in ("open", "claimed", "rejected", "deferred"):
            self._pause_over[job] = effect.at + self._pause(after, doubts)
        if after.state == "rejected" and self._decided[job][-1].at != effect.at:
            decided = self._decided[job][-1]
            self._decided[job].append(replace(decided, at=effect.at, cause=after.cause, told_at=after.told_at))

    def _counts_as_one(self, job: str) -> bool:
        """To 1.0 an adopted job is one more call beside those in doubt."""
        return self._retried_by.get(job) != RELEASE and super()._counts_as_one(job)

    def _maybe_carried_out(self, job: str) -> int:
        """A 409 that names a running job, with a reason that 1.0 does not know, is a rejection to it: no retry."""
        if self._counts_as_one(job):
            return 1
        rejecting = {decided.delivery for decided in self._decided[job]}
        own = [sent for sent in self._calls[job] if self._release(sent.delivery) == RELEASE]
        rejected = sum(sent.delivery in rejecting and self._meaning(sent.call) == "adopted" for sent in own)
        return super()._maybe_carried_out(job) - rejected

    def _is_new_question(self, event: EventPublished, decided: Decided) -> bool:
        """What 1.0 recorded for the age of another event answers for none."""
        return decided.reason == "EVENT_EXPIRED" or super()._is_new_question(event, decided)

    # --- who is who ---

    def _sees_Instance(self, effect: Instance) -> None:
        super()._sees_Instance(effect)
        self._releases.setdefault(effect.name, effect.release)
