"""What waits in the dead-letter and the rejected subscription: read, checked, and chosen by a filter."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from google.pubsub_v1.types.pubsub import PubsubMessage
from msgspec import Meta, Struct

from handlers.domain.decisions import RetryPolicy
from handlers.domain.events import JOB_ID, USER_ID, MalformedEvent, parse_failed
from handlers.domain.outcomes import Reason

UNDELIVERED = "UNDELIVERED"  # a sound event that Pub/Sub gave up on: what stopped it was ours
UNREADABLE = "UNREADABLE"  # not a rejection, so it holds no event

# The ledger repeats these until a person reopens the job.
REOPENED = (Reason.OUTCOME_UNKNOWN, Reason.RETRY_BUDGET_EXHAUSTED)
# Of the rejections: a malformed event stays malformed, and an expired one expired; of the others a person has to find
# out first whether a retry is running. Such a dead letter is another case: nobody has been told of it yet.
ONLY_BY_NAME = frozenset({Reason.MALFORMED_EVENT, Reason.EVENT_EXPIRED, UNREADABLE, *REOPENED})

# What Pub/Sub adds: https://cloud.google.com/pubsub/docs/handling-failures#attributes-added and its own use
_DEAD_LETTER = "CloudPubSubDeadLetterSource"
_ADDED = ("CloudPubSubDeadLetter", "googclient_schema")

# Subscriptions of the watch (infra/watch.tf). What they gave up on can be read as a failed event, and is none.
WATCHED = ("archive-job-started-watch", "archive-job-retried-watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingMessage:
    """One message that waits for a person. `data` and `attributes` are what goes back on the failed topic."""

    message_id: str
    arrived_at: datetime
    reason: str
    cause: str = ""
    detail: str = ""
    job_id: str = ""
    user_id: str = ""
    credential_id: str = ""
    source: str = ""  # of a dead letter: the subscription that gave it up
    deliveries: int = 0  # and after how many
    rejected_at: str = ""  # of a rejection, as the ledger's entry has it
    obstacle: str = ""  # why it cannot be put back
    data: bytes = b""
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def reopens(self) -> bool:
        """Whether the ledger would only repeat the rejection. Any other one leaves a later event its own answer."""
        return bool(self.rejected_at) and self.reason in REOPENED


Read = Callable[[PubsubMessage], PendingMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which messages are asked for; what is left out does not matter. Ages are since the message arrived."""

    reasons: frozenset[str] = frozenset()  # or causes
    users: frozenset[str] = frozenset()
    jobs: frozenset[str] = frozenset()
    older_than: timedelta = timedelta.min
    newer_than: timedelta = timedelta.max
    only_by_name: frozenset[str] = ONLY_BY_NAME  # reasons that match only where they are named

    def matches(self, message: PendingMessage, now: datetime) -> bool:
        if self.reasons:
            return not self.reasons.isdisjoint((message.reason, message.cause)) and self.fits(message, now)
        return message.reason not in self.only_by_name and self.fits(message, now)

    def fits(self, message: PendingMessage, now: datetime) -> bool:
        """Whether it would match if its reason were named."""
        return (
            (not self.users or message.user_id in self.users)
            and (not self.jobs or message.job_id in self.jobs)
            and self.older_than <= now - message.arrived_at <= self.newer_than
        )


class _Rejection(Struct, rename="camel"):
    """A rejection as the contract has it, with ids of its forms. What the last release did not write has a default."""

    reason: Annotated[str, Meta(pattern=r"^[A-Z_]{1,64}\Z")]
    rejected_at: Annotated[str, Meta(pattern=r"^[0-9TZ:.+-]{1,40}\Z")]
    event: str
    event_encoding: Literal["text", "base64", "truncated"]
    cause: Annotated[str, Meta(pattern=r"^[A-Z_]{0,64}\Z")] = ""
    detail: str = ""
    archive_job_id: Annotated[str, Meta(pattern=rf"^({JOB_ID})?\Z")] = ""
    user_id: Annotated[str, Meta(pattern=rf"^({USER_ID})?\Z")] = ""
    credential_id: Annotated[str, Meta(pattern=rf"^({USER_ID})?\Z")] = ""

    def data(self) -> bytes:
        """The event. Raises ValueError where it is not that job's."""
        data = self.event.encode()
        if self.event_encoding != "text":
            data = base64.b64decode(self.event, validate=True)
        if self.reason != Reason.MALFORMED_EVENT and parse_failed(data).job_id != self.archive_job_id:
            raise ValueError("it is about another job than its event")
        return data


def dead_letter_reader(now: datetime, policy: RetryPolicy) -> Read:
    """How to read the dead-letter subscription."""

    def read(message: PubsubMessage) -> PendingMessage:
        attributes = dict(message.attributes)
        detail = ""
        known: dict[str, Any]
        try:
            event = parse_failed(message.data)
        except MalformedEvent as error:
            reason, detail = str(Reason.MALFORMED_EVENT), str(error)
            names = {"job_id": "archiveJobId", "user_id": "userId", "credential_id": "credentialId"}
            known = {name: error.known.get(field, "") for name, field in names.items()}
        else:
            known = {"job_id": event.job_id, "user_id": event.user_id, "credential_id": event.credential_id}
            expired = policy.judge_age(event, now)
            reason = expired.reason if expired else UNDELIVERED
        deliveries = attributes.get(f"{_DEAD_LETTER}DeliveryCount", "")
        source = attributes.get(f"{_DEAD_LETTER}Subscription", "")
        obstacle = _obstacle(message.data, attributes)
        if source in WATCHED:
            obstacle = "it tells of a running job: publish it to archive-job-started instead"
        return PendingMessage(
            message_id=message.message_id,
            arrived_at=_arrived_at(message),
            reason=reason,
            detail=detail,
            source=source,
            deliveries=int(deliveries) if deliveries.isdecimal() else 0,
            obstacle=obstacle,
            data=message.data,
            attributes={name: value for name, value in attributes.items() if not name.startswith(_ADDED)},
            **known,
        )

    return read


def read_rejection(message: PubsubMessage) -> PendingMessage:
    """How to read the rejected subscription. A rejection keeps its event's data, and not its attributes."""
    message_id, arrived_at = message.message_id, _arrived_at(message)
    try:
        rejection = msgspec.json.decode(message.data, type=_Rejection)
        data = rejection.data()
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        detail = f"This message is no rejection that can be read: {error}"
        return PendingMessage(message_id=message_id, arrived_at=arrived_at, reason=UNREADABLE, detail=detail)
    obstacle = _obstacle(data, {})
    if rejection.event_encoding == "truncated":
        obstacle = "its event was too large to be kept: only the beginning is there"
    elif source := message.attributes.get("source"):
        obstacle = f"its event is none of a failed job: it came from {source}"
    return PendingMessage(
        message_id=message_id,
        arrived_at=arrived_at,
        reason=rejection.reason,
        cause=rejection.cause,
        detail=rejection.detail,
        job_id=rejection.archive_job_id,
        user_id=rejection.user_id,
        credential_id=rejection.credential_id,
        rejected_at=rejection.rejected_at,
        obstacle=obstacle,
        data=data,
    )


def _obstacle(data: bytes, attributes: dict[str, str]) -> str:
    return "" if data or attributes else "it is empty, and Pub/Sub takes no empty message"


def _arrived_at(message: PubsubMessage) -> datetime:
    moment: datetime = PubsubMessage.pb(message).publish_time.ToDatetime(UTC)
    return moment
