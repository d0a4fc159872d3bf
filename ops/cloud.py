"""The way to the project: clients for Google Cloud or its emulators, and what went wrong in sentences."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import google.auth
import grpc.aio
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1.services.firestore.async_client import FirestoreAsyncClient
from google.pubsub_v1.services.publisher.async_client import PublisherAsyncClient
from google.pubsub_v1.services.subscriber.async_client import SubscriberAsyncClient

from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.ledger import Store
from handlers.outcomes import Fault, Misconfigured
from handlers.rpc import Service
from handlers.settings import Settings
from handlers.topics import PublisherClient, Topic

_TOKEN_SECONDS = 10.0
_LOG_IN = "gcloud auth application-default login"


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
    opened = []

    def client(kind: Any, emulator: str) -> Any:
        transport = kind.get_transport_class("grpc_asyncio")
        if emulator:
            options = [("grpc.max_receive_message_length", -1)]  # as Google's own transport has it
            built = kind(transport=transport(channel=grpc.aio.insecure_channel(emulator, options=options)))
        else:
            built = kind(credentials=credentials)
        opened.append(built.transport)
        return built

    project = settings.google_cloud_project
    store = None
    if settings.retry_ledger == "firestore":
        channel = client(FirestoreAsyncClient, settings.firestore_emulator_host).transport.grpc_channel
        store = FirestoreStore(
            FirestoreClient(Service(channel, FirestoreClient.SERVICE)),
            project=project,
            database=settings.firestore_database,
            collection=settings.retry_ledger_collection,
        )
    channel = client(PublisherAsyncClient, settings.pubsub_emulator_host).transport.grpc_channel
    publisher = PublisherClient(Service(channel, PublisherClient.SERVICE))
    subscriber = client(SubscriberAsyncClient, settings.pubsub_emulator_host)
    try:
        yield Cloud(subscriber, Topic(publisher, project, settings.failed_topic), store)
    finally:
        for transport in opened:
            await transport.close()


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
