"""What an instance reaches the world with, given to its container: Google's clients, and HTTP."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import cache, cached_property, partial
from typing import Any
from urllib.parse import parse_qs

from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    CommitRequest,
    CommitResponse,
    RunQueryRequest,
    RunQueryResponse,
)
from google.cloud.secretmanager_v1.types import AccessSecretVersionRequest, AccessSecretVersionResponse
from google.pubsub_v1.types import PublishRequest, PublishResponse
from msgspec.structs import asdict

from handlers.bootstrap import Container
from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Misconfigured, Transient
from handlers.google.http_client import HttpResponse
from handlers.ports import Publisher, Store, VersionedEntry
from tests.simulation.faults import ACCOUNT
from tests.simulation.google import Google
from tests.simulation.grants import CLIENT_SECRET_ID, SECRET_PREFIX, TOKEN_URI
from tests.simulation.record import DELIVERY, SIGNATURE, SecretAsked, TokenAsked, Trouble
from tests.simulation.states import PATH, States
from tests.simulation.wire import Wire


class Clients:
    """handlers.google.clients.GoogleClients over the simulated wire."""

    def __init__(self, wire: Wire, *, firestore: Any, grants: Any, pubsub: Any) -> None:
        self._wire = wire
        self._firestore = _Firestore(wire, firestore)
        self._secrets = _Secrets(wire, grants)
        self._publisher = _Publisher(wire, pubsub)

    async def firestore(self) -> Any:
        return await self._with_credentials(self._firestore)

    async def publisher(self) -> Any:
        return await self._with_credentials(self._publisher)

    async def secret_manager(self, location: str = "") -> Any:
        assert location == ""
        return await self._with_credentials(self._secrets)

    async def _with_credentials(self, client: Any) -> Any:
        """The metadata server may be away, and the account may be gone."""
        faults = self._wire.faults
        if faults.is_wrong(ACCOUNT):
            raise Misconfigured("the metadata server knows no such service account")
        if faults.is_away(ACCOUNT):
            faults.record(Trouble(self._wire.timeline.now, self._wire.instance, ACCOUNT, "away"))
            await asyncio.sleep(self._wire.timeline.rng.choice((0.0, 5.0)))
            raise Transient("the metadata server did not answer")
        return client


class _Firestore:
    """FirestoreAsyncClient, as far as it is used."""

    def __init__(self, wire: Wire, service: Any) -> None:
        self._wire = wire
        self._service = service

    async def commit(self, request: Any, **options: Any) -> Any:
        effect = partial(self._service.commit, CommitRequest.pb(request))
        return CommitResponse.wrap(await self._call(effect, **options))

    async def batch_get_documents(self, request: Any, **options: Any) -> Any:
        effect = partial(self._service.batch_get, BatchGetDocumentsRequest.pb(request))
        return _stream(BatchGetDocumentsResponse, await self._call(effect, reads=True, **options))

    async def run_query(self, request: Any, **options: Any) -> Any:
        effect = partial(self._service.run_query, RunQueryRequest.pb(request))
        return _stream(RunQueryResponse, await self._call(effect, reads=True, **options))

    async def _call(self, effect: Any, *, metadata: Any, **options: Any) -> Any:
        assert dict(metadata)["google-cloud-resource-prefix"].startswith("projects/")
        return await self._wire.rpc("firestore", effect, **options)


async def _stream(kind: Any, answers: list[Any]) -> AsyncIterator[Any]:
    for answer in answers:
        yield kind.wrap(answer)


class _Publisher:
    """PublisherAsyncClient, as far as it is used."""

    def __init__(self, wire: Wire, service: Any) -> None:
        self._wire = wire
        self._service = service

    async def publish(self, request: Any, **options: Any) -> Any:
        effect = partial(self._service.publish, PublishRequest.pb(request))
        return PublishResponse.wrap(await self._wire.rpc("pubsub", effect, **options))


class _Secrets:
    """SecretManagerServiceAsyncClient, as far as it is used."""

    def __init__(self, wire: Wire, service: Any) -> None:
        self._wire = wire
        self._service = service

    async def access_secret_version(self, request: Any, **options: Any) -> Any:
        wire, name = self._wire, AccessSecretVersionRequest.pb(request).name
        secret = name.split("/")[3]
        if secret != CLIENT_SECRET_ID:
            credential = secret.removeprefix(SECRET_PREFIX)
            wire.faults.record(SecretAsked(wire.timeline.now, DELIVERY.get(), wire.instance, credential))
        effect = partial(self._service.access, name)
        return AccessSecretVersionResponse.wrap(await wire.rpc("secrets", effect, reads=True, **options))


class HttpClient:
    """handlers.google.http_client's client of the same name."""

    def __init__(self, wire: Wire, google: Google) -> None:
        self._wire = wire
        self._google = google

    async def request(
        self, method: str, url: str, *, headers: dict[str, str], body: bytes, seconds: float
    ) -> HttpResponse | NotSent | OutcomeUnknown:
        wire, google = self._wire, self._google
        if url.endswith(PATH):
            assert (method, body) == ("GET", b"")
            return await self._look(url, headers, seconds)
        assert method == "POST"
        if url == TOKEN_URI:
            form = parse_qs(body.decode(), strict_parsing=True)
            [token] = form["refresh_token"]
            wire.faults.record(TokenAsked(wire.timeline.now, DELIVERY.get(), wire.instance, token.split(".")[1]))
            return await self._exchange("oauth", lambda trouble: google.token(form, trouble), seconds)
        assert body == b""
        assert headers["Content-Length"] == "0"
        call = google.sends(url, headers)
        try:
            answer = await self._exchange("portability", lambda trouble: google.retry(call, trouble), seconds)
        except asyncio.CancelledError:
            google.unanswered(call, sent=True)
            raise
        if isinstance(answer, HttpResponse):
            google.answered(call)
        else:
            google.unanswered(call, sent=not isinstance(answer, NotSent))
        return answer

    async def _look(self, url: str, headers: dict[str, str], seconds: float) -> HttpResponse | NotSent | OutcomeUnknown:
        google = self._google
        assert isinstance(google, States)
        look, bearer = google.sends_look(url, headers)
        answer = await self._exchange("portability", lambda trouble: google.state(look, bearer, trouble), seconds)
        google.looked(look, answered=isinstance(answer, HttpResponse))
        return answer

    async def _exchange(self, service: str, effect: Any, seconds: float) -> HttpResponse | NotSent | OutcomeUnknown:
        answer: HttpResponse | NotSent | OutcomeUnknown = await self._wire.exchange(
            service,
            lambda trouble: HttpResponse(*effect(trouble)),
            seconds=seconds,
            refused=lambda: NotSent("ClientConnectorError"),
            lost=lambda: OutcomeUnknown("ServerDisconnectedError"),
            overdue=lambda: OutcomeUnknown("SocketTimeoutError"),
            cut_off=lambda: NotSent("cut off while it was connecting"),
        )
        return answer


# --- what a service is asked for is signed with its delivery: one call may carry several deliveries' ---


class _SignedEntry(LedgerEntry, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """The signature is in no update mask, so it is sent and not stored."""

    simulated_delivery: str = ""


class _SignedStore:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.load, self.due = store.load, store.due

    async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> VersionedEntry:
        signed_entry = _SignedEntry(**asdict(entry) | {"simulated_delivery": DELIVERY.get()})
        written = await self._store.write(signed_entry, version, link)
        return VersionedEntry(entry, written.version, written.written_at, written.read_at)


class _SignedTopic:
    def __init__(self, topic: Publisher) -> None:
        self._topic = topic

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        await self._topic.publish(data, {**attributes, SIGNATURE: DELIVERY.get()})


@cache
def signed(kind: type[Container]) -> type[Container]:
    """This container, whose writes and messages are signed."""

    class Signed(kind):  # type: ignore[valid-type, misc]
        @cached_property
        def store(self) -> Store:
            return _SignedStore(super().store)

        @cached_property
        def watch_store(self) -> Store:
            return _SignedStore(super().watch_store)

        def topic(self, name: str) -> Publisher:
            return _SignedTopic(super().topic(name))

    return Signed
