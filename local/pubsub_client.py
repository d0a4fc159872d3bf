"""Plain asynchronous Pub/Sub clients for an emulator or the embedded Pub/Sub."""

import contextlib
from collections.abc import AsyncIterator

import grpc
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[PublisherAsyncClient, SubscriberAsyncClient]]:
    """Google's generated clients on one plaintext connection to `address` (`host:port`)."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        yield (
            PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel)),
            SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel)),
        )
