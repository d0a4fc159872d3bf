"""What the use cases need: protocols, and the values that pass through them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from handlers.domain.answers import Answer, JobState, Unauthorized
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Misconfigured, RedactedRepr, Rejection


class Publisher(Protocol):
    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Returns when Pub/Sub has accepted the message. Raises Transient or Misconfigured."""


class AccessToken(RedactedRepr, Struct, frozen=True):
    """A user's access token. `secret_version` names the version of the secret whose refresh token it was got with;
    `expires_at` is in seconds on the event loop's clock.
    """

    value: str
    secret_version: str
    expires_at: float


class Tokens(Protocol):
    """Users' access tokens. The methods raise Transient or Misconfigured."""

    def cached(self, credential_id: str) -> AccessToken | None:
        """One that is at hand."""

    async def get(self, credential_id: str) -> AccessToken | Rejection:
        """One that is at hand, or a new one; or why the user has to consent again."""

    async def replace(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection:
        """A new one in place of one that Google refused."""

    async def replace_if_newer(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection | None:
        """A new one if the secret has another version than the one behind `used`; None if it has not."""


class Portability(Protocol):
    async def retry(self, job_id: str, *, token: str, seconds: float, now: datetime) -> Answer | Unauthorized:
        """Call archiveJobs.retry once. Raises nothing that is expected: an exception would hide what was sent."""


class JobStates(Protocol):
    async def state(
        self, job_id: str, *, token: str, seconds: float, now: datetime
    ) -> JobState | Answer | Unauthorized:
        """Ask for the state of a job. It changes nothing, so it may be asked again."""


class VersionedEntry(Struct, frozen=True):
    """An entry as the store keeps it. The times are on the store's clock: no instance's clock comes into it."""

    entry: LedgerEntry
    version: Any
    written_at: datetime
    read_at: datetime

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return (self.read_at - self.written_at).total_seconds()


class Unreadable(Struct, frozen=True):
    """An entry that this version of the program cannot read, and why."""

    job_id: str
    detail: str


class Page(Struct, frozen=True):
    """Entries that are due. `following` is where the next page begins; None: there is none."""

    entries: list[VersionedEntry | Unreadable]
    following: Any


class UnreadableEntry(Misconfigured):
    """The entry that was asked for is Unreadable. No other entry is concerned."""


class Conflict(Exception):
    """The write was refused: the stored entry is not at the version that it expected, or its link is there already."""


class Store(Protocol):
    """Where entries are kept. The methods raise Transient or Misconfigured where the store cannot be used."""

    async def load(self, job_id: str) -> VersionedEntry | None:
        """Raises UnreadableEntry, too."""

    async def due(self, before: datetime, limit: int, start: Any = None) -> Page:
        """Entries whose `not_before` is not after this time, the longest due first. `start`: as a page has it."""

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        """Store the entry if it still has this version (None: if there is none), and the link with it if there is no
        entry for its job. All or nothing. Fields that the entry does not know stay. Raises Conflict.
        """
