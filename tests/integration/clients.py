r"""What Google's own clients meet on a stage: `python -m tests.integration.clients own publish\ 5 …`.

Each line of output is one call: "ok" with what came, or the error's class and text.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import google.auth
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud.firestore import AsyncClient
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.secretmanager_v1 import SecretManagerServiceAsyncClient
from google.pubsub_v1 import PublisherAsyncClient, types

PROJECT = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
_SECONDS = float(os.environ.get("CALL_SECONDS", "20"))


async def own() -> Any:
    """The program's own account."""
    credentials: Any = (await asyncio.to_thread(google.auth.default))[0]
    await asyncio.to_thread(credentials.refresh, Request())
    return credentials.service_account_email


async def secret(name: str) -> Any:
    """The payload of a secret's latest version."""
    full = name if "/" in name else f"projects/{PROJECT}/secrets/{name}"
    options = ClientOptions(api_endpoint="secretmanager.europe-west1.rep.googleapis.com" if "/" in name else None)
    client = SecretManagerServiceAsyncClient(client_options=options)
    found = await client.access_secret_version(name=f"{full}/versions/latest", retry=None, timeout=_SECONDS)
    return len(found.payload.data)


async def publish(size: str, *attributes: str) -> Any:
    """A message of so many bytes, with these attributes, as `key=value`."""
    message = types.PubsubMessage(data=b"x" * int(size), attributes=dict(each.split("=") for each in attributes))
    topic = f"projects/{PROJECT}/topics/archive-job-retried"
    await PublisherAsyncClient().publish(topic=topic, messages=[message], retry=None, timeout=_SECONDS)


async def ledger(database: str) -> Any:
    """A document, by the client that people use."""
    document = AsyncClient(PROJECT, database=database).collection("some").document(str(time.time()))
    await document.create({"field": "value"}, retry=None, timeout=_SECONDS)
    return (await document.get(retry=None, timeout=_SECONDS)).to_dict()


async def generated(database: str, *metadata: str) -> Any:
    """A read by the generated client, with this metadata beside its own, as `key=value`."""
    full = f"projects/{PROJECT}/databases/{database}"
    request = {"database": full, "documents": [f"{full}/documents/some/absent"]}
    beside = [(key, value) for key, _, value in (each.partition("=") for each in metadata)]
    found = await FirestoreAsyncClient().batch_get_documents(
        request=request, metadata=beside, retry=None, timeout=_SECONDS
    )
    return [bool(each.missing) async for each in found]


async def post(url: str) -> Any:
    """The status of an empty POST."""
    async with aiohttp.ClientSession(trust_env=True) as http, http.post(url) as response:
        return response.status


CALLS: dict[str, Callable[..., Awaitable[Any]]] = {
    "own": own,
    "secret": secret,
    "publish": publish,
    "ledger": ledger,
    "generated": generated,
    "post": post,
}


async def main() -> None:
    """Make the calls, one after the other."""
    options = argparse.ArgumentParser(prog="clients", description=__doc__)
    options.add_argument("calls", nargs="+", help="a call's name and arguments, with blanks between them")
    for line in options.parse_args().calls:
        name, *arguments = line.split()
        try:
            print("ok", await CALLS[name](*arguments))
        except (GoogleAPICallError, GoogleAuthError, aiohttp.ClientError) as error:
            print(type(error).__name__, error)


if __name__ == "__main__":
    asyncio.run(main())
