"""The clients of one instance, at the seams that handlers/composition.py builds on: gRPC services and the one POST."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from handlers.firestore import FirestoreClient
from handlers.topics import PublisherClient

from handlers.ports import NoAnswer, NotSent
from tests.simulation.google import Google
from tests.simulation.wire import Wire

Effect = Callable[[Any, str], Any]  # of a request, at a service in this trouble; returns its answer


class Service:
    """handlers.rpc.Service over the simulated wire: its methods are effects at the service."""

    def __init__(self, wire: Wire, name: str, effects: Mapping[str, Effect]) -> None:
        self._wire = wire
        self._name = name
        self._effects = effects

    def unary(
        self, method: str, request_type: Any, answer_type: Any, *, routed_by: str, seconds: float, retry: Any = None
    ) -> Any:
        async def unary(request: Any) -> Any:
            assert getattr(request, routed_by)
            return await self._wire.rpc(self._name, partial(self._effects[method], request), retry, seconds)

        return unary

    def streaming(self, method: str, request_type: Any, answer_type: Any, *, routed_by: str, seconds: float) -> Any:
        async def answers(request: Any) -> AsyncIterator[Any]:
            assert getattr(request, routed_by)
            for answer in await self._wire.rpc(self._name, partial(self._effects[method], request), None, seconds):
                yield answer

        return answers


SIGNATURE = "simulatedDelivery"


class SignedFirestore:
    """Firestore's client, signing each write with its delivery: one call may carry the writes of several."""

    def __init__(self, client: FirestoreClient, delivery: Callable[[], str]) -> None:
        self.get, self.query = client.get, client.query
        self._commit = client.commit
        self._delivery = delivery

    async def commit(self, database: str, writes: list[Any]) -> Any:
        for write in writes:
            write.update.fields[SIGNATURE].string_value = self._delivery()
        return await self._commit(database, writes)


class SignedPublisher:
    """The publisher's client, signing each message likewise."""

    def __init__(self, client: PublisherClient, delivery: Callable[[], str]) -> None:
        self._publish = client.publish
        self._delivery = delivery

    async def publish(self, topic: str, message: Any) -> Any:
        message.attributes[SIGNATURE] = self._delivery()
        return await self._publish(topic, message)


class HttpClient:
    """handlers.http's client of the same name."""

    def __init__(self, wire: Wire, google: Google, token_uri: str) -> None:
        self._wire = wire
        self._google = google
        self._token_uri = token_uri

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        if url == self._token_uri:
            form = parse_qs(body.decode(), strict_parsing=True)
            return await self._exchange("oauth", lambda trouble: self._google.token(form, trouble), seconds)
        assert body == b""
        assert headers["Content-Length"] == "0"
        call = self._google.sends(url, headers)
        try:
            answer = await self._exchange("portability", lambda trouble: self._google.retry(call, trouble), seconds)
        except (NotSent, NoAnswer, asyncio.CancelledError) as error:
            self._google.unanswered(call, sent=not isinstance(error, NotSent))
            raise
        self._google.answered(call)
        return answer

    async def _exchange(
        self, service: str, effect: Callable[[str], tuple[int, bytes]], seconds: float
    ) -> tuple[int, bytes]:
        answer: tuple[int, bytes] = await self._wire.exchange(
            service,
            effect,
            seconds=seconds,
            refused=lambda: NotSent("ClientConnectorError"),
            lost=lambda: NoAnswer("ServerDisconnectedError"),
            overdue=lambda: NoAnswer("SocketTimeoutError"),
        )
        return answer
