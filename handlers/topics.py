"""Publishing: done when Pub/Sub has accepted the message, and not before."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.api_core.exceptions import GoogleAPIError
from google.api_core.retry_async import AsyncRetry

from handlers.generated import message_module
from handlers.grouping import PAUSE, Grouped
from handlers.rpc import Service, fault_of, passes, refused

# Publishing again is harmless (a follow-up names the same job), so it goes on until nobody waits for it any more.
_RETRY: Any = AsyncRetry(predicate=passes, initial=0.1, maximum=5.0, timeout=600.0)
_TIMEOUT = 10.0  # seconds for one try

_types = message_module("google.pubsub_v1", "pubsub")
_Request, _Answer, _Message = (
    each.pb() for each in (_types.PublishRequest, _types.PublishResponse, _types.PubsubMessage)
)


class PublisherClient:
    """The method of Pub/Sub's publisher that a topic needs: `publish(topic, message)` gives the message's id."""

    HOST, SERVICE = "pubsub.googleapis.com", "google.pubsub.v1.Publisher"

    def __init__(self, service: Service, *, pause: float = PAUSE) -> None:
        call = service.unary("Publish", _Request, _Answer, routed_by="topic", seconds=_TIMEOUT, retry=_RETRY)

        async def publish(topic: str, messages: list[Any]) -> Sequence[Any]:
            answer = await call(_Request(topic=topic, messages=messages))
            return list(answer.message_ids)

        self.publish = Grouped(publish, size=_Message.ByteSize, refused=refused, pause=pause)


class Topic:
    """One topic to publish to."""

    def __init__(self, client: PublisherClient, project: str, name: str) -> None:
        self._client = client
        self.name = name if "/" in name else f"projects/{project}/topics/{name}"

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        try:
            await self._client.publish(self.name, _Message(data=data, attributes=attributes))
        except GoogleAPIError as error:
            raise fault_of(error, f"publishing to {self.name}") from None
