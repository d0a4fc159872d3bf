"""The way to the project: Google's clients as the function has them, and faults as sentences for people."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from google.pubsub_v1.services.subscriber.async_client import SubscriberAsyncClient

from handlers.domain.outcomes import Misconfigured, StepError
from handlers.google.account import Account
from handlers.google.clients import GoogleClients
from handlers.google.pubsub import TopicPublisher
from handlers.settings import Settings
from ops.ledger_search import SearchableStore

LOG_IN = "gcloud auth application-default login"
SWITCHED_OFF = "has not been used in project"  # Google's words for an API that is not enabled

# the operator's role, and the API
_LEDGER = "roles/datastore.user", "firestore.googleapis.com"
_SECRETS = "roles/secretmanager.secretAccessor (viewer to list, admin to delete)", "secretmanager.googleapis.com"
_TOPICS = "roles/pubsub.editor (or subscriber and publisher)", "pubsub.googleapis.com"


class CliError(Exception):
    """The command cannot go on. The text says what a person can do about it."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """What the commands work with."""

    settings: Settings
    account: Account
    clients: GoogleClients

    @property
    def uses_google(self) -> bool:
        """Whether anything but emulators is called."""
        settings = self.settings
        ledger = settings.firestore_emulator_host or settings.retry_ledger == "memory"
        return not (settings.pubsub_emulator_host and ledger and settings.secret_manager_emulator_host)

    @property
    def failed_topic(self) -> TopicPublisher:
        return TopicPublisher(self.clients.publisher, self.settings.google_cloud_project, self.settings.failed_topic)

    @property
    def store(self) -> SearchableStore | None:
        """None where the ledger is in the function's own memory."""
        return self.ledger() if self.settings.retry_ledger == "firestore" else None

    def ledger(self, suffix: str = "") -> SearchableStore:
        """The retry ledger's entries, or with its suffix the watch's. Raises CliError where nobody can read them."""
        if self.settings.retry_ledger != "firestore":
            raise CliError("With RETRY_LEDGER=memory the ledger is in the function's own process: nobody can read it.")
        return SearchableStore(self.clients.firestore, self.settings, suffix)

    async def subscriber(self) -> Any:
        return await self.clients.client(SubscriberAsyncClient, self.settings.pubsub_emulator_host)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Cloud]:
    """The same project, database, topics and secrets as the function with these settings."""
    account = Account()
    clients = GoogleClients(account, settings)
    try:
        yield Cloud(settings, account, clients)
    finally:
        await clients.close()


def explain(fault: StepError, settings: Settings) -> str:
    """A fault in words for the person at the terminal."""
    said = str(fault).rstrip(".")
    if not isinstance(fault, Misconfigured):
        return f"Google Cloud did not answer as it should ({said}). Try again: nothing is lost by it."
    if "Google credentials" in said or "program's own credentials" in said:
        return said if LOG_IN in said else f"{said}. On a machine of your own: {LOG_IN}"
    project = settings.google_cloud_project
    code = re.search(r": ([A-Z_]+)(?:: |$)", said)
    ledger, secrets = re.search("ledger|what is due", said) is not None, "secret" in said
    role, api = _LEDGER if ledger else _SECRETS if secrets else _TOPICS
    if off := re.search(rf"{SWITCHED_OFF} ([a-z0-9-]+)", said):  # it can be the quota project of your credentials
        return (
            f"{said}. gcloud services enable {api} --project={off[1]}; or, where that is not {project}: "
            f"gcloud auth application-default set-quota-project {project}"
        )
    if "prohibited by organization's policy" in said:
        return f"{said}. A VPC Service Controls perimeter keeps your account out: ask whoever runs it."
    database = f"Project {project} has no Firestore database {settings.firestore_database}"
    other = f"Project {project} has none of that name: is it the right project (--project)?"
    index = "The ledger's index is missing, or still being built: apply infra/bootstrap again"
    unusable = "That is not what this command expects."
    if secrets or re.search(r"KMS|[Ee]ncryption key", said):
        unusable = "The key that it is encrypted with cannot be used: enable the key's version again."
    elif ledger:
        unusable = f"{index}." if "index" in said else f"{database} in native mode."
    hints = {
        "UNAUTHENTICATED": f"Google does not accept your credentials: {LOG_IN}",
        "PERMISSION_DENIED": f"Your account lacks {role} in project {project}, or the API is not enabled there.",
        "NOT_FOUND": f"{database}: set FIRESTORE_DATABASE to what the function has (--database)." if ledger else other,
        "FAILED_PRECONDITION": unusable,
    }
    return f"{said}. {hints.get(code[1] if code else '', 'That is not what this command expects.')}"
