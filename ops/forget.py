"""Finds and deletes what there is of a user: the secrets of the credentials, the ledger's entries, the waiting looks.

The secret goes first: from then on no delivery gets a new access token for it.
"""

from dataclasses import dataclass, field
from typing import Any

from handlers.bootstrap import WATCH_SUFFIX
from ops.cloud import Cloud
from ops.ledger_search import ledger_name
from ops.secrets import delete_secret, full_name, secret_exists

LIVES_ON = (
    "What lives on: messages in topics and subscriptions, with a producer's own fields, for up to 7 days;",
    "python -m ops discard throws rejections and dead letters of a user away at once;",
    "an event that is under way leaves a new entry: run this once more on the next day;",
    "logs and traces, for about 30 days; an access token that the function holds, for up to an hour;",
    "the names of secrets in audit logs of who made and deleted them, for 400 days;",
    "earlier states of the ledger's database for up to 7 days, and backups for as long as they are kept.",
    "At Google, the grant lives on until the user or the product revokes it, and an export that runs goes on.",
)


@dataclass(slots=True)
class UserData:
    """What there is of a user. `others` are credentials that the user's events name and that may be somebody else's."""

    user: str
    ledger: str  # its collection and database
    kept_days: float  # how long an entry stays in the ledger after its last write
    secrets: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # secrets that are not there
    entries: list[str] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def as_json(self, *, gone: bool) -> dict[str, Any]:
        return {
            "userId": self.user,
            "secrets": self.secrets,
            "secretsNotFound": self.missing,
            "ledger": self.ledger,
            "ledgerEntries": len(self.entries),
            "ledgerEntriesKeptDays": self.kept_days,
            "waitingLooks": len(self.looks),
            "otherCredentials": self.others,
            "deleted": gone,
            "livesOn": LIVES_ON,
        }


async def find_user_data(cloud: Cloud, user: str, credentials: tuple[str, ...]) -> UserData:
    """Raises CliError, Transient or Misconfigured.

    An event may name any credential, so what the ledger has of them is no proof that they are this user's.
    """
    settings, theirs = cloud.settings, {"userId": user}
    ledger, watch = cloud.ledger(), cloud.ledger(WATCH_SUFFIX)
    data = UserData(user, ledger_name(settings), settings.ledger_days)
    own = sorted({user, *credentials})
    for credential in own:
        secret = full_name(settings, settings.refresh_token_secret_prefix + credential)
        (data.secrets if await secret_exists(cloud, secret) else data.missing).append(secret)
    entries = await ledger.credentials(theirs)
    looks = await watch.credentials(theirs)
    data.entries, data.looks = list(entries), list(looks)
    data.others = sorted({*entries.values(), *looks.values()} - set(own) - {""})
    return data


async def forget(cloud: Cloud, data: UserData) -> None:
    """Idempotent. Raises Transient or Misconfigured."""
    for secret in data.secrets:
        await delete_secret(cloud, secret)
    await cloud.ledger().delete(data.entries + data.looks)
