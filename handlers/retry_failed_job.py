"""The use case: one delivery of a failed archive job in, one outcome out.

parse ─► claim in the ledger ┐
         access token        ┘ at the same time ─► archiveJobs.retry ─► record the answer ─► publish ─► done
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from msgspec import Struct, field

from handlers.delivery import Delivery
from handlers.draining import Draining
from handlers.entries import Entry
from handlers.events import (
    ArchiveJobFailed,
    ArchiveJobRetried,
    MalformedEvent,
    RetryRejected,
    encode,
    parse_failed,
)
from handlers.ledger import Claim, Held, Kept, Ledger, Settled, Superseded
from handlers.outcomes import (
    Deferred,
    Misconfigured,
    NotNow,
    Outcome,
    Reason,
    Refused,
    Rejected,
    Retried,
    Throttled,
    Unavailable,
    put_off,
)
from handlers.ports import (
    AccessToken,
    Answer,
    Cooldown,
    NeverSent,
    NewJob,
    Portability,
    Publisher,
    TokenRefused,
    Tokens,
    Unknown,
    Verdict,
)
from handlers.telemetry import Journal, log

_T = TypeVar("_T")


# By when each step of a delivery has to be over, as shares of its deadline: what has to be there before the call; what
# is put right once it was in vain, a claim given up or another token; and so on. The call to Google is begun only while
# there is time left for its answer, to record it and to publish it.
PREPARED, MENDED, ANSWERED, RECORDED, PUBLISHED = 3 / 9, 5 / 9, 7 / 9, 8 / 9, 1.0


class Rules(Struct, frozen=True, kw_only=True):
    """What the settings say about retrying. `deadline` is in seconds, for one delivery."""

    budget: int
    event_max_age: timedelta
    park_ambiguous: bool
    deadline: float

    def forbids(self, *, used: int, in_doubt: int) -> Reason | None:
        """Why no call may be made for a job whose chain has used so many retries, and itself left so many in doubt."""
        if in_doubt and self.park_ambiguous:
            return Reason.OUTCOME_UNKNOWN
        return Reason.RETRY_BUDGET_EXHAUSTED if used >= self.budget else None


class RetryFailedJob(Struct, frozen=True, kw_only=True):
    """The use case, with the parts that it works with."""

    rules: Rules
    ledger: Ledger
    tokens: Tokens
    portability: Portability
    retried: Publisher
    rejected: Publisher
    now: Callable[[], datetime]
    draining: Draining = field(default_factory=Draining)

    async def __call__(self, delivery: Delivery, journal: Journal) -> Outcome:
        """Bring one delivery to its outcome. What it raises is a bug."""
        work = _Work(self, delivery, journal)
        try:
            return await work.outcome()
        except (Unavailable, Misconfigured) as fault:
            return put_off(fault.with_traceback(None))  # as in _ask


class _Work:
    """One delivery at work."""

    def __init__(self, case: RetryFailedJob, delivery: Delivery, journal: Journal) -> None:
        self._case = case
        self._delivery = delivery
        self._journal = journal
        self._begun = asyncio.get_running_loop().time()
        self._failed_at = delivery.published_at
        journal.bind(republished=False, calls=0, callsUnknown=0)

    async def outcome(self) -> Outcome:
        try:
            event = parse_failed(self._delivery.data)
        except MalformedEvent as error:
            return await self._reject_malformed(error)
        self._journal.bind(archiveJobId=event.job_id, userId=event.user_id, credentialId=event.credential_id)
        self._failed_at = event.failed_at or self._failed_at
        # the token is got while the claim is made, but for redeliveries: most of them need none
        token = self._begin_token(event) if self._delivery.attempt <= 1 else None
        claim = await self._claim(event)
        match claim:
            case Held():
                return NotNow("another delivery of this job is at work")
            case Settled():
                # a message that comes again was not acknowledged: whoever got the answer did not get it published
                self._journal.bind(republished=self._delivery.attempt <= 1)
                return await self._announce(claim)
        self._journal.bind(attempt=claim.entry.used, rootArchiveJobId=claim.entry.root_job_id)
        self._journal.count("callsUnknown", claim.lapsed)
        kept = await self._ask_and_record(claim, event, token or self._begin_token(event))
        return NotNow(kept.entry.detail) if kept.entry.state == "open" else await self._announce(kept)

    def _begin_token(self, event: ArchiveJobFailed) -> asyncio.Future[AccessToken]:
        token = self._case.tokens.begin(event.credential_id)
        self._journal.bind(tokenCached=token.done())
        return token

    async def _claim(self, event: ArchiveJobFailed) -> Claim | Held | Settled:
        ledger, again = self._case.ledger, self._delivery.attempt > 1
        holder = ledger.new_holder()
        try:
            return await self._step("claim", PREPARED, ledger.claim(event, holder, expected=again))
        except Throttled:
            raise
        except (Unavailable, Misconfigured):
            with suppress(Unavailable, Misconfigured):  # where that fails too, it lapses, and counts as a call in doubt
                await self._step("withdraw", MENDED, ledger.withdraw(event, holder))
            raise

    async def _ask_and_record(self, claim: Claim, event: ArchiveJobFailed, token: asyncio.Future[AccessToken]) -> Kept:
        """Ask Google, and record what came of it before anything else happens."""
        try:
            became = await self._ask(claim.entry, event, token)
        except Exception:
            await self._release(claim)
            raise
        self._journal.bind(newArchiveJobId=became.new_job_id)  # whatever becomes of the record
        try:
            return await self._step("record", RECORDED, self._case.ledger.record(claim, became))
        except Superseded:
            raise Unavailable("the claim was taken over meanwhile: what Google answered is not recorded") from None

    async def _ask(self, entry: Entry, event: ArchiveJobFailed, token: asyncio.Future[AccessToken]) -> Entry:
        """Decide, and call Google if that is the decision. Returns the entry to record.

        It raises only where nothing was carried out: the claim can then be released, at no cost.
        """
        try:
            self._check(entry)
            verdict = await self._call(entry, event, token)
        except Refused as refusal:
            verdict = refusal.with_traceback(None)  # which holds this frame, and it the event: until the collector runs
        match verdict:
            case NewJob(job_id) if job_id != entry.job_id:
                return entry.retried(job_id)
            case NewJob():
                return entry.rejected(Reason.JOB_NOT_RETRYABLE, "Google says that this very job is still running.")
            case Refused(reason=reason):
                return entry.rejected(reason, str(verdict))
            case Cooldown(until):
                data, attributes = self._delivery.data, encode(self._delivery.attributes)
                if len(data) + len(attributes) > _LARGEST_KEPT:
                    data, attributes = event.encoded(), b"{}"
                return entry.deferred(until, data, attributes.decode())
            case Unknown(detail):
                self._journal.count("callsUnknown", 1)
                doubted = entry.in_doubt(detail)
                parks = self._case.rules.park_ambiguous
                return doubted.rejected(Reason.OUTCOME_UNKNOWN, _PARKED) if parks else doubted
            case Unavailable() | Misconfigured():
                raise verdict

    def _check(self, entry: Entry) -> None:
        """What forbids a call to begin with. Raises Refused."""
        rules = self._case.rules
        if self._failed_at and self._case.now() - self._failed_at > rules.event_max_age:
            days = rules.event_max_age / timedelta(days=1)
            raise Refused(Reason.EVENT_EXPIRED, f"The job failed more than {days:g} days ago: start a new export.")
        reason = rules.forbids(used=entry.used, in_doubt=entry.calls_in_doubt)
        if reason == Reason.OUTCOME_UNKNOWN:
            raise Refused(reason, _PARKED)
        if reason:
            said = f"This job and those before it have used {entry.used} of {rules.budget} retries: start a new export."
            raise Refused(reason, said)

    async def _call(self, entry: Entry, event: ArchiveJobFailed, token: asyncio.Future[AccessToken]) -> Verdict:
        """archiveJobs.retry, once; a second time only after a 401 or a 403, which was not carried out."""
        again, by = False, PREPARED
        while True:
            access = await self._step("token", by, asyncio.shield(token))
            answer = await self._send(entry, access)
            if isinstance(answer, TokenRefused):
                if again:
                    said = "Google refuses this grant's access tokens, new ones too (401): ask for consent again."
                    raise Refused(Reason.REAUTHORIZATION_REQUIRED, said)
                token = self._case.tokens.begin(event.credential_id, access)
            elif not again and (newer := await self._newer_grant(answer, access, event)):
                token = newer
            else:
                if not isinstance(answer, NewJob | Cooldown):
                    self._journal.failed("retry")
                return answer
            again, by = True, MENDED

    async def _newer_grant(
        self, answer: Answer, access: AccessToken, event: ArchiveJobFailed
    ) -> asyncio.Future[AccessToken] | None:
        """After a 403 by a remembered refresh token: a token by the one in the secret, if it is another by now."""
        denied = isinstance(answer, Refused) and answer.reason == Reason.ACCESS_DENIED
        if not denied or access.read_at >= self._begun:
            return None
        token = self._case.tokens.begin(event.credential_id, anew=True)
        newest = await self._step("token", MENDED, asyncio.shield(token))
        return token if newest.refresh_token != access.refresh_token else None

    async def _send(self, entry: Entry, access: AccessToken) -> Answer:
        """The one call. Raises Unavailable where it was not begun."""
        if self._case.draining.began:
            raise Unavailable("the instance is to end: no call to Google is begun any more")
        seconds = self._deadline(ANSWERED) - asyncio.get_running_loop().time()
        if seconds <= 0:  # the instance stood still meanwhile
            raise Unavailable("no time was left for the call to Google")
        answer: Answer
        try:
            call = self._case.portability.retry(entry.job_id, token=access.value, seconds=seconds)
            answer = await self._step("retry", ANSWERED, call)
        except Unavailable as late:
            answer = Unknown(str(late))
        except Exception as bug:  # on whichever side of the sending: it counts
            answer = Unknown(f"archiveJobs.retry ended in {type(bug).__name__}, which nobody expected")
            log.exception(answer.detail)
        self._journal.count("calls", not isinstance(answer, NeverSent))
        return answer

    async def _release(self, claim: Claim) -> None:
        """Give the claim back. Where that fails it lapses by itself, and counts as a call in doubt."""
        with suppress(Superseded, Unavailable, Misconfigured):
            await self._step("release", RECORDED, self._case.ledger.record(claim, claim.entry.released()))

    async def _announce(self, kept: Kept) -> Outcome:
        """Publish what the ledger holds, which is the same at every delivery."""
        entry = kept.entry
        self._journal.bind(attempt=entry.used, rootArchiveJobId=entry.root_job_id, userId=entry.user_id)
        if entry.state == "deferred" and entry.not_before:
            return Deferred(entry.not_before)
        outcome: Outcome
        if entry.state == "rejected":
            outcome = await self._reject(RetryRejected.of(entry, self._delivery.data))
        else:
            follow_up = ArchiveJobRetried.of(entry)
            await self._publish(self._case.retried, encode(follow_up), follow_up.attributes())
            outcome = Retried(entry.new_job_id)
            self._tell_delay(kept)
        if entry.not_before:  # once deferred, and due until here: where this fails, it is only published once more
            with suppress(Unavailable, Misconfigured):
                await self._step("announced", PUBLISHED, self._case.ledger.announced(kept))
        return outcome

    def _tell_delay(self, kept: Kept) -> None:
        """How long a follow-up took that only we could have hindered: `reason` stays from a cooldown or a rejection."""
        if self._failed_at and not self._journal.fields["republished"] and not kept.entry.reason:
            seconds = (self._case.now() - self._failed_at).total_seconds()
            self._journal.bind(delaySeconds=max(0.0, round(seconds, 3)))  # below 0 where a producer's clock is ahead

    async def _reject_malformed(self, error: MalformedEvent) -> Outcome:
        rejection = RetryRejected.of_malformed(error, self._delivery.data, self._case.now())
        self._journal.bind(archiveJobId=rejection.archive_job_id, userId=rejection.user_id)
        return await self._reject(rejection)

    async def _reject(self, rejection: RetryRejected) -> Outcome:
        attributes = rejection.attributes(self._delivery.message_id)
        await self._publish(self._case.rejected, encode(rejection), attributes)
        return Rejected(Reason(rejection.reason), rejection.detail)

    async def _publish(self, topic: Publisher, data: bytes, attributes: dict[str, str]) -> None:
        await self._step("publish", PUBLISHED, topic.publish(data, attributes))

    def _deadline(self, share: float) -> float:
        return self._case.draining.deadline(self._begun + share * self._case.rules.deadline, share)

    async def _step(self, name: str, by: float, doing: Awaitable[_T]) -> _T:
        """One timed step, over by this share of the deadline. Raises Unavailable where it is not."""
        draining = self._case.draining
        try:
            with self._journal.step(name):
                async with asyncio.timeout_at(self._deadline(by)) as timeout:
                    draining.hold(timeout, by)
                    try:
                        return await doing
                    finally:
                        draining.release(timeout)
        except TimeoutError:
            raise Unavailable(f"not over in time: {name}") from None


# Bytes of an event that a deferral keeps as it came; of a larger one it keeps the fields that are read. A document of
# Firestore's holds a mebibyte (https://cloud.google.com/firestore/quotas).
_LARGEST_KEPT = 900_000
_PARKED = "A call to Google had no answer, so a retry may or may not be running: look before you try again."
