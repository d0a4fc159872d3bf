"""The promises of the watch, held against the effects of a run.

Every started job's end is told at least once: by an ended event, by a failed event (whose own end the judge of the
retries sees to), by a rejection, or by a dead letter of the watch. Until then it is looked at as often as the formula
says, and nothing of Google's answers comes out but the state and the time of the export.
"""

import json
from collections import defaultdict
from collections.abc import Sequence

from tests.simulation.freezes import AT_WORK, Freezes
from tests.simulation.record import Effect, Entry, EventPublished, FaultOfOurs, Froze, Verdict, Written, is_run
from tests.simulation.states import ENDS
from tests.simulation.timeline import why_stopped
from tests.simulation.watch_record import (
    EndTold,
    FailureTold,
    Kept,
    LookAnswered,
    LookSent,
    StartedPublished,
    StateChanged,
    WatchAcked,
    WatchAnswered,
    WatchDeadLettered,
    WatchDelivered,
    WatchRejection,
    is_watchs,
)

_LONGEST_WAIT = 3000.0  # seconds between two looks
_NEW = 3600.0  # a job's age up to which nobody can be sure that it is not there
_GIVEN_UP = 15 * 86_400.0
_TOLD_WITHIN = _LONGEST_WAIT + 1200.0  # an hour and ten minutes: the wait, a run of the schedule, and the look
_FELT_FOR = 600.0  # seconds after a fault of ours
_ABOUT = 0.01  # seconds: events tell milliseconds
_NEVER = float("-inf")
_KEPT = ("deferred", "ended", "rejected")  # states in which an entry outlives its message
_FAILED_FIELDS = {"archiveJobId": "", "userId": "", "credentialId": "", "rootArchiveJobId": "", "attempt": 0}


def broken(effects: Sequence[Effect], *, interval: float, keep: float, settled_at: float) -> list[str]:
    """A sentence for every promise of the watch that the run broke. Its entries are kept for so many seconds."""
    judge = _Judge(interval, keep, settled_at)
    try:
        for effect in effects:
            judge.sees(effect)
        judge.sees_the_end()
    except Exception as error:
        judge.violations.append(why_stopped(error))
    return judge.violations


def strays(effects: Sequence[Effect]) -> list[str]:
    """A sentence for every write of the watch in the ledger of the retries, which the last release reads, too, and for
    every write of theirs in the collection of the watch.
    """
    return [
        f"{effect.job}: {effect.delivery} wrote to a collection that is not its own (at {effect.at:.3f})"
        for effect in effects
        if isinstance(effect, Written)
        and effect.delivery
        and not is_run(effect.delivery)
        and is_watchs(effect.delivery) != isinstance(effect, Kept)
    ]


class _Judge:
    """What is known up to one moment of the run."""

    def __init__(self, interval: float, keep: float, settled_at: float) -> None:
        self.violations: list[str] = []
        self._interval = interval
        self._keep = keep
        self._settled_at = settled_at
        self._events: dict[str, StartedPublished] = {}
        self._of_job: dict[str, list[StartedPublished]] = defaultdict(list)
        self._delivered: dict[str, WatchDelivered] = {}
        self._entries: dict[str, Entry] = {}
        self._found: dict[str, str] = {}  # delivery → the credential that its job was watched with when it began
        self._written_at: dict[str, float] = defaultdict(lambda: _NEVER)
        self._safe_until: dict[str, float] = defaultdict(lambda: _NEVER)  # when an entry was last as _KEPT says
        self._deferred: set[str] = set()  # jobs that waited in the ledger of the retries
        self._answers: dict[str, LookAnswered | None] = {}  # by delivery that looked, the latest
        self._due: dict[str, float] = defaultdict(lambda: _NEVER)  # for when a job waits, by the formula
        self._looked_for: dict[str, list[float]] = defaultdict(list)  # those times, of each look that was due
        self._ended: dict[str, StateChanged] = {}
        self._told: dict[str, tuple[float, str]] = {}  # job → when first, and what
        self._asked_again: dict[str, float] = {}  # jobs with an event since they were UNKNOWN, and no end since that
        self._final: dict[str, set[str]] = defaultdict(set)  # job → of COMPLETE and CANCELLED
        self._published: set[str] = set()  # deliveries that have
        self._verdicts: dict[tuple[str, str], float] = {}
        self._settled: set[str] = set()  # messages
        self._dead: dict[str, float] = {}  # jobs whose only trace is a dead letter, and since when
        self._kept_at: dict[str, float] = defaultdict(lambda: _NEVER)  # when a job was last deferred
        self._known_again: dict[str, float] = {}  # jobs of which that is so no more, and since when
        self._wrong: dict[str, list[float]] = {}  # faults of ours → since when, and until when
        self._freezes = Freezes()

    def sees(self, effect: Effect) -> None:
        getattr(self, f"_sees_{type(effect).__name__}", _ignore)(effect)

    def _breaks(self, at: float, sentence: str) -> None:
        self.violations.append(f"{sentence} (at {at:.3f})")

    def _event(self, delivery: str) -> StartedPublished:
        return self._events[self._delivered[delivery].message]

    def _wait(self, age: float) -> float:
        return min(max(age / 2, self._interval), max(_LONGEST_WAIT, self._interval))

    # --- what comes in, and comes back ---

    def _sees_StartedPublished(self, effect: StartedPublished) -> None:
        earlier = self._of_job[effect.job]
        if effect.put_back_by:
            if effect.job not in self._entries:
                self._breaks(effect.at, f"{effect.job}: what was no watched job came back on the started topic")
            same = [event for event in earlier if abs(event.started_at - effect.started_at) < _ABOUT]
            if not effect.says_when or not same:
                self._breaks(effect.at, f"{effect.job}: its event came back without the time of its start")
            if not any(_is_copy(effect, event) for event in same):
                self._breaks(effect.at, f"{effect.job}: its event came back as another one")
        elif self._entries.get(effect.job, Entry()).state == "rejected":
            self._asked_again[effect.job] = effect.at
        self._events[effect.message] = effect
        earlier.append(effect)

    def _sees_EventPublished(self, effect: EventPublished) -> None:
        if effect.put_back_by and effect.job not in self._deferred:
            self._breaks(effect.at, f"{effect.job}: a look came back on the failed topic")

    def _sees_WatchDelivered(self, effect: WatchDelivered) -> None:
        self._delivered[effect.delivery] = effect
        self._found[effect.delivery] = self._entries.get(self._event(effect.delivery).job, Entry()).credential

    # --- the collection of the watch ---

    def _sees_Written(self, effect: Written) -> None:
        if effect.after.state == "deferred":
            self._deferred.add(effect.job)

    def _sees_Kept(self, effect: Kept) -> None:
        at, job, delivery, after = effect.at, effect.job, effect.delivery, effect.after
        if is_watchs(delivery):
            own, kept = self._event(delivery).credential, effect.before.kept if effect.before else ""
            if kept not in ("", own) and self._found[delivery] == own and delivery in self._answers:
                self._breaks(at, f"{job}: the event of {kept} that was kept is gone")
            if after.state == "deferred":
                self._check_wait(effect)
            elif delivery not in self._published:
                self._breaks(at, f"{job}: {after.reason or after.state} was written before anybody was told")
            else:
                self._asked_again.pop(job, None)
            if effect.before and effect.before.state == "ended":
                self._breaks(at, f"{job}: an end was overwritten")
            if not effect.is_kept_for(self._keep):
                self._breaks(at, f"{job}: the watch may forget it {after.kept_until - at:.0f} s later")
        elif effect.before and effect.before.state != after.state and at < effect.before.not_before:
            self._breaks(at, f"{job}: a look was put back {effect.before.not_before - at:.0f} s before its time")
        if effect.before and after.unknown != effect.before.unknown:
            self._breaks(at, f"{job}: the watch lost a field that this version does not know")
        if after.state == "deferred":
            self._kept_at[job] = at
            if job in self._dead:
                del self._dead[job]
                self._known_again[job] = at
        self._entries[job] = after
        self._written_at[job] = at
        if after.state in _KEPT:
            self._safe_until[job] = float("inf")
        elif self._safe_until[job] > at:
            self._safe_until[job] = at

    def _check_wait(self, effect: Kept) -> None:
        """It follows from the event, from the job's age, or from what Google asked for, until the job is given up."""
        delivery, until = effect.delivery, effect.after.not_before
        if effect.before and effect.before.not_before == until and delivery not in self._answers:
            return  # another credential's event waits in its place
        event, begun = self._event(delivery), self._delivered[delivery].at
        answer = self._answers.get(delivery)
        if delivery in self._answers and not self._may_go_on(answer, event, begun):
            said = "nothing" if answer is None else answer.state or answer.cause or "nothing"
            self._breaks(effect.at, f"{effect.job}: it waits for another look, and Google's word was {said}")
        if answer and answer.until:
            given_up_at = event.started_at + _GIVEN_UP
            earliest, latest = (min(until, given_up_at) for until in (answer.until - (effect.at - begun), answer.until))
        else:
            earliest, latest = (moment + self._wait(moment - event.started_at) for moment in (begun, effect.at))
        is_first = not event.put_back_by and not answer and abs(until - (event.at + self._interval)) < _ABOUT
        if not is_first and (effect.before is None or not earliest - _ABOUT <= until <= latest + _ABOUT):
            said = f"it waits until {until:.0f}, and it should until {earliest:.0f} to {latest:.0f}"
            self._breaks(effect.at, f"{effect.job}: {said}")
        if is_first or (begun >= self._due[effect.job] and not (answer and answer.until)):
            self._due[effect.job] = until
        else:  # Google has named the time, or a look that began before an earlier one was kept
            self._due.pop(effect.job, None)

    def _may_go_on(self, answer: LookAnswered | None, event: StartedPublished, begun: float) -> bool:
        """Whether a look at so young a job, with this answer, is followed by another one."""
        if answer and (answer.state or answer.until):
            return answer.state not in ENDS and begun - event.started_at < _GIVEN_UP
        is_refused = (answer and answer.cause) or any(
            credential == event.credential and at >= begun for (credential, _), at in self._verdicts.items()
        )
        return bool(is_refused) and begun - event.started_at < _NEW

    # --- looks: not before their time, and no more than the formula gives ---

    def _sees_LookSent(self, effect: LookSent) -> None:
        at, job, delivery = effect.at, effect.job, effect.delivery
        event, delivered = self._event(delivery), self._delivered[delivery]
        if effect.credential != (named := event.credential):
            self._breaks(at, f"{job}: a look carried a token of {effect.credential}, and its event names {named}")
        if effect.expired > 0 and at > self._freezes.thawed_at[delivered.instance] + AT_WORK:
            self._breaks(at, f"{job}: a look's access token had ended {effect.expired:.0f} s before it was sent")
        entry = self._entries.get(job, Entry())
        is_old = self._written_at[job] <= delivered.at
        is_answered = entry.state == "ended" or (entry.state == "deferred" and entry.not_before > at + _ABOUT)
        is_unknown = entry.state == "rejected" and entry.credential == named and event.at < self._written_at[job]
        if is_old and (is_answered or is_unknown):
            self._breaks(at, f"{job}: {delivery} looked though it was {entry.state}")
        self._answers[delivery] = None
        # neither a redelivery or a copy, nor the second of two after a 401, nor the second for one wait
        if event.put_back_by and delivery.endswith("#1") and self._due.get(job, _NEVER) > self._latest_due(job):
            self._looked_for[job].append(self._due[job])
            self._check_number(at, job)

    def _latest_due(self, job: str) -> float:
        return self._looked_for[job][-1] if self._looked_for[job] else _NEVER

    def _check_number(self, at: float, job: str) -> None:
        """The youngest of its events gives the most looks. Waits are longer than they should be, never shorter."""
        times, started_at = self._looked_for[job], max(event.started_at for event in self._of_job[job])
        most, due = 1, times[0]
        while (due := due + self._wait(due - started_at)) <= times[-1] + _ABOUT * len(times):
            most += 1
        if len(times) > most:
            self._breaks(at, f"{job}: it was looked at {len(times)} times, and the formula gives {most}")

    def _sees_LookAnswered(self, effect: LookAnswered) -> None:
        self._answers[effect.delivery] = effect

    def _sees_Verdict(self, effect: Verdict) -> None:
        self._verdicts[effect.credential, effect.cause] = effect.at

    # --- what comes out ---

    def _sees_EndTold(self, effect: EndTold) -> None:
        at, job, event = effect.at, effect.job, self._event(effect.delivery)
        self._tells(effect.delivery, at, effect.state)
        told = (effect.job, effect.root, effect.user, effect.credential, effect.attempt)
        if told != (event.job, event.root or event.job, event.user, event.credential, event.attempt):
            self._breaks(at, f"{job}: its end does not name job, chain and grant as they came")
        if not self._is_justified(effect, event):
            self._breaks(at, f"{job}: was told as {effect.state} {effect.cause}, which was not so")
        answer, begun = self._answers.get(effect.delivery), self._delivered[effect.delivery].at
        earliest, latest = (answer.exported,) * 2 if answer and answer.exported else (begun, at)
        if not earliest - _ABOUT <= effect.ended_at <= latest + _ABOUT:
            self._breaks(at, f"{job}: its end is told for {effect.ended_at:.3f}, and it was {earliest:.3f}")
        if effect.state in ("COMPLETE", "CANCELLED"):
            self._final[job].add(effect.state)
            if len(self._final[job]) > 1:
                self._breaks(at, f"{job}: was told as COMPLETE and as CANCELLED")
        elif effect.state != "UNKNOWN":
            self._breaks(at, f"{job}: its end is {effect.state}, which is no end")
        self._looked_for.pop(job, None)  # an event that comes after an UNKNOWN begins anew

    def _is_justified(self, effect: EndTold, event: StartedPublished) -> bool:
        answer, age = self._answers.get(effect.delivery), effect.at - event.started_at
        if effect.state != "UNKNOWN":
            return answer is not None and answer.state == effect.state and not effect.cause
        if not effect.cause:
            runs = answer is not None and bool(answer.state or answer.until) and answer.state not in ENDS
            return runs and age >= _GIVEN_UP
        begun = self._delivered[effect.delivery].at
        said = (answer and answer.cause == effect.cause) or (
            self._verdicts.get((event.credential, effect.cause), _NEVER) >= begun
        )
        return bool(said) and age >= _NEW

    def _sees_FailureTold(self, effect: FailureTold) -> None:
        at, delivery, event = effect.at, effect.delivery, self._event(effect.delivery)
        self._tells(delivery, at, "FAILED")
        answer, fields = self._answers.get(delivery), json.loads(effect.data)
        if not answer or answer.state != "FAILED":
            self._breaks(at, f"{event.job}: was told as FAILED, which was not so")
        names = (event.job, event.user, event.credential, event.root, event.attempt)
        told = tuple(fields.pop(name, default) for name, default in _FAILED_FIELDS.items())
        if fields or told != names or effect.attributes != "{}":
            self._breaks(at, f"{event.job}: what the watch put on the failed topic is not its failed event")

    def _sees_WatchRejection(self, effect: WatchRejection) -> None:
        event = self._event(effect.delivery)
        self._published.add(effect.delivery)
        if event.job or (effect.reason, effect.source) != ("MALFORMED_EVENT", "archive-job-started"):
            self._breaks(effect.at, f"{event.job or event.message}: the watch rejected it as {effect.reason}")
        if effect.event != event.data:
            self._breaks(effect.at, f"{event.message}: its rejection does not hold the event as it came")

    def _tells(self, delivery: str, at: float, state: str) -> None:
        self._published.add(delivery)
        self._told.setdefault(self._event(delivery).job, (at, state))

    # --- answers: what is acknowledged is durable, and faults are ours where they are ---

    def _sees_WatchAnswered(self, effect: WatchAnswered) -> None:
        at, delivered = effect.at, self._delivered[effect.delivery]
        begun, event = delivered.at, self._event(effect.delivery)
        if effect.bug:
            self._breaks(at, f"{effect.delivery}: raised {effect.bug}")
        elif effect.status == 500 and not self._was_ours(event, self._freezes.fetched_since(delivered.instance, begun)):
            self._breaks(at, f"{effect.delivery}: was answered with 500, though no fault was ours: {effect.outcome}")
        elif effect.status != 500 and self._is_ours(effect.delivery):
            self._breaks(at, f"{effect.delivery}: was answered with {effect.status}, and its look met a fault of ours")
        elif effect.status == 503 and begun > self._settled_at:
            self._breaks(at, f"{effect.delivery}: was put off, though nothing was wrong: {effect.outcome}")

    def _is_ours(self, delivery: str) -> bool:
        """Whether the answer to its look says so, and came while there was time."""
        answer, delivered = self._answers.get(delivery), self._delivered[delivery]
        stood_still = self._freezes.stood_still(delivered.instance, delivered.at)
        return answer is not None and answer.ours and not stood_still

    def _was_ours(self, event: StartedPublished, begun: float) -> bool:
        """An entry that cannot be read is a fault for its job alone, and a secret with no token for its credential."""
        return any(
            until + _FELT_FOR >= begun
            for what, (_, until) in self._wrong.items()
            if not what.startswith(("job-", "secret of "))
            or what in (f"{event.job} of the watch", f"secret of {event.credential}")
        )

    def _sees_Froze(self, effect: Froze) -> None:
        self._freezes.add(effect)

    def _sees_FaultOfOurs(self, effect: FaultOfOurs) -> None:
        self._wrong[effect.what] = [effect.at, float("inf") if effect.wrong else effect.at]

    def _sees_WatchAcked(self, effect: WatchAcked) -> None:
        self._settled.add(effect.message)
        event, begun = self._events[effect.message], self._delivered[effect.delivery].at
        if effect.delivery in self._published:
            return
        if self._safe_until[event.job] < begun:
            self._breaks(effect.at, f"{event.job or effect.message}: was acknowledged without a durable outcome")
        kept = self._entries.get(event.job, Entry()).kept
        if kept not in ("", event.credential) and self._written_at[event.job] < begun:
            self._breaks(effect.at, f"{event.job}: it waits without {effect.delivery}, which names another credential")

    def _sees_WatchDeadLettered(self, effect: WatchDeadLettered) -> None:
        self._settled.add(effect.message)
        event = self._events[effect.message]
        if event.at >= self._kept_at[event.job]:  # else what is kept puts the job's event back
            self._dead.setdefault(event.job, effect.at)

    def _sees_StateChanged(self, effect: StateChanged) -> None:
        self._ended[effect.job] = effect

    # --- the end: every end is told, and in time ---

    def sees_the_end(self) -> None:
        for message, event in self._events.items():
            if message not in self._settled:
                self._breaks(event.at, f"{message}: was neither acknowledged nor made a dead letter")
        is_ours_for_ever = any(until == float("inf") for _, until in self._wrong.values())
        for job, events in self._of_job.items():
            if not job:
                continue
            entry = self._entries.get(job, Entry())
            told_at = self._told[job][0] if job in self._told else float("inf")
            if job not in self._dead and (told_at == float("inf") or entry.state not in ("ended", "rejected")):
                self._breaks(events[-1].at, f"{job}: nobody was told of its end")
            elif job not in self._dead and job in self._asked_again:
                self._breaks(self._asked_again[job], f"{job}: nobody was told of its end after an UNKNOWN")
            elif not is_ours_for_ever and told_at < self._dead.get(job, float("inf")):
                self._check_time(job, events)

    def _check_time(self, job: str, events: Sequence[StartedPublished]) -> None:
        """Where it ended, or has to be given up, and the watch knew of it, and all was calm."""
        end = self._ended.get(job)
        ends_at = end.at if end else min(event.started_at for event in events) + _GIVEN_UP
        at, state = self._told[job]
        known_at = max(ends_at, self._known_again.get(job, events[0].at), self._settled_at)
        if state == "UNKNOWN":  # a refusal is no end in the first hour
            known_at = max(known_at, max(event.started_at for event in events) + _NEW)
        if at > known_at + _TOLD_WITHIN:
            self._breaks(at, f"{job}: it was told {at - known_at:.0f} s late that it was {state}")


def _is_copy(copy: StartedPublished, event: StartedPublished) -> bool:
    """Whether chain and grant are the same, and nothing is gone of what the event says."""
    told = [(one.user, one.credential, one.root, one.attempt) for one in (copy, event)]
    return told[0] == told[1] and copy.data.startswith(event.data[:-1])


def _ignore(effect: Effect) -> None:
    pass
