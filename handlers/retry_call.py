"""archiveJobs.retry for a claimed job: sent once, and once more only where that cannot be a second retry."""

from collections.abc import Callable

from msgspec import Struct

from handlers.deadlines import ANSWERED, RECOVERED, Deadlines
from handlers.domain.answers import (
    AlreadyRunning,
    Answer,
    Cooldown,
    NewJob,
    NotSent,
    OutcomeUnknown,
    Unauthorized,
)
from handlers.domain.outcomes import Reason, Rejection, Transient
from handlers.ledger import Claim
from handlers.ports import AccessToken, DeliveryLog, Portability, Tokens


class RetryCall(Struct, frozen=True):
    """The call of one delivery, with what it needs."""

    portability: Portability
    tokens: Tokens
    shutting_down: Callable[[], bool]
    deadlines: Deadlines
    log: DeliveryLog

    async def __call__(self, claim: Claim, token: AccessToken) -> Answer:
        """Whatever this raises, nothing was carried out."""
        answer = await self._send(claim, token)
        other = await self._other_token(answer, claim.entry.credential_id, token)
        if isinstance(other, Rejection):
            self.log.failed("token")
            return other
        if other:
            answer = await self._send(claim, other)
        if isinstance(answer, Unauthorized):
            answer = answer.if_again
        if not isinstance(answer, NewJob | AlreadyRunning | Cooldown):
            self.log.failed("retry")
        return answer

    async def _other_token(
        self, answer: Answer | Unauthorized, credential_id: str, used: AccessToken
    ) -> AccessToken | Rejection | None:
        """After a 401 a new one; after a 403 on this user's grant one by the newest version of the secret, if it was
        not that already. Neither call was carried out.
        """
        match answer:
            case Unauthorized():
                return await self.deadlines.step("token", RECOVERED, self.tokens.replace(credential_id, used))
            case Rejection(Reason.ACCESS_DENIED):
                return await self.deadlines.step("token", RECOVERED, self.tokens.replace_if_newer(credential_id, used))
        return None

    async def _send(self, claim: Claim, token: AccessToken) -> Answer | Unauthorized:
        if self.shutting_down():
            return NotSent("the instance is shutting down: no call to Google is begun any more")
        seconds = self.deadlines.seconds_left(ANSWERED)
        if seconds <= 0:
            return NotSent("no time was left for the call to Google: the instance was CPU-throttled")
        retry = self.portability.retry(
            claim.entry.job_id, token=token.value, seconds=seconds, now=claim.stored.written_at
        )
        answer: Answer | Unauthorized
        try:
            answer = await self.deadlines.step("retry", ANSWERED, retry)
        except Transient as late:
            answer = OutcomeUnknown(str(late))
        except Exception as bug:  # before or after the request was sent: it counts
            answer = OutcomeUnknown(f"unexpected {type(bug).__name__} in archiveJobs.retry: a bug")
            self.log.exception(answer.detail)
        self.log.count("calls", not isinstance(answer, NotSent))
        self.log.count("callsUnknown", isinstance(answer, OutcomeUnknown))
        return answer
