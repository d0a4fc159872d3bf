"""A request to Google with a user's access token, and once more with another one where the first was refused."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from handlers.deadlines import RECOVERED, Deadlines
from handlers.domain.answers import BackOff, Unauthorized
from handlers.domain.outcomes import Reason, Rejection
from handlers.ports import AccessToken, Tokens

_Answer = TypeVar("_Answer")


async def ask(
    send: Callable[[AccessToken], Awaitable[_Answer | Unauthorized]],
    token: AccessToken,
    credential_id: str,
    tokens: Tokens,
    deadlines: Deadlines,
) -> _Answer | Rejection | BackOff:
    """After a 401 with a new token; after a 403 on this user's grant with one by the newest version of the secret, if
    it was not that already. Neither request was carried out.
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
    other = await deadlines.step("token", RECOVERED, replacing)
    if isinstance(other, Rejection):
        deadlines.log.failed("token")
        return other
    if other:
        answer = await send(other)
    return answer.if_again if isinstance(answer, Unauthorized) else answer
