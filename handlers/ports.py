"""What the use cases need of the world: a few protocols, and the values that pass through them."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from handlers.outcomes import Misconfigured, Refused, Unavailable


class Publisher(Protocol):
    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Returns when the message is accepted. Raises Unavailable or Misconfigured."""


class NotSent(Exception):
    """Nothing was sent: the other side has seen nothing."""


class NoAnswer(Exception):
    """The request may have been read, and carried out; no whole answer came back."""


class Http(Protocol):
    """The one POST."""

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        """The answer's status and body. Raises NotSent or NoAnswer; neither tells what was in the request.

        Cancelled before anything is sent, it raises NotSent instead.
        """


class Secretive:
    """Tells nothing of what it holds where it is printed, in a traceback above all."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # what rich goes by, and msgspec fills by itself
        return []


class AccessToken(Secretive, Struct, frozen=True):
    """A user's, and the refresh token that it was got with. Times are in seconds on the event loop's clock."""

    value: str
    refresh_token: str
    read_at: float  # when that stood in its secret
    expires_at: float


class Tokens(Protocol):
    def begin(
        self, credential_id: str, refused: AccessToken | None = None, *, anew: bool = False
    ) -> asyncio.Future[AccessToken]:
        """Start to get one: await it under asyncio.shield.

        `refused` is one that Google did not accept. `anew`: by the refresh token that stands in the secret now.
        The result raises Refused, Unavailable or Misconfigured.
        """


class Portability(Protocol):
    async def retry(self, job_id: str, *, token: str, seconds: float) -> "Answer":
        """Call archiveJobs.retry once. All that can come of it is a value: an exception would hide whether it was
        sent."""


# What archiveJobs.retry can come to, beside the faults.


class NewJob(Struct, frozen=True):
    """Google retries: this is the new job, or the one that does the same export already."""

    job_id: str


class Cooldown(Struct, frozen=True):
    """Google will not retry before this time."""

    until: datetime


class TokenRefused(Struct, frozen=True):
    """401: not carried out; another access token may do."""


class Unknown(Struct, frozen=True):
    """The call may have been carried out."""

    detail: str


class NeverSent(Unavailable):
    """Nothing was sent: the call does not count."""


Verdict = NewJob | Cooldown | Unknown | Refused | Unavailable | Misconfigured
Answer = Verdict | TokenRefused
