"""Publishing: done when Pub/Sub has accepted the message, and not before."""

from collections.abc import Mapping
from typing import Any, Protocol

from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
from google.api_core.retry_async import AsyncRetry
from google.pubsub_v1.types.pubsub import PublishRequest, PublishResponse, PubsubMessage

from handlers.rpc import PASSING, Service, fault_of


def _passes(error: Exception) -> bool:
    return isinstance(error, GoogleAPICallError) and error.grpc_status_code in PASSING


# Publishing again is harmless (a follow-up names the same job), so it goes on until the caller's own deadline.
_RETRY: Any = AsyncRetry(predicate=_passes, initial=0.1, maximum=5.0, timeout=600.0)
_TIMEOUT = 10.0  # seconds for one try

# The bare protobuf classes: the wrappers around them take eight times as long to build.
_Request, _Message = PublishRequest.pb(), PubsubMessage.pb()


class Publisher(Protocol):
    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        """Returns when the message is accepted. Raises Unavailable or Misconfigured."""


class PublisherClient:
    """The method of PublisherAsyncClient that a topic needs."""

    HOST, SERVICE = "pubsub.googleapis.com", "google.pubsub.v1.Publisher"

    def __init__(self, service: Service) -> None:
        self._publish = service.unary("Publish", PublishRequest, PublishResponse, routed_by="topic")

    async def publish(self, *, topic: str, messages: list[PubsubMessage], **options: Any) -> PublishResponse:
        request = _Request(topic=topic, messages=[message._pb for message in messages])
        answer: PublishResponse = await self._publish(PublishRequest.wrap(request), **options)
        return answer


class Topic:
    """One topic to publish to."""

    def __init__(self, client: PublisherClient, project: str, name: str) -> None:
        self._client = client
        self.name = name if "/" in name else f"projects/{project}/topics/{name}"

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        messages = [PubsubMessage.wrap(_Message(data=data, attributes=attributes))]
        try:
            await self._client.publish(topic=self.name, messages=messages, retry=_RETRY, timeout=_TIMEOUT)
        except GoogleAPIError as error:
            raise fault_of(error, f"publishing to {self.name}") from None
