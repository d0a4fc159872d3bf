"""Pub/Sub: topics that accept messages, and the push subscriptions that bring failed and started jobs.

https://cloud.google.com/pubsub/docs/push, .../handling-failures: at least once, back-off after a nack, dead letters.
"""

import base64
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from google.pubsub_v1.types import PublishResponse

from tests.simulation.record import (
    SIGNATURE,
    Acked,
    DeadLettered,
    Delivered,
    EventPublished,
    FollowUp,
    Leak,
    Nacked,
    Record,
    Rejection,
)
from tests.simulation.timeline import Timeline
from tests.simulation.watch_record import (
    EndTold,
    FailureTold,
    StartedPublished,
    WatchAcked,
    WatchDeadLettered,
    WatchDelivered,
    WatchNacked,
    WatchRejection,
    is_watchs,
)

FAILED, RETRIED, REJECTED, STARTED, ENDED = (
    f"projects/p/topics/archive-job-{name}" for name in ("failed", "retried", "retry-rejected", "started", "ended")
)
_PublishResponse = PublishResponse.pb()
_REQUEST_TIMEOUT = 120.0  # seconds: Cloud Run's, which ends a push before the ack deadline does
_LONGEST_BACK_OFF = 600.0  # seconds


class Platform(Protocol):
    """Cloud Run: hands a push to one of its instances."""

    def route(self, delivery: str, body: bytes, respond: Callable[[int], None]) -> str:
        """Returns the name of the instance; it responds later, or never."""


@dataclass(slots=True)
class _Message:
    name: str
    data: bytes
    attributes: Mapping[str, str]
    published_at: float
    attempts: int = 0
    settled: bool = False


class PubSub:
    """The topics, and the push subscriptions of the failed and of the started one. Follow-ups go to the latter, too."""

    def __init__(
        self,
        timeline: Timeline,
        record: Record,
        *,
        epoch: int,
        mark: bytes,
        calm_at: float,
        first_back_off: float = 10.0,
    ) -> None:
        rng = timeline.rng
        self._timeline = timeline
        self._record = record
        self._epoch = epoch
        self._mark = mark
        self.calm_at = calm_at
        self._first_back_off = first_back_off
        self.most_attempts = rng.choice((5, 12, 30))
        self._again = rng.choice((0.0, 0.2, 0.5))  # share of deliveries that come once more for no reason
        self._messages: list[_Message] = []
        self._copies: Counter[tuple[str, str]] = Counter()
        self.most_copies = sys.maxsize
        self.platform: Platform
        self.followed_up: Callable[[bytes], None] = lambda data: None  # told every accepted follow-up
        self.ended: Callable[[str, str], None] = lambda job, state: None  # told every accepted ended event

    def publish(self, request: Any, trouble: str) -> Any:
        """Accept the messages."""
        signed = (message.attributes[SIGNATURE] for message in request.messages)
        self._record.together(self._timeline.now, "pubsub", signed)
        accepted = [
            self._accept(request.topic, message.data, dict(sorted(message.attributes.items())))
            for message in request.messages
        ]
        return _PublishResponse(message_ids=accepted)

    def _accept(self, topic: str, data: bytes, attributes: dict[str, str]) -> str:
        if self._mark in data or self._mark.decode() in str(attributes):
            self._record.add(Leak(self._timeline.now, topic))
        delivery = attributes.pop(SIGNATURE)
        if topic == FAILED:
            if is_watchs(delivery):
                self._record.add(FailureTold(self._timeline.now, delivery, data, json.dumps(attributes)))
                return "" if self._are_enough(topic, data) else self.fail(data, attributes)
            return self.fail(data, attributes, put_back_by=delivery)
        if topic == STARTED:
            return self.start(data, attributes, put_back_by=delivery)
        content = msgspec.json.decode(data)
        now, job = self._timeline.now, content["archiveJobId"]
        who = {"root": content["rootArchiveJobId"], "user": content["userId"], "credential": content["credentialId"]}
        if topic == RETRIED:
            told = {"new_job": job, "attempt": content["attempt"], "attributes": attributes}
            told_at = self._seconds(content["retriedAt"])
            self._record.add(FollowUp(now, delivery, content["retriedArchiveJobId"], **who, **told, told_at=told_at))
            if not self._are_enough(topic, data):
                self.followed_up(data)
        elif topic == ENDED:
            told = {name: content[name] for name in ("attempt", "state", "cause")}
            ended_at = self._seconds(content["endedAt"])
            self._record.add(EndTold(now, delivery, job, **who, **told, ended_at=ended_at))
            assert attributes["dedupKey"] == job
            assert attributes["state"] == content["state"]
            self.ended(job, content["state"])
        else:
            assert topic == REJECTED
            event = content["event"]
            whole = event.encode() if content["eventEncoding"] == "text" else base64.b64decode(event)
            said = {name: content[name] for name in ("reason", "attempt", "detail")}
            said |= {"cause": content.get("cause", ""), "calls_in_doubt": content.get("callsInDoubt", 0)}  # 1.0: absent
            said |= who | {"told_at": self._seconds(content["rejectedAt"]), "attributes": attributes}
            if is_watchs(delivery):
                source = attributes.get("source", "")
                self._record.add(WatchRejection(now, delivery, job, event=whole, source=source, **said))
            else:
                self._record.add(Rejection(now, delivery, job, event=whole, **said))
        return f"message-{now}"

    def _are_enough(self, topic: str, data: bytes) -> bool:
        """Whether these are copies of one message in the circle of the watch, and so many that the first will do.

        Where Pub/Sub accepts and its answers are lost, each copy of a failed event brings copies of a follow-up.
        """
        job = msgspec.json.decode(data)["archiveJobId"]
        self._copies[topic, job] += 1
        return self._copies[topic, job] > self.most_copies

    def fail(self, data: bytes, attributes: Mapping[str, str], *, put_back_by: str = "") -> str:
        """A failed job is published."""
        now, message = self._timeline.now, _Message(f"m{len(self._messages) + 1}", data, attributes, self._timeline.now)
        self._messages.append(message)
        event = _event(data)
        failed_at = event.get("failedAt")
        since = self._seconds(failed_at) if failed_at else now
        job = event.get("archiveJobId", "").removeprefix("archiveJobs/")
        user = event.get("userId", "")
        said = (job, user, event.get("credentialId") or user, event.get("attempt", 0), since, bool(failed_at))
        self._record.add(EventPublished(now, message.name, *said, put_back_by, data, attributes))
        self._timeline.after(0.02 * self._timeline.rng.random(), self._push, message)
        return message.name

    def start(self, data: bytes, attributes: Mapping[str, str], *, put_back_by: str = "") -> str:
        """A started job, or a follow-up, is published."""
        now, message = self._timeline.now, _Message(f"w{len(self._messages) + 1}", data, attributes, self._timeline.now)
        self._messages.append(message)
        event = _event(data)
        says = event.get("startedAt") or event.get("retriedAt")
        try:
            started_at = min(self._seconds(says), now) if says else now
        except ValueError:
            event, started_at = {}, now
        job, user = event.get("archiveJobId", "").removeprefix("archiveJobs/"), event.get("userId", "")
        said = (
            job,
            user,
            event.get("credentialId") or user,
            event.get("rootArchiveJobId", ""),
            event.get("attempt", 0),
        )
        known = (*said, started_at, bool(says), put_back_by, data)
        self._record.add(StartedPublished(now, message.name, *known))
        self._timeline.after(0.02 * self._timeline.rng.random(), self._push, message)
        return message.name

    def _seconds(self, moment: str) -> float:
        return datetime.fromisoformat(moment).timestamp() - self._epoch

    def _push(self, message: _Message) -> None:
        if message.settled:
            return
        timeline, rng = self._timeline, self._timeline.rng
        message.attempts += 1
        delivery = f"{message.name}#{message.attempts}"
        responded = False

        def respond(status: int) -> None:
            timeline.after(0.01 * rng.random(), close, status)

        def close(status: int) -> None:
            nonlocal responded
            if not responded:
                responded = True
                self._settle(message, delivery, status)

        instance = self.platform.route(delivery, self._body(message), respond)
        delivered = WatchDelivered if is_watchs(delivery) else Delivered
        self._record.add(delivered(timeline.now, delivery, message.name, instance))
        timeline.after(_REQUEST_TIMEOUT, close, 504)
        if timeline.now < self.calm_at and rng.random() < self._again and timeline.happens():
            timeline.after(rng.choice((0.001, 1.0, 300.0)) * rng.random(), self._push_again, message)

    def deliver_again(self) -> None:
        """Late, after the acknowledgement, some message comes once more."""
        if self._messages and self._timeline.now < self.calm_at and self._timeline.happens():
            self._push_again(self._timeline.rng.choice(self._messages))

    def _push_again(self, message: _Message) -> None:
        """At least once: a duplicate comes though the message is in hand, or acknowledged."""
        settled, message.settled = message.settled, False
        self._push(message)
        message.settled = settled

    def _settle(self, message: _Message, delivery: str, status: int) -> None:
        timeline, watchs = self._timeline, is_watchs(delivery)
        if 200 <= status < 300:
            message.settled = True
            self._record.add((WatchAcked if watchs else Acked)(timeline.now, delivery, message.name))
            return
        self._record.add((WatchNacked if watchs else Nacked)(timeline.now, delivery, message.name, str(status)))
        if message.settled:
            return
        if message.attempts >= self.most_attempts:
            message.settled = True
            self._record.add((WatchDeadLettered if watchs else DeadLettered)(timeline.now, message.name))
            return
        first = self._first_back_off
        longest = min(_LONGEST_BACK_OFF, first * 2 ** (message.attempts - 1))
        timeline.after(timeline.rng.uniform(first, longest + 1), self._push, message)

    def _body(self, message: _Message) -> bytes:
        content = {
            "data": message.data,
            "attributes": message.attributes,
            "messageId": message.name,
            "publishTime": datetime.fromtimestamp(self._epoch + message.published_at, UTC),
        }
        push = {
            "message": content,
            "subscription": "projects/p/subscriptions/push",
            "deliveryAttempt": message.attempts,
        }
        return msgspec.json.encode(push)


def _event(data: bytes) -> dict[str, Any]:
    """What the event says, {} where it is malformed: the simulation's producers know only these forms."""
    try:
        event = msgspec.json.decode(data)
    except ValueError:
        return {}
    sound = isinstance(event, dict) and all(isinstance(event.get(name), str) for name in ("archiveJobId", "userId"))
    return event if sound else {}
