"""One Pub/Sub subscription in memory: what waits, what is leased out, back-off and dead letters.

    publish ─► waiting ─► leased ──ack──► gone
                  ▲          │ nack, or the ack deadline lapses
                  │          ▼
                  └─ back-off ┴─ attempts used up ─► dead-letter topic

Rules and attribute names as documented: https://cloud.google.com/pubsub/docs/handling-failures and
https://cloud.google.com/pubsub/docs/subscription-retry-policy.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = Any  # google.pubsub.v1.PubsubMessage, the generated protobuf class; never changed once published

PULL_PATIENCE_SECONDS = 60.0  # how long a pull waits for a first message
DEFAULT_BACK_OFF_SECONDS = (10.0, 600.0)  # of a retry policy that names no times


@dataclass(slots=True)
class Held:
    """A message that this subscription still owes to somebody."""

    message: Message
    size: int
    attempts: int = 0  # deliveries so far, the running one included


@dataclass(frozen=True, slots=True)
class Lease:
    """One delivery under way."""

    ack_id: str
    held: Held
    lapse: asyncio.TimerHandle

    @property
    def message(self) -> Message:
        """What is being delivered."""
        return self.held.message

    @property
    def attempt(self) -> int:
        """Which delivery of this message it is, from 1."""
        return self.held.attempts


class Subscription:
    """The state of one subscription. `dead_letter` publishes a message to a topic and says whether that exists."""

    def __init__(self, config: Any, dead_letter: Callable[[str, Message], bool]) -> None:
        self.config = config  # google.pubsub.v1.Subscription
        self.held_bytes = 0
        self._retention_seconds = config.message_retention_duration.ToTimedelta().total_seconds()
        self._dead_letter = dead_letter
        self._waiting: deque[Held] = deque()
        self._leased: dict[str, Lease] = {}
        self._arrived = asyncio.Event()
        self._numbers = itertools.count(1)

    @property
    def ack_deadline_seconds(self) -> float:
        """How long one delivery may take."""
        return float(self.config.ack_deadline_seconds or 10)

    def offer(self, message: Message) -> None:
        """Take over a message that was just published."""
        held = Held(message, message.ByteSize())
        self.held_bytes += held.size
        self._wait(held)

    async def take(self, at_most: int, patience_seconds: float) -> list[Lease]:
        """Lease out the longest waiting messages; waits for a first one, then gives what is there."""
        try:
            async with asyncio.timeout(patience_seconds):
                while not (leases := self._take_now(at_most)):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return []
        return leases

    def acknowledge(self, ack_id: str) -> None:
        """Be done with a message. A lease that lapsed is ignored, as Google does."""
        if lease := self._end(ack_id):
            self._forget(lease.held)

    def modify_ack_deadline(self, ack_id: str, seconds: int) -> None:
        """Let a delivery take until `seconds` from now; 0 gives it back (a nack)."""
        if lease := self._end(ack_id):
            if seconds == 0:
                self._give_back(lease.held)
            else:
                self._lease(lease.held, seconds, ack_id)

    def is_ack_id(self, ack_id: str) -> bool:
        """Whether this could be one of ours, lapsed or not."""
        return bool(ack_id.rpartition(":")[0] == self.config.name)

    def close(self) -> None:
        """Forget everything and stop all clocks."""
        for lease in self._leased.values():
            lease.lapse.cancel()
        self._leased.clear()
        self._waiting.clear()

    def _take_now(self, at_most: int) -> list[Lease]:
        leases: list[Lease] = []
        oldest = time.time() - self._retention_seconds
        while self._waiting and len(leases) < at_most:
            held = self._waiting.popleft()
            if held.message.publish_time.ToNanoseconds() / 1e9 < oldest:
                self._forget(held)
                continue
            held.attempts += 1
            ack_id = f"{self.config.name}:{next(self._numbers)}"
            leases.append(self._lease(held, self.ack_deadline_seconds, ack_id))
        return leases

    def _lease(self, held: Held, seconds: float, ack_id: str) -> Lease:
        lapse = asyncio.get_running_loop().call_later(seconds, self.modify_ack_deadline, ack_id, 0)
        self._leased[ack_id] = lease = Lease(ack_id, held, lapse)
        return lease

    def _end(self, ack_id: str) -> Lease | None:
        if lease := self._leased.pop(ack_id, None):
            lease.lapse.cancel()
        return lease

    def _give_back(self, held: Held) -> None:
        policy = self.config.dead_letter_policy
        used_up = policy.dead_letter_topic and held.attempts >= (policy.max_delivery_attempts or 5)
        if used_up and self._dead_letter(policy.dead_letter_topic, self._as_dead_letter(held)):
            self._forget(held)
        else:
            asyncio.get_running_loop().call_later(self._back_off_seconds(held), self._wait, held)

    def _wait(self, held: Held) -> None:
        self._waiting.append(held)
        self._arrived.set()

    def _forget(self, held: Held) -> None:
        self.held_bytes -= held.size

    def _back_off_seconds(self, held: Held) -> float:
        """Doubles from the minimum to the maximum; without a retry policy there is none."""
        if not self.config.HasField("retry_policy"):
            return 0.0
        policy = self.config.retry_policy
        least, most = DEFAULT_BACK_OFF_SECONDS
        if policy.HasField("minimum_backoff"):
            least = policy.minimum_backoff.ToTimedelta().total_seconds()
        if policy.HasField("maximum_backoff"):
            most = policy.maximum_backoff.ToTimedelta().total_seconds()
        return float(min(most, least * 2 ** min(held.attempts - 1, 16)))

    def _as_dead_letter(self, held: Held) -> Message:
        _, project, _, name = self.config.name.split("/")
        message = type(held.message)()
        message.CopyFrom(held.message)
        message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(held.attempts)
        message.attributes["CloudPubSubDeadLetterSourceSubscription"] = name
        message.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
        message.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = held.message.publish_time.ToJsonString()
        return message
