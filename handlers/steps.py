"""What the use cases share: the time of one delivery, and a request with a second access token."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from handlers.domain.answers import Unauthorized
from handlers.domain.outcomes import Reason, Rejection, RetryLater, Transient
from handlers.ports import AccessToken, Tokens
from handlers.telemetry import tracing
from handlers.telemetry.logging import LogLine

_T = TypeVar("_T")

# The shares of a delivery's time by which its steps have to be over
PREPARED = 3 / 9  # the look and the access token
CLAIMED = 4 / 9
TOKEN_REPLACED = 5 / 9  # another access token, after a 401 or 403
SENT = 6 / 9  # from then on no call is begun
ANSWERED = 7 / 9
RECORDED = 8 / 9  # from then on the record of a new job is not tried again after a fault of ours
PUBLISHED = 1.0

# Seconds that a write to the ledger gets at least, where a claim lapses without it and counts as a call in doubt: an
# instance that stood still is late before it begins.
WRITE_SECONDS = 10.0


class Deadlines:
    """Runs the steps of one delivery, which has `seconds` from now on."""

    def __init__(self, seconds: float, line: LogLine) -> None:
        self._seconds = seconds
        self.line = line
        self._begun = asyncio.get_running_loop().time()

    async def step(
        self, name: str, by: float, work: Awaitable[_T], *, at_least: float = 0.0, decides: bool = True
    ) -> _T:
        """Run one step until this share of the time is over, and for `at_least` seconds. Raises Transient then.

        Where it raises, and decides the outcome by that, it is the `failedStep`.
        """
        begun = time.perf_counter()
        try:
            with tracing.span(name):
                async with asyncio.timeout(max(self.seconds_left(by), at_least)):
                    return await work
        except BaseException as error:
            if decides:
                self.line.failed(name)
            if isinstance(error, TimeoutError):
                raise Transient(f"not over in time: {name}") from None
            raise
        finally:
            self.line.took(name, begun)

    def seconds_left(self, by: float) -> float:
        """Until this share of the time is over. Not above 0 where the instance was CPU-throttled meanwhile."""
        return self._begun + by * self._seconds - asyncio.get_running_loop().time()


async def send_with_token(
    send: Callable[[AccessToken], Awaitable[_T | Unauthorized]],
    token: AccessToken,
    credential_id: str,
    tokens: Tokens,
    deadlines: Deadlines,
) -> _T | Rejection | RetryLater:
    """Send a request. After a 401 send it again with a new token; after a 403 on this user's grant only if the secret
    has a newer version. Google has carried out neither of those that it refused so.
    """
    answer = await send(token)
    replacing: Awaitable[AccessToken | Rejection | None]
    match answer:
        case Unauthorized():
            replacing = tokens.replace(credential_id, token)
        case Rejection(Reason.ACCESS_DENIED):
            replacing = tokens.replace_if_newer(credential_id, token)
        case _:
            return answer
    other = await deadlines.step("token", TOKEN_REPLACED, replacing)
    if isinstance(other, Rejection):
        deadlines.line.failed("token")
        return other
    if other:
        answer = await send(other)
    return answer.if_again if isinstance(answer, Unauthorized) else answer
