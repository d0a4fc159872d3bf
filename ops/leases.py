"""Messages of a pull subscription, held while somebody looks at them.

    pull ─► held ─┬─ acknowledge ─► gone
                  ├─ release ─────► available again at once
                  └─ on leaving, however that comes about, what is left is released

Held messages are out of everybody else's sight, a second run's too. Should this process be killed, Pub/Sub hands them
out again when their lease ends, LEASE_SECONDS later at most. Google's SubscriberClient does not do it: at its end it
nacks what no callback has begun on, and leaves what callbacks hold to the ack deadline.
"""

import asyncio
from collections.abc import Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from google.api_core.exceptions import DeadlineExceeded, GoogleAPIError
from google.api_core.retry_async import AsyncRetry
from google.pubsub_v1.types.pubsub import PubsubMessage, PullRequest

from handlers.domain.outcomes import StepError
from handlers.google.clients import Client
from handlers.google.grpc_errors import is_transient, to_step_error

LEASE_SECONDS = 60
MAX_ACK_IDS = 1000  # in one request; it may have 512 KiB, and an ack id takes about 200 bytes
_CALL_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_RELEASE_SECONDS = 20.0

_T = TypeVar("_T")


def _is_retryable(error: Exception) -> bool:
    return is_transient(error) and not isinstance(error, DeadlineExceeded)


_RETRY: Any = AsyncRetry(predicate=_is_retryable, initial=0.2, maximum=2.0, timeout=30.0)


class Leases(AbstractAsyncContextManager["Leases"]):
    """The messages of one subscription that are in hand.

    `client` is asked for a SubscriberAsyncClient before each call: the work may take longer than an access token lives.
    All methods raise Transient or Misconfigured.
    """

    def __init__(
        self, client: Client, project: str, subscription: str, renewed_every: float = LEASE_SECONDS / 3
    ) -> None:
        self._renewed_every = renewed_every  # seconds
        self._client = client
        self.subscription = subscription if "/" in subscription else f"projects/{project}/subscriptions/{subscription}"
        self._held: dict[str, str] = {}  # message id → ack id of its latest delivery
        self._done: set[str] = set()
        self._changing = asyncio.Lock()  # or a lease could be renewed just after it was given up

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        with suppress(StepError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self.release(list(self._held))

    @property
    def held(self) -> frozenset[str]:
        """The ids of the messages in hand."""
        return frozenset(self._held)

    async def pull(self, seconds: float) -> list[PubsubMessage]:
        """Some more messages, each only once; none if none came within these seconds.

        A pull under way is waited for even when this is cancelled: what it brings would stay with nobody otherwise.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while (left := until - clock()) > 0:
            # No short pull at the end: something might be handed out just when nobody waits for it any more.
            if messages := await _whole(self._pull(max(left, seconds / 2))):
                return messages
            await asyncio.sleep(_PAUSE_SECONDS)  # the service may find nothing at once, and something a moment later
        return []

    async def acknowledge(self, message_ids: Collection[str]) -> None:
        """Be done with messages for good.

        An acknowledgement under way is waited for even when this is cancelled: `held` tells then what is left.
        """
        for some in _batches(list(message_ids)):
            await _whole(self._acknowledge(some))

    async def release(self, message_ids: Collection[str]) -> None:
        """Make messages available again, to everybody and at once."""
        mine = [message_id for message_id in message_ids if message_id in self._held]
        for some in _batches(mine):
            async with self._changing:
                await self._lease([self._held[message_id] for message_id in some], 0)
                for message_id in some:
                    del self._held[message_id]

    async def _acknowledge(self, some: list[str]) -> None:
        await self._call("acknowledge", ack_ids=[self._held[message_id] for message_id in some])
        for message_id in some:
            del self._held[message_id]
        self._done.update(some)

    async def _pull(self, seconds: float) -> list[PubsubMessage]:
        """Messages that are not in hand yet."""
        request = PullRequest(subscription=self.subscription, max_messages=MAX_ACK_IDS)
        client = await self._client()
        try:
            pulled = (await client.pull(request, retry=_RETRY, timeout=seconds)).received_messages
        except DeadlineExceeded:
            return []
        except GoogleAPIError as error:
            raise to_step_error(error, f"reading {self.subscription}") from None
        messages = {received.message.message_id: received.message for received in pulled}
        ack_ids = {received.message.message_id: received.ack_id for received in pulled}
        again = ack_ids.keys() & self._done
        if again:  # an acknowledgement can be lost
            await self._call("acknowledge", ack_ids=[ack_ids.pop(message_id) for message_id in again])
        new = [messages[message_id] for message_id in ack_ids if message_id not in self._held]
        self._held |= ack_ids
        await self._lease(list(ack_ids.values()), LEASE_SECONDS)
        return new

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._renewed_every)
            for some in _batches(list(self._held)):
                async with self._changing:
                    ack_ids = [self._held[message_id] for message_id in some if message_id in self._held]
                    with suppress(StepError):  # a lease that ends is no harm: the message is handed out again
                        await self._lease(ack_ids, LEASE_SECONDS)

    async def _lease(self, ack_ids: list[str], seconds: int) -> None:
        if ack_ids:
            await self._call("modify_ack_deadline", ack_ids=ack_ids, ack_deadline_seconds=seconds)

    async def _call(self, method: str, **arguments: Any) -> None:
        client = await self._client()
        try:
            await getattr(client, method)(
                subscription=self.subscription, **arguments, retry=_RETRY, timeout=_CALL_SECONDS
            )
        except GoogleAPIError as error:
            raise to_step_error(error, f"giving an answer to {self.subscription}") from None


async def _whole(work: Coroutine[Any, Any, _T]) -> _T:
    """Done to its end, even when this is cancelled."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _batches(ids: list[str]) -> Iterator[list[str]]:
    return (ids[start : start + MAX_ACK_IDS] for start in range(0, len(ids), MAX_ACK_IDS))
