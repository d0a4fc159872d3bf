"""The watch: one delivery of a started event, or of a follow-up, in; a look at the job, and its end out.

parse ─► found in the watch's collection? ─ no ─► keep the event for the first look
                      │ yes, its time has come
                      └► access token ─► portabilityArchiveState ─┬► FAILED: failed event
                                                                  ├► COMPLETE, CANCELLED: ended event
                                                                  └► else: keep the event for the next look

A look changes nothing at Google, so it needs no claim: two at once are harmless.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from handlers.announcer import reject_malformed
from handlers.domain.answers import Answer, Cooldown, JobState, Unauthorized
from handlers.domain.decisions import event_to_keep
from handlers.domain.events import Delivery, JobEvent, MalformedEvent, encode, known_fields, parse_started, timestamp
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.messages import ArchiveJobEnded
from handlers.domain.outcomes import Ended, Fault, Outcome, Rejection, RetryLater, Watching
from handlers.ledger import CLOCK_SKEW, Claimable, Ledger, NotYet
from handlers.ports import AccessToken, JobStates, Publisher, Tokens, VersionedEntry
from handlers.steps import ANSWERED, PREPARED, PUBLISHED, Deadlines, send_with_token
from handlers.telemetry.logging import LogLine

_LONGEST_WAIT = timedelta(minutes=50)
_NEW = timedelta(hours=1)  # while a job is so young, nobody can be sure that it is not there
_GIVEN_UP = timedelta(days=15)  # an archive lives 14 days
_ENDS = ("FAILED", "COMPLETE", "CANCELLED")
_SOURCE = "archive-job-started"


class WatchJob(Struct, frozen=True, kw_only=True):
    """The use case with its parts. `interval` is the least time between two looks, `deadline` in seconds."""

    interval: timedelta
    deadline: float
    ledger: Ledger
    tokens: Tokens
    states: JobStates
    failed: Publisher
    ended: Publisher
    rejected: Publisher
    now: Callable[[], datetime]

    async def __call__(self, delivery: Delivery, line: LogLine) -> Outcome:
        """Bring one delivery to its outcome. Raises StepError; any other exception is a bug."""
        deadlines = Deadlines(self.deadline, line)
        try:
            job = parse_started(delivery.data, delivery.published_at)
        except MalformedEvent as error:
            return await reject_malformed(error, delivery, self.rejected, deadlines, now=self.now(), source=_SOURCE)
        return await _Look(self, delivery, job, deadlines).outcome()

    def wait(self, age: timedelta) -> timedelta:
        """From one look to the next: half of the job's age, within bounds."""
        return min(max(age / 2, self.interval), max(_LONGEST_WAIT, self.interval))


class _Look:
    """One delivery of a well-formed event."""

    def __init__(self, use_case: WatchJob, delivery: Delivery, job: JobEvent, deadlines: Deadlines) -> None:
        self._use_case = use_case
        self._delivery = delivery
        self._came_at = min(job.published_at or use_case.now(), use_case.now() + CLOCK_SKEW)
        if job.started_at and job.started_at > self._came_at:  # a time far ahead would be looked at for ever
            job = replace(job, started_at=self._came_at, tells_time=False)
        self._job = job
        self._deadlines = deadlines
        self._step = deadlines.step
        self._line = deadlines.line
        self._line.bind(archiveJobId=job.job_id, userId=job.user_id, credentialId=job.credential_id)
        self._line.bind(attempt=job.retries_before, rootArchiveJobId=job.root_job_id or job.job_id)

    async def outcome(self) -> Outcome:
        known = await self._step("look", PREPARED, self._use_case.ledger.look(self._job))
        if isinstance(known, NotYet):
            return RetryLater(known.detail)
        if isinstance(known, Claimable):
            first = self._came_at + self._use_case.interval
            return await (self._look(known.found) if known.found else self._keep(None, known.entry, first))
        entry = known.found.entry
        if not entry.not_before:
            return Ended(entry.reason, entry.cause)  # published before it was written
        if not entry.is_of(self._job):  # the latest credential is the one to look with
            kept = self._kept(entry, entry.not_before)
            await self._step("record", PUBLISHED, self._use_case.ledger.replace_kept(known.found, kept))
        return Watching(entry.not_before)

    async def _look(self, found: VersionedEntry) -> Outcome:
        """The job's age is measured on the store's clock."""
        age = found.read_at - (self._job.started_at or found.written_at)
        answer = await self._state(found.read_at)
        state, ended_at, cause = "", found.read_at, ""
        if not isinstance(answer, JobState | Rejection | Cooldown):
            self._line.failed("state")
        match answer:
            case RetryLater() | Fault():
                return answer
            case JobState(said, export_time):
                state = said if said in _ENDS else ""
                ended_at = export_time or ended_at
            case Rejection(reason, _, cause):
                state, cause = "" if age < _NEW else "UNKNOWN", cause or reason
            case Cooldown(until) if age < _GIVEN_UP:
                return await self._keep(found, found.entry, min(until, found.read_at + _GIVEN_UP - age))
            case Cooldown():
                state = "UNKNOWN"
            case _:
                return RetryLater("no answer to the look")
        if not state and age >= _GIVEN_UP:
            state = "UNKNOWN"
        if not state:
            return await self._keep(found, found.entry, found.read_at + self._use_case.wait(age))
        await self._publish(state, cause, ended_at)
        entry = found.entry.merged(self._job).ended(state, cause)
        await self._step("record", PUBLISHED, self._use_case.ledger.keep(self._job, found, entry))
        return Ended(state, cause)

    async def _state(self, now: datetime) -> JobState | Answer:
        tokens, job = self._use_case.tokens, self._job
        token = await self._step("token", PREPARED, tokens.get(job.credential_id))
        if isinstance(token, Rejection):
            self._line.failed("token")
            return token

        async def send(token: AccessToken) -> JobState | Answer | Unauthorized:
            seconds = self._deadlines.seconds_left(ANSWERED)
            asked = self._use_case.states.state(job.job_id, token=token.value, seconds=seconds, now=now)
            return await self._step("state", ANSWERED, asked)

        return await send_with_token(send, token, job.credential_id, tokens, self._deadlines)

    async def _publish(self, state: str, cause: str, ended_at: datetime) -> None:
        job = self._job
        if state == "FAILED":
            await self._step("publish", PUBLISHED, self._use_case.failed.publish(known_fields(job), {}))
            return
        event = ArchiveJobEnded(
            archive_job_id=job.job_id,
            root_archive_job_id=job.root_job_id or job.job_id,
            user_id=job.user_id,
            credential_id=job.credential_id,
            attempt=job.retries_before,
            state=state,
            cause=cause,
            ended_at=timestamp(ended_at),
        )
        published = self._use_case.ended.publish(encode(event), event.message_attributes())
        await self._step("publish", PUBLISHED, published)

    async def _keep(self, found: VersionedEntry | None, entry: LedgerEntry, until: datetime) -> Outcome:
        kept = self._kept(entry, until)
        await self._step("record", PUBLISHED, self._use_case.ledger.keep(self._job, found, kept))
        return Watching(until)

    def _kept(self, entry: LedgerEntry, until: datetime) -> LedgerEntry:
        now = self._use_case.now()
        job = replace(self._job, started_at=self._job.started_at or now)
        return entry.merged(self._job).deferred(until, *event_to_keep(self._delivery, job, now))
