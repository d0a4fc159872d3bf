"""Publishing: done when Pub/Sub has accepted the message, and not before."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.api_core.exceptions import GoogleAPIError
from google.api_core.retry_async import AsyncRetry
from google.pubsub_v1.types import PublishRequest, PublishResponse, PubsubMessage

from handlers.google.batching import MAX_LATENCY, Batcher
from handlers.google.clients import Client
from handlers.google.grpc_errors import is_refused, is_transient, to_step_error
from handlers.telemetry.tracing import message_context

# Publishing again is harmless (a follow-up names the same job), so it goes on until nobody waits for it any more.
_RETRY: Any = AsyncRetry(predicate=is_transient, initial=0.1, maximum=5.0, timeout=600.0)
_TIMEOUT = 10.0  # seconds for one try
_ATTRIBUTES_MAX = 100  # of one message (https://cloud.google.com/pubsub/quotas#resource_limits)

_Request, _Response, _Message = PublishRequest.pb(), PublishResponse.pb, PubsubMessage.pb()


class TopicPublisher:
    """One topic to publish to. Messages that come close together go as one call."""

    def __init__(self, client: Client, project: str, name: str, *, max_latency: float = MAX_LATENCY) -> None:
        self._client = client
        self.name = name if "/" in name else f"projects/{project}/topics/{name}"
        self._together = Batcher(self._send, size=_Message.ByteSize, is_refused=is_refused, max_latency=max_latency)

    async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
        traced = {**attributes, **message_context()}
        message = _Message(data=data, attributes=traced if len(traced) <= _ATTRIBUTES_MAX else attributes)
        try:
            await self._together(message)
        except GoogleAPIError as error:
            raise to_step_error(error, f"publishing to {self.name}") from None

    async def _send(self, messages: list[Any]) -> Sequence[Any]:
        client = await self._client()
        request = PublishRequest.wrap(_Request(topic=self.name, messages=messages))
        response = await client.publish(request, retry=_RETRY, timeout=_TIMEOUT)
        return list(_Response(response).message_ids)
