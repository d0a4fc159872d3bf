"""The way to the project: clients for Google Cloud or its emulators, and what went wrong in sentences."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import google.auth
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1.services.subscriber.async_client import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports.grpc_asyncio import SubscriberGrpcAsyncIOTransport

from handlers.composition import firestore_of
from handlers.ledger import Store
from handlers.outcomes import Fault, Misconfigured
from handlers.rpc import Channels
from handlers.settings import Settings
from handlers.topics import PublisherClient, Topic

_TOKEN_SECONDS = 10.0
_LOG_IN = "gcloud auth application-default login"
_OPTIONS = (("grpc.max_receive_message_length", -1),)  # as Google's own transport has it: a pull brings a thousand


class Trouble(Exception):
    """It cannot go on. The text says what a person can do about it."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """What the commands work with. `store` is None where the ledger is in the function's own memory."""

    subscriber: SubscriberAsyncClient
    failed: Topic
    store: Store | None


@asynccontextmanager
async def connected(settings: Settings, credentials: Any) -> AsyncIterator[Cloud]:
    """The same project, database and topics as the function with these settings."""
    emulator = settings.pubsub_emulator_host
    async with Channels(credentials) as channels:
        pulling = channels.to(PublisherClient.HOST, emulator, _OPTIONS)
        publisher = channels.client(PublisherClient, emulator)
        yield Cloud(
            subscriber=SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=pulling)),
            failed=Topic(publisher, settings.google_cloud_project, settings.failed_topic),
            store=firestore_of(settings, channels) if settings.retry_ledger == "firestore" else None,
        )


def account(settings: Settings) -> Any:
    """The credentials to work with, proved good; None where only emulators are used. Raises Trouble.

    gRPC reports credentials that have run out as UNAVAILABLE, which looks like an outage; so they are tried first.
    """
    if settings.pubsub_emulator_host and (settings.firestore_emulator_host or settings.retry_ledger == "memory"):
        return None
    from google.auth.transport.requests import Request  # noqa: PLC0415 half of all start-up time, for this alone

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        credentials.refresh(functools.partial(Request(), timeout=_TOKEN_SECONDS))  # type: ignore[no-untyped-call]
    except GoogleAuthError as error:
        said = str(error.args[0] if error.args else type(error).__name__).split("\n")[0].rstrip(".")
        raise Trouble(f"No usable Google credentials ({said}): {_LOG_IN}") from None
    return credentials


def explained(fault: Fault, settings: Settings) -> Trouble:
    """A fault in words for the person at the terminal."""
    if not isinstance(fault, Misconfigured):
        return Trouble(f"Google Cloud did not answer as it should ({fault}). Try again: nothing is lost by it.")
    project, code = settings.google_cloud_project, str(fault).rpartition(": ")[2]
    ledger = "ledger" in str(fault)
    role = "roles/datastore.user" if ledger else "roles/pubsub.editor (or subscriber and publisher)"
    database = f"Project {project} has no Firestore database {settings.firestore_database}"
    hints = {
        "UNAUTHENTICATED": f"Google does not accept your credentials: {_LOG_IN}",
        "PERMISSION_DENIED": f"Your account lacks {role} in project {project}, or the API is not enabled there.",
        "NOT_FOUND": f"{database}: set FIRESTORE_DATABASE to what the function has (--database)."
        if ledger
        else f"Project {project} has none of that name: is it the right project (--project)?",
        "FAILED_PRECONDITION": f"{database} in native mode.",
    }
    return Trouble(f"{fault}. {hints.get(code, 'That is not what this command expects.')}")
