"""Google's generated clients: for each service one, built at its first call, in the worker.

They are built as Google builds them (endpoint, mTLS, universe domain, client headers), with channel options that find
dead connections, with the access token as metadata of each call, and without the interceptor that logs payloads. For an
emulator: in the clear, without a token.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc.aio
from google.cloud.firestore_v1.services.firestore.async_client import FirestoreAsyncClient
from google.cloud.secretmanager_v1.services.secret_manager_service.async_client import SecretManagerServiceAsyncClient
from google.pubsub_v1.services.publisher.async_client import PublisherAsyncClient

from handlers.google.account import Account
from handlers.settings import Settings

_CHANNEL_OPTIONS: dict[str, Any] = {
    # Keepalive: a connection that was silent for so long during a call is pinged, and given up if nothing comes back
    "grpc.keepalive_time_ms": 30_000,
    "grpc.http2.ping_timeout_ms": 10_000,
    # What Google's Pub/Sub client sets: errors may carry larger trailers than gRPC's default of 8 KiB
    "grpc.max_metadata_size": 4 << 20,
}
_EMULATOR_OPTIONS: dict[str, Any] = {"grpc.enable_http_proxy": 0, "grpc.max_receive_message_length": -1}


class GoogleClients:
    """The clients. An emulator is `host:port`; empty for Google's own service, reached with the program's account.

    The methods raise Transient or Misconfigured where there are no credentials.
    """

    def __init__(self, account: Account, settings: Settings) -> None:
        self._account = account
        self._settings = settings
        self._built: dict[tuple[Any, str], Any] = {}

    async def firestore(self) -> Any:
        return await self.client(FirestoreAsyncClient, self._settings.firestore_emulator_host)

    async def publisher(self) -> Any:
        return await self.client(PublisherAsyncClient, self._settings.pubsub_emulator_host)

    async def secret_manager(self, location: str = "") -> Any:
        """`location`: of regional secrets (https://cloud.google.com/secret-manager/regional-secrets/create)."""
        endpoint = f"secretmanager.{location}.rep.googleapis.com" if location else ""
        return await self.client(SecretManagerServiceAsyncClient, self._settings.secret_manager_emulator_host, endpoint)

    async def client(self, kind: Any, emulator: str, endpoint: str = "") -> Any:
        """One client of this kind for each endpoint. Ask before each call: nothing else refreshes the access token."""
        credentials = None if emulator else await self._account.credentials()
        built = self._built.get((kind, endpoint))
        if built is None:
            built = self._built[kind, endpoint] = _build(kind, emulator, credentials, endpoint)
            # Google's interceptor logs metadata and payloads at DEBUG: the account's token, and users' refresh tokens.
            # It takes a tenth of an event's CPU
            built.transport.grpc_channel._unary_unary_interceptors.clear()
        return built

    async def close(self) -> None:
        await asyncio.gather(*(client.transport.close() for client in self._built.values()))


def _build(kind: Any, emulator: str, credentials: Any, endpoint: str) -> Any:
    transport = kind.get_transport_class("grpc_asyncio")
    if emulator:
        options = [*(_CHANNEL_OPTIONS | _EMULATOR_OPTIONS).items()]
        return kind(transport=transport(channel=grpc.aio.insecure_channel(emulator, options=options)))

    def channel(host: str, *, options: Any, ssl_credentials: Any, **_: Any) -> Any:
        tls = ssl_credentials or grpc.ssl_channel_credentials()
        options = [*(dict(options) | _CHANNEL_OPTIONS).items()]
        return _AuthorizedChannel(grpc.aio.secure_channel(host, tls, options=options), credentials)

    where = {"api_endpoint": endpoint or None}
    return kind(credentials=credentials, transport=partial(transport, channel=channel), client_options=where)


class _AuthorizedChannel:
    """A channel whose calls carry the access token as metadata, the one that `credentials` hold when the call begins.

    With call credentials, gRPC's own way, each call starts a thread, which more than doubles its CPU
    (https://github.com/grpc/grpc/blob/master/src/python/grpcio/grpc/_cython/_cygrpc/credentials.pyx.pxi). Calls that
    send a stream go without a token: nobody here makes any.
    """

    def __init__(self, channel: grpc.aio.Channel, credentials: Any) -> None:
        self._channel = channel
        self._credentials = credentials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Authorized(self._channel.unary_unary(*arguments, **named), self._credentials)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return _AuthorizedStream(self._channel.unary_stream(*arguments, **named), self._credentials)


class _Authorized:
    def __init__(self, call: Any, credentials: Any) -> None:
        self._call = call
        self._credentials = credentials

    def __call__(self, request: Any, *, metadata: Any = (), **others: Any) -> Any:
        headers: dict[str, str] = {}
        self._credentials.apply(headers)
        return self._call(request, metadata=[*metadata, *headers.items()], **others)


# google-api-core tells by the type that a call is answered with a stream
class _AuthorizedStream(_Authorized, grpc.aio.UnaryStreamMultiCallable[Any, Any]): ...


Client = Callable[[], Awaitable[Any]]  # one of the methods above
