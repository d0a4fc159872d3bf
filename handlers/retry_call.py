"""archiveJobs.retry for a claimed job: sent once, and once more only where that cannot be a second retry."""

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from handlers.ask import ask
from handlers.deadlines import ANSWERED, Deadlines
from handlers.domain.answers import AlreadyRunning, Answer, Cooldown, NewJob, NotSent, OutcomeUnknown, Unauthorized
from handlers.domain.outcomes import Transient
from handlers.ledger import Claim
from handlers.ports import AccessToken, Portability, Tokens


class RetryCall(Struct, frozen=True):
    """The call of one delivery, with what it needs."""

    portability: Portability
    tokens: Tokens
    shutting_down: Callable[[], bool]
    deadlines: Deadlines

    async def __call__(self, claim: Claim, token: AccessToken) -> Answer:
        """Whatever this raises, nothing was carried out."""
        answer: Answer = await ask(
            partial(self._send, claim), token, claim.entry.credential_id, self.tokens, self.deadlines
        )
        if not isinstance(answer, NewJob | AlreadyRunning | Cooldown):
            self.deadlines.log.fields.setdefault("failedStep", "retry")
        return answer

    async def _send(self, claim: Claim, token: AccessToken) -> Answer | Unauthorized:
        if self.shutting_down():
            return NotSent("the instance is shutting down: no call to Google is begun any more")
        seconds = self.deadlines.seconds_left(ANSWERED)
        if seconds <= 0:
            return NotSent("no time was left for the call to Google: the instance was CPU-throttled")
        job_id, now = claim.entry.job_id, claim.stored.written_at
        retry = self.portability.retry(job_id, token=token.value, seconds=seconds, now=now)
        answer: Answer | Unauthorized
        try:
            answer = await self.deadlines.step("retry", ANSWERED, retry)
        except Transient as late:
            answer = OutcomeUnknown(str(late))
        except Exception as bug:  # before or after the request was sent: it counts
            answer = OutcomeUnknown(f"unexpected {type(bug).__name__} in archiveJobs.retry: a bug")
            self.deadlines.log.exception(answer.detail)
        self.deadlines.log.count("calls", not isinstance(answer, NotSent))
        self.deadlines.log.count("callsUnknown", isinstance(answer, OutcomeUnknown))
        return answer
