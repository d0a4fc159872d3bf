"""Google's portabilityArchiveState: how archive jobs end, and what it says of them until then.

https://developers.google.com/data-portability/reference/rest/v1/archiveJobs/getPortabilityArchiveState
"""

from typing import Any

import msgspec

from tests.simulation import faults
from tests.simulation.google import HELD_BACK, Answer, Google, Job, error, info, retry_info
from tests.simulation.grants import MARK
from tests.simulation.watch_record import LookAnswered, LookSent, StateChanged

PATH = "/portabilityArchiveState"
ENDS = ("FAILED", "COMPLETE", "CANCELLED")
_BEFORE = ("IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS", "STATE_UNSPECIFIED", "A_NEW_STATE", "", None)
_LIVES = (1.0, 300.0, 3000.0, 3000.0, 10_000.0, 50_000.0)  # seconds, at most
NEVER = float("inf")


class States(Google):
    """Google, with jobs that run and end."""

    def __init__(self, *args: Any, **said: Any) -> None:
        super().__init__(*args, **said)
        self._ends: dict[str, tuple[float, str]] = {}  # job → when, and how
        self._there_from: dict[str, float] = {}  # job → before then, Google does not find it
        self._looks: dict[str, LookAnswered] = {}

    def add_job(self, credential: str, *, parent: Job | None = None) -> Job:
        """A retry's job runs for a while. Of any other, `runs` or `has_failed` says so."""
        job = super().add_job(credential, parent=parent)
        if parent:
            self.runs(job)
        else:
            self._ends[job.name] = self._timeline.now, "FAILED"
        return job

    def has_failed(self, job: Job) -> None:
        """It had before the watch heard of it."""
        self._changes(job.name, "FAILED")

    def runs(self, job: Job, *, ends: bool = True) -> None:
        """From now on this job runs, until it ends or for ever."""
        rng, now = self._timeline.rng, self._timeline.now
        ends_at = now + rng.choice(_LIVES) * rng.random() if ends else NEVER
        state = "FAILED" if job.fails else rng.choice(("COMPLETE", "COMPLETE", "CANCELLED"))
        self._ends[job.name] = ends_at, state
        there_from = self._there_from[job.name] = now + 3000.0 * rng.random() if rng.random() < 0.2 else now
        if ends:
            self._timeline.after(max(ends_at, there_from) - now, self._changes, job.name, state)

    def _changes(self, job: str, state: str) -> None:
        self._record.add(StateChanged(self._timeline.now, job, state))

    # --- looks ---

    def sends_look(self, url: str, headers: dict[str, str]) -> tuple[str, str]:
        """An instance is about to look. Returns the look's name, and the access token."""
        job = url.partition("/v1/archiveJobs/")[2].removesuffix(PATH)
        delivery, bearer = self._delivery(), headers["Authorization"].removeprefix("Bearer ")
        look = f"{delivery}/{len(self._looks) + 1}"
        self._looks[look] = LookAnswered(0.0, look, delivery, job)
        said = self._grants.credential_of(bearer), self._grants.expired_for(bearer)
        self._record.add(LookSent(self._timeline.now, look, delivery, job, *said))
        return look, bearer

    def looked(self, look: str, *, answered: bool) -> None:
        known = self._looks[look]
        said = (known.state, known.cause, known.until, known.ours, known.exported) if answered else ()
        self._record.add(LookAnswered(self._timeline.now, look, known.delivery, known.job, *said))

    def state(self, look: str, bearer: str, trouble: str) -> Answer:
        """The look arrives."""
        known = self._looks[look]
        if trouble == faults.FOREIGN:
            status, body = self._foreign("portability")
            is_state = status == 200 and body.startswith(b"{")  # as Google says it of a job without a state
            ours = not is_state and status not in (408, 429) and status < 500
            state = "none" if is_state else ""
            self._looks[look] = LookAnswered(0.0, look, known.delivery, known.job, state, ours=ours)
            return status, body
        said, (status, content) = self._state(known.job, bearer, trouble)
        self._looks[look] = LookAnswered(0.0, look, known.delivery, known.job, **said)
        if status >= 400 and self._timeline.rng.random() < 0.2:
            content = [content]
        return status, msgspec.json.encode(content)

    def _state(self, name: str, bearer: str, trouble: str) -> tuple[dict[str, Any], tuple[int, Any]]:
        """What it means, and the answer."""
        rng, now = self._timeline.rng, self._timeline.now
        if trouble in (faults.BROKEN, faults.BROKEN_AFTER):
            return {}, self._break()[1:]
        if self._grants.is_account_closed(bearer):
            closed = self._say("unauthorized", 401, "UNAUTHENTICATED", *info("ACCOUNT_STATE_INVALID", "googleapis.com"))
            return {"cause": "ACCOUNT_STATE"}, closed[1:]
        if trouble == faults.UNAUTHORIZED or not self._grants.accepts(bearer):
            return {}, self._say("unauthorized", 401, "UNAUTHENTICATED")[1:]
        if self._faults.is_wrong("portability"):
            return {"ours": True}, self._our_fault()[1:]
        if trouble == faults.HELD_BACK or (now < self._faults.calm_at and rng.random() < 0.03):
            return self._held_back()
        job = self.jobs.get(name)
        if job is None or job.nature == "not found" or now < self._there_from.get(name, 0.0):
            return {"cause": "JOB_NOT_FOUND"}, self._say("refused", 404, "NOT_FOUND", *self._of_the_api())[1:]
        credential = self._grants.credential_of(bearer)
        if credential != job.credential or (job.nature == "denied" and self._grants.serial(credential) == job.consent):
            return {"cause": "ACCESS_DENIED"}, self._say("refused", 403, "PERMISSION_DENIED")[1:]
        if job.nature == "not retryable":
            invalid = self._say("refused", 400, "INVALID_ARGUMENT", *self._of_the_api())
            return {"cause": "JOB_NOT_RETRYABLE"}, invalid[1:]
        ends_at, end = self._ends[name]
        state = end if now >= ends_at else rng.choice(_BEFORE)
        self.seen.add(("state", 200, state or "none"))
        content: dict[str, Any] = {
            "name": f"archiveJobs/{name}{PATH}",
            "state": state,
            "startTime": "2026-11-23T18:00:00Z",
        }
        if state == "COMPLETE":
            content["urls"] = [
                f"https://storage.googleapis.com/{MARK}{name}/{n}?X-Goog-Signature={MARK}url" for n in "12"
            ]
            content |= {"exportTime": "2026-11-23T18:00:00.5Z"} if rng.random() < 0.5 else {}
        said = {"state": state or "none", "exported": 0.5 * ("exportTime" in content)}
        return said, (200, {key: value for key, value in content.items() if value is not None})

    def _held_back(self) -> tuple[dict[str, Any], tuple[int, Any]]:
        """For now, or for longer than Pub/Sub waits by itself."""
        rng, now = self._timeline.rng, self._timeline.now
        status, code, reason = rng.choice(HELD_BACK)
        if rng.random() < 0.5:
            return {}, self._say("held back", status, code, *info(reason, "googleapis.com"))[1:]
        left = float(rng.randrange(700, 3000))
        details = (*info(reason, "googleapis.com"), retry_info(left))
        return {"until": now + left}, (status, error(status, code, *details))
