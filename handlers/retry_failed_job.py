"""The use case: one delivery of a failed archive job in, one outcome out.

parse ─► the event's own age and attempt ─► look (where the ledger may know the job) ─► parked doubt, budget
─► access token ─► claim ─► archiveJobs.retry ─► record ─► publish

The access token is there before the claim: a delivery that waits for it holds nothing that could lapse.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from handlers.announcer import Announcer, reject_malformed
from handlers.domain.answers import AlreadyRunning, Answer, Cooldown, NewJob, NotSent, OutcomeUnknown, Unauthorized
from handlers.domain.decisions import Decision, RetryPolicy, decide, event_to_keep
from handlers.domain.events import Delivery, JobEvent, MalformedEvent, parse_failed
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import (
    Misconfigured,
    Outcome,
    Rejection,
    Retried,
    RetryLater,
    StepError,
    Throttled,
    Transient,
)
from handlers.ledger import CLOCK_SKEW, Claim, Claimable, LeaseLost, Ledger, NoCallNeeded, NotYet
from handlers.ports import AccessToken, Portability, Publisher, Tokens, VersionedEntry
from handlers.steps import (
    ANSWERED,
    CLAIMED,
    PREPARED,
    PUBLISHED,
    RECORDED,
    SENT,
    WRITE_SECONDS,
    Deadlines,
    send_with_token,
)
from handlers.telemetry.logging import LogLine, log


class RetryFailedJob(Struct, frozen=True, kw_only=True):
    """The use case with its parts. `deadline` is in seconds, for one delivery."""

    policy: RetryPolicy
    deadline: float
    ledger: Ledger
    tokens: Tokens
    portability: Portability
    retried: Publisher
    rejected: Publisher
    now: Callable[[], datetime]
    new_owner: Callable[[], str]
    shutting_down: Callable[[], bool]

    async def __call__(self, delivery: Delivery, line: LogLine) -> Outcome:
        """Bring one delivery to its outcome. Raises StepError; any other exception is a bug."""
        deadlines = Deadlines(self.deadline, line)
        line.bind(republished=False, calls=0, callsUnknown=0)
        try:
            job = parse_failed(delivery.data, delivery.published_at)
        except MalformedEvent as error:
            return await reject_malformed(error, delivery, self.rejected, deadlines, now=self.now())
        return await _JobRetry(self, delivery, job, deadlines).outcome()


class _JobRetry:
    """One delivery of a well-formed event."""

    def __init__(self, use_case: RetryFailedJob, delivery: Delivery, job: JobEvent, deadlines: Deadlines) -> None:
        self._use_case = use_case
        self._delivery = delivery
        now = use_case.now()
        if job.failed_at and job.failed_at > now + CLOCK_SKEW:  # a time far ahead would never be too long ago
            job = replace(job, failed_at=min(job.published_at or now, now), tells_time=False)
        self._job = job
        self._deadlines = deadlines
        self._announcer = Announcer(delivery, deadlines, use_case.ledger, use_case.retried, use_case.rejected)
        self._step = deadlines.step
        self._line = deadlines.line
        self._line.bind(archiveJobId=job.job_id, userId=job.user_id, credentialId=job.credential_id)

    async def outcome(self) -> Outcome:
        use_case, job, policy = self._use_case, self._job, self._use_case.policy
        looked: Claimable | None = None
        by_ledger: Rejection | None = None
        by_event = policy.judge_age(job, use_case.now()) or policy.judge_retries(job.retries_before)
        # any other first delivery claims at once: no retry has made its job, so the ledger does not know it
        if by_event or self._delivery.delivery_attempt != 1 or job.retries_before or policy.park_ambiguous:
            found = await self._step("look", PREPARED, use_case.ledger.look(job))
            if not isinstance(found, Claimable):
                return await self._without_call(found, "look", by_event)
            looked, by_ledger = found, policy.judge_entry(found.entry)
            if by_event:
                return await self._reject_event(looked.entry, by_event)
        token = None if by_ledger else await self._token()
        claim = await self._claim(looked)
        if not isinstance(claim, Claim):
            return await self._without_call(claim, "claim")
        decision = await self._decide(claim, token)
        recorded = await self._record(claim, decision)
        return decision.nack or await self._announce_first(recorded)

    async def _without_call(
        self, found: NotYet | NoCallNeeded, step: str, by_event: Rejection | None = None
    ) -> Outcome:
        """What another delivery has done, or does. `by_event`: why this event is rejected where its job waits."""
        if isinstance(found, NotYet):
            self._line.failed(step)
            return RetryLater(found.detail)
        entry, job = found.found.entry, self._job
        merged = entry.merged(job)
        if entry.state == "deferred" and by_event:
            return await self._reject_event(merged, by_event)
        if entry.state == "deferred" and merged != entry:
            if not entry.is_of(job):
                data, attributes = event_to_keep(self._delivery, job, self._use_case.now())
                merged = replace(merged, event=data, attributes=attributes)
            replaced = await self._step("record", PUBLISHED, self._use_case.ledger.replace_kept(found.found, merged))
            return await self._announcer.announce(replaced)
        # a message that comes again was not acknowledged: whoever decided did not get that published
        self._line.bind(republished=self._delivery.delivery_attempt <= 1)
        return await self._announcer.announce(found.found)

    async def _reject_event(self, entry: LedgerEntry, by_event: Rejection) -> Outcome:
        """For its age, a parked doubt or the budget, in this order. That leaves no trace in the ledger."""
        policy, now = self._use_case.policy, self._use_case.now()
        rejection = policy.judge_age(self._job, now) or policy.judge_entry(entry) or by_event
        return await self._announcer.reject(replace(entry.rejected(rejection), updated_at=now))

    async def _token(self) -> AccessToken | Rejection:
        tokens, credential_id = self._use_case.tokens, self._job.credential_id
        cached = tokens.cached(credential_id)
        self._line.bind(tokenCached=cached is not None)
        if cached:
            return cached
        return await self._step("token", PREPARED, tokens.get(credential_id))

    async def _claim(self, looked: Claimable | None) -> Claim | NotYet | NoCallNeeded:
        ledger, job = self._use_case.ledger, self._job
        if self._use_case.shutting_down():
            self._line.failed("claim")
            raise Transient("the instance is shutting down: no job is claimed any more")
        owner = self._use_case.new_owner()
        try:
            claim = await self._step("claim", CLAIMED, ledger.claim(job, owner, looked))
        except Throttled:
            raise
        except Exception:
            with suppress(StepError):  # where that fails too, the claim lapses and counts as a call in doubt
                withdrawn = ledger.withdraw(job, owner)
                await self._step("withdraw", PUBLISHED, withdrawn, at_least=WRITE_SECONDS, decides=False)
            raise
        if isinstance(claim, Claim):
            self._line.bind(attempt=claim.entry.retries_used, rootArchiveJobId=claim.entry.root_job_id)
            self._line.count("callsUnknown", claim.lapsed)
        return claim

    async def _decide(self, claim: Claim, token: AccessToken | Rejection | None) -> Decision:
        """Decide, and call Google if that is the decision."""
        entry, policy = claim.entry, self._use_case.policy
        if known := policy.judge_entry(entry):
            return Decision(entry.rejected(known))
        if token is None:
            self._line.failed("claim")
            return Decision(entry.released(), RetryLater("the ledger's entry has changed meanwhile"))
        if isinstance(token, Rejection):
            self._line.failed("token")
            return Decision(entry.rejected(token))
        try:
            answer = await self._call(claim, token)
        except Exception:  # nothing was carried out
            await self._release_claim(claim, entry.released())
            raise
        return decide(answer, entry, policy, self._job, self._delivery)

    async def _call(self, claim: Claim, token: AccessToken) -> Answer:
        """archiveJobs.retry, once more only where that cannot be a second retry. What it raises was not carried out."""
        send, tokens = partial(self._send, claim), self._use_case.tokens
        answer: Answer = await send_with_token(send, token, claim.entry.credential_id, tokens, self._deadlines)
        if not isinstance(answer, NewJob | AlreadyRunning | Cooldown):
            self._line.fields.setdefault("failedStep", "retry")
        return answer

    async def _send(self, claim: Claim, token: AccessToken) -> Answer | Unauthorized:
        if self._use_case.shutting_down():
            return NotSent("the instance is shutting down: no call to Google is begun any more")
        if self._deadlines.seconds_left(SENT) <= 0:  # its answer would come too late
            return NotSent("no time was left for the call to Google: the instance was CPU-throttled")
        seconds = self._deadlines.seconds_left(ANSWERED)
        job_id, now = claim.entry.job_id, claim.stored.written_at
        retry = self._use_case.portability.retry(job_id, token=token.value, seconds=seconds, now=now)
        answer: Answer | Unauthorized
        try:
            answer = await self._step("retry", ANSWERED, retry)
        except Transient as late:
            answer = OutcomeUnknown(str(late))
        except Exception as bug:  # before or after the request was sent: it counts
            answer = OutcomeUnknown(f"unexpected {type(bug).__name__} in archiveJobs.retry: a bug", ours=True)
            log.exception(answer.detail)
        self._line.count("calls", not isinstance(answer, NotSent))
        self._line.count("callsUnknown", isinstance(answer, OutcomeUnknown))
        return answer

    async def _record(self, claim: Claim, decision: Decision) -> VersionedEntry:
        entry = decision.entry
        if entry.new_job_id:
            self._line.bind(newArchiveJobId=entry.new_job_id)  # logged even if recording fails
        try:
            return await self._step("record", PUBLISHED, self._recorded(claim, entry), at_least=WRITE_SECONDS)
        except LeaseLost:
            raise Transient("another delivery has taken the claim over: Google's answer is not recorded") from None
        except Transient:
            raise
        except Exception:  # perhaps this very entry cannot be stored
            counts = entry.new_job_id or entry.calls_made > claim.entry.calls_made
            in_doubt = claim.entry.in_doubt("Google's answer could not be recorded")
            await self._release_claim(claim, in_doubt if counts else claim.entry.released())
            raise

    async def _recorded(self, claim: Claim, entry: LedgerEntry) -> VersionedEntry:
        """Nobody else knows a new job: what is a fault of ours, and may pass, is tried again."""
        while True:
            try:
                return await self._use_case.ledger.record(claim, entry)
            except Misconfigured:
                if not entry.new_job_id or self._deadlines.seconds_left(RECORDED) <= 0:
                    raise
            await asyncio.sleep(0.5)

    async def _release_claim(self, claim: Claim, entry: LedgerEntry) -> None:
        """End the claim. Where that fails it lapses by itself, and counts as a call in doubt."""
        with suppress(LeaseLost, StepError):
            released = self._use_case.ledger.record(claim, entry)
            await self._step("release", PUBLISHED, released, at_least=WRITE_SECONDS, decides=False)

    async def _announce_first(self, recorded: VersionedEntry) -> Outcome:
        outcome = await self._announcer.announce(recorded)
        failed_at = self._job.failed_at
        if isinstance(outcome, Retried) and failed_at and not recorded.entry.reason:
            # `reason` stays from a cooldown or a rejection: such a delay is not ours. Both times are Google's, but for
            # a producer's own failedAt, whose clock may be ahead.
            seconds = (recorded.written_at - failed_at).total_seconds()
            self._line.bind(delaySeconds=max(0.0, round(seconds, 3)))
        return outcome
