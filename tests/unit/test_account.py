"""The program's own credentials: looked up in a thread, and a fault put down to whom it is."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import google.auth.credentials
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from handlers.domain.outcomes import Misconfigured, Transient
from handlers.google.account import Account
from tests.unit.process import run


class Credentials(google.auth.credentials.Credentials):
    """Fresh once they are refreshed."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.error = error
        self.refreshed = 0

    def refresh(self, request: Any) -> None:
        self.refreshed += 1
        if self.error:
            raise self.error
        self.token = f"token-{self.refreshed}"
        self.expires_in(3599)

    def expires_in(self, seconds: float) -> None:
        """google-auth's times are in UTC, and do not say so."""
        self.expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=seconds)


async def fault(account: Account) -> Exception:
    with pytest.raises((Transient, Misconfigured)) as caught:
        await account.credentials()
    return caught.value


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "K_SERVICE", "GCE_METADATA_HOST"):
        monkeypatch.delenv(name, raising=False)


async def test_credentials_are_refreshed_once_for_all() -> None:
    credentials = Credentials()
    account = Account(lambda **_: (credentials, "p"))
    assert {credentials} == set(await asyncio.gather(*(account.credentials() for _ in range(20))))
    assert credentials is await account.credentials()
    assert 1 == credentials.refreshed


async def test_silent_metadata_server_blocks_no_loop() -> None:
    may = threading.Event()

    def lookup(**_: Any) -> Any:
        may.wait(10)
        return Credentials(), "p"

    account = Account(lookup)
    waiting = [asyncio.create_task(account.credentials()) for _ in range(5)]
    clock = asyncio.get_running_loop().time
    begun = clock()
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert clock() - begun < 1
    waiting[0].cancel()
    may.set()
    assert 1 == len(set(await asyncio.gather(*waiting[1:])))


async def test_stale_credentials_are_used_while_they_are_refreshed() -> None:
    credentials = Credentials()
    account = Account(lambda **_: (credentials, "p"))
    await account.credentials()
    credentials.expires_in(200)
    credentials.error = RefreshError("down", retryable=True)  # type: ignore[no-untyped-call]
    assert credentials is await account.credentials()
    for left in (5, -1):  # too short for a call
        credentials.expires_in(left)
        assert isinstance(await fault(account), Transient)
    assert isinstance(await fault(account), Transient)
    credentials.error = None
    assert credentials is await account.credentials()


NOT_FOUND = TransportError("404", SimpleNamespace(status=404))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("error", "service", "kind"),
    [
        (DefaultCredentialsError("none"), "", Misconfigured),  # type: ignore[no-untyped-call]
        (DefaultCredentialsError("none"), "a-service", Transient),  # type: ignore[no-untyped-call]
        (TransportError("503"), "a-service", Transient),  # type: ignore[no-untyped-call]
        (TransportError("no network"), "", Transient),  # type: ignore[no-untyped-call]
        (RefreshError("503"), "a-service", Transient),  # type: ignore[no-untyped-call]
        (NOT_FOUND, "a-service", Misconfigured),
        (RefreshError("revoked", retryable=False), "", Misconfigured),  # type: ignore[no-untyped-call]
        (RefreshError("later", retryable=True), "", Transient),  # type: ignore[no-untyped-call]
    ],
)
async def test_fault_of_credentials(
    monkeypatch: pytest.MonkeyPatch, error: Exception, service: str, kind: type
) -> None:
    monkeypatch.setenv("K_SERVICE", service)
    assert kind is type(await fault(Account(lambda **_: (Credentials(error), "p"))))


@asynccontextmanager
async def metadata_server(token_status: int) -> AsyncIterator[str]:
    """Google's, as far as it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            while (await reader.readline()).strip():
                pass
            account = b"service-accounts" in request
            body = json.dumps({"email": "a@b", "access_token": "t", "expires_in": 3599, "scopes": []}).encode()
            head = b"HTTP/1.1 %d X\r\nMetadata-Flavor: Google\r\nContent-Type: application/json\r\n"
            writer.write(head % (token_status if account else 200) + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("status", "told"), [(200, "Credentials"), (404, "Misconfigured")])
async def test_metadata_server_of_google_cloud(status: int, told: str) -> None:
    code = """
import asyncio
from handlers.google.account import Account
try:
    print(type(asyncio.run(Account().credentials())).__name__)
except Exception as fault:
    print(type(fault).__name__)
"""
    async with metadata_server(status) as address:
        environment = {"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address, "K_SERVICE": "s", "HOME": "/nowhere"}
        ended = await asyncio.to_thread(run, code, **environment)
    assert told == ended.stdout.strip(), ended.stderr
