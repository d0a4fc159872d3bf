"""The demo's failed jobs: what the world does to each, what is promised for it, and what became of it."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from local import google_errors
from local.scripted import Answer, Drop
from local.stage import REFRESH_TOKEN_PREFIX, RETRY, Stage
from local.topics import STARTED, WATCH_DEAD, Published

BUDGET = 3  # retries of one chain of jobs: what Google allows, and the function's default
COOLDOWN_SECONDS = 5.0  # Google's own lasts a day
ONE_USER = "one-user"
_CHAIN = "keeps-failing"
_ADOPTED = "the-job-that-runs-already"
_WATCHED = ("started-once", "its-first-retry", "its-second-retry")  # a started job, and those that its retries make
_ACKNOWLEDGED = frozenset({"retried", "rejected", "deferred"})


@dataclass(frozen=True, slots=True)
class Promise:
    """What has to come of an event: its outcome, and exactly so many calls to archiveJobs.retry."""

    outcome: str  # retried, rejected or deferred; complete, of a watched job
    calls: int
    reason: str = ""
    new_job_id: str = ""  # where it is not for Google to choose


@dataclass(slots=True)
class Event:
    """One failed job. The id of a job that a retry made is known when that is."""

    name: str
    promise: Promise
    job_id: str = ""
    user: str = ""
    copies: int = 1
    message_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Story:
    """What has become of an event so far."""

    deliveries: int
    calls: int
    outcome: str  # in words
    settled: bool  # nothing more has to happen
    faults: list[str]  # what is not as promised, as things stand


class Events:
    """All events of the demo on one stage. `resumes`: a deferred job is put back when its time has come, and a started
    one is watched.
    """

    def __init__(self, stage: Stage, *, resumes: bool) -> None:
        self._stage = stage
        self._functions_with_tokens = 2 if resumes else 1
        self.all = list(_events(Promise("retried", 2) if resumes else Promise("deferred", 1)))
        if resumes:
            self.all.append(Event(_WATCHED[0], Promise("complete", 2), job_id=_WATCHED[0], user=_WATCHED[0]))
        self._chain = [event for event in self.all if event.name.startswith("└")]

    async def publish(self) -> None:
        """Set the world up, and let all of it happen."""
        google = self._stage.google
        self._tokens = tokens = {
            user: self._stage.add_user(user) for user in {event.user for event in self.all if event.user}
        }
        google.revoke(tokens["consent-revoked"])
        google.script_token(tokens["token-endpoint-down"], [Answer(503, b"<html>Service Unavailable</html>")])
        google.script_retry("503-twice", [google_errors.unavailable()] * 2)
        google.script_retry("connection-dropped", [Drop()])
        google.script_retry("409-runs-already", [google_errors.already_exists(_ADOPTED)])
        google.script_retry("429-cooldown", google_errors.cools_down(COOLDOWN_SECONDS))
        google.states |= dict(zip(_WATCHED, ("FAILED", "FAILED", "COMPLETE"), strict=True))
        for job, new in itertools.pairwise(_WATCHED):
            google.script_retry(job, [Answer(200, {"archiveJobId": new})])
        for event in self.all:
            later = event in self._chain or event.name == _WATCHED[0]
            for _ in range(0 if later else event.copies):
                content = {"archiveJobId": event.job_id, "userId": event.user} if event.user else b"{not even JSON"
                event.message_ids.append(await self._stage.publish(content))

    async def start(self) -> None:
        """Say once that the watched job has started."""
        event = self.all[-1]
        started = {"archiveJobId": event.job_id, "userId": event.user}
        event.message_ids.append(await self._stage.publish(started, topic=STARTED))

    async def watch(self) -> None:
        """Be the product's watcher: each retry of the chain fails too, and its follow-up is the event that says so."""
        for event in self._chain:
            follow_up = await self._next_of_chain()
            event.job_id = follow_up.data["archiveJobId"]
            event.message_ids.append(await self._stage.publish(follow_up.raw, **follow_up.attributes))

    async def _next_of_chain(self) -> Published:
        known = {event.job_id for event in self._chain}
        while True:
            for follow_up in self._stage.follow_ups:
                if follow_up.data["rootArchiveJobId"] == _CHAIN and follow_up.data["archiveJobId"] not in known:
                    return follow_up
            await asyncio.sleep(0.05)

    def story(self, event: Event) -> Story:
        """What has become of this event, told from what came out and from what Google was asked."""
        if event.name == _WATCHED[0]:
            return self._story_of_watched(event)
        stage, promise = self._stage, event.promise
        ids = {event.job_id, *event.message_ids} - {""}
        retry_lines = [line for server in stage.servers if server.target == RETRY for line in server.deliveries]
        lines = [line for line in retry_lines if {line.get("messageId"), line.get("archiveJobId")} & ids]
        follow_ups = [message for message in stage.follow_ups if message.attributes.get("dedupKey") in ids]
        rejections = [message for message in stage.rejections if message.attributes.get("dedupKey") in ids]
        calls = len(stage.google.retries(event.job_id)) if event.job_id else 0
        new_jobs = {message.data["archiveJobId"] for message in follow_ups}
        reasons = {message.data["reason"] for message in rejections}
        acknowledged = sum(line["outcome"] in _ACKNOWLEDGED for line in lines)
        outcome, words = _told(lines, new_jobs, reasons)
        ended = bool(outcome) and (outcome != "deferred" or promise.outcome == "deferred")
        settled = ended and acknowledged >= len(event.message_ids) > 0
        faults = []
        if outcome != promise.outcome or (promise.reason and reasons != {promise.reason}):
            faults.append(f"{promise.outcome} {promise.reason}".strip() + " was promised")
        if calls != promise.calls:
            faults.append(f"{calls} calls to Google instead of {promise.calls}")
        if len(new_jobs) > 1 or (new_jobs and reasons):
            faults.append("more than one outcome came out")
        if any(job != promise.new_job_id and stage.google.new_jobs.get(job) != event.job_id for job in new_jobs):
            faults.append("a follow-up names a job that Google did not give")
        if lines and not settled:
            faults.append(f"not over; the function said last: {_first_line(lines[-1])}")
        words = words or ("published" if event.message_ids else "")
        return Story(len(lines), calls, words, settled, faults)

    def _story_of_watched(self, event: Event) -> Story:
        """Every step of the chain, up to the ended event."""
        stage = self._stage
        lines = [line for line in stage.deliveries if line.get("archiveJobId") in _WATCHED]
        found_failed = {line["archiveJobId"] for line in lines if line["outcome"] == "failed"}
        retried = {message.data["retriedArchiveJobId"] for message in stage.follow_ups}
        ended = {(message.data["archiveJobId"], message.data["state"].lower()) for message in stage.ended}
        steps: list[str] = []
        for job in _WATCHED:
            steps += ["failed"] * (job in found_failed) + ["retried"] * (job in retried)
            steps += sorted(state for of, state in ended if of == job)
        promised = [*["failed", "retried"] * event.promise.calls, event.promise.outcome]
        calls = sum(len(stage.google.retries(job)) for job in _WATCHED)
        faults = [f"{' → '.join(promised)} was promised"] * (steps != promised)
        if calls != event.promise.calls:
            faults.append(f"{calls} calls to Google instead of {event.promise.calls}")
        words = " → ".join(steps) or ("published" if event.message_ids else "")
        return Story(len(lines), calls, words, steps == promised, faults)

    def faults(self) -> list[str]:
        """All that is not as promised, as things stand."""
        faults = [f"{event.name}: {fault}" for event in self.all for fault in self.story(event).faults]
        stage = self._stage
        accesses = len(stage.secrets.accesses_to(REFRESH_TOKEN_PREFIX + ONE_USER))
        refreshes = len(stage.google.refreshes(self._tokens[ONE_USER]))
        most = self._functions_with_tokens
        if not (1 <= accesses <= most and 1 <= refreshes <= most):
            said = f"{ONE_USER}: {accesses} secret accesses and {refreshes} token refreshes"
            faults.append(f"{said} instead of one each for each function")
        if dead := len(stage.dead_letters) + len(stage.arrived[WATCH_DEAD]):
            faults.append(f"{dead} dead letters")
        return faults


def _told(lines: list[dict[str, Any]], new_jobs: set[str], reasons: set[str]) -> tuple[str, str]:
    """The outcome so far, and in words. A message that came out counts for more than what the function says."""
    deferred = [str(line.get("notBefore")) for line in lines if line["outcome"] == "deferred"]
    if reasons:
        return "rejected", f"rejected: {' and '.join(sorted(reasons))}"
    if new_jobs:
        return "retried", f"{'deferred, then ' if deferred else ''}→ {' and '.join(sorted(new_jobs))}"
    if deferred:
        return "deferred", f"deferred until {deferred[-1][:19]}Z"
    return "", f"not yet: {_first_line(lines[-1])}" if lines else ""


def _first_line(logged: dict[str, Any]) -> str:
    """Of what the function wrote; a traceback may follow it."""
    return str(logged.get("message")).partition("\n")[0]


def _events(cooled_down: Promise) -> Iterator[Event]:
    def simple(name: str, promise: Promise, copies: int = 1) -> Event:
        return Event(name, promise, job_id=name, user=name, copies=copies)

    retried = Promise("retried", 1)
    yield simple("all-goes-well", retried)
    yield simple("delivered-twice", retried, copies=2)
    yield simple("token-endpoint-down", retried)
    yield simple("503-twice", Promise("retried", 3))
    yield simple("connection-dropped", Promise("retried", 2))
    yield simple("consent-revoked", Promise("rejected", 0, "REAUTHORIZATION_REQUIRED"))
    yield simple("409-runs-already", Promise("retried", 1, new_job_id=_ADOPTED))
    yield simple("429-cooldown", cooled_down)
    yield Event("malformed", Promise("rejected", 0, "MALFORMED_EVENT"))
    yield simple(_CHAIN, retried)
    for number in range(1, BUDGET):
        yield Event(f"└ its retry no. {number}", retried)
    yield Event(f"└ its retry no. {BUDGET}", Promise("rejected", 0, "RETRY_BUDGET_EXHAUSTED"))
    for number in range(1, 11):
        name = f"{ONE_USER}-job-{number:02}"
        yield Event(name, retried, job_id=name, user=ONE_USER)
