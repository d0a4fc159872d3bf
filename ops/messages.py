"""What lies in the dead-letter and the rejected subscription, and what of it goes back on the failed topic."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
from google.pubsub_v1.types.pubsub import PubsubMessage

from handlers.events import MalformedEvent, RetryRejected, parse_failed
from handlers.outcomes import Reason

UNDELIVERED = "UNDELIVERED"  # a sound event that Pub/Sub gave up on: what stopped it was ours
UNREADABLE = "UNREADABLE"  # not a rejection, so it holds no event
# A malformed event stays malformed; whether a retry of a parked job is running, a person has to find out first; and
# calls in doubt that used up a job's retries are forgiven where a person knows that Google carried none of them out.
ONLY_BY_NAME = {Reason.MALFORMED_EVENT, Reason.OUTCOME_UNKNOWN, Reason.RETRY_BUDGET_EXHAUSTED}

# What Pub/Sub adds: https://cloud.google.com/pubsub/docs/handling-failures#attributes-added and its own use
_DEAD_LETTER = "CloudPubSubDeadLetterSource"
_ADDED = ("CloudPubSubDeadLetter", "googclient_schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message that waits for a person. `data` and `attributes` are what goes back on the failed topic."""

    message_id: str
    arrived_at: datetime
    reason: str
    detail: str = ""
    job_id: str = ""
    user_id: str = ""
    source: str = ""  # of a dead letter: the subscription that gave it up
    deliveries: int = 0  # and after how many
    rejected_at: str = ""  # of a rejection, as the ledger's entry has it
    data: bytes = b""
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether the ledger's entry has to be reopened, or the same would come of it again."""
        claimed_anyway = (Reason.EVENT_EXPIRED, Reason.REAUTHORIZATION_REQUIRED, Reason.MALFORMED_EVENT)
        return bool(self.rejected_at) and self.reason not in claimed_anyway


Read = Callable[[PubsubMessage], Letter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters are asked for; what is left out does not matter. Ages are since the letter arrived."""

    reasons: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    jobs: frozenset[str] = frozenset()
    older_than: timedelta = timedelta.min
    newer_than: timedelta = timedelta.max

    def __call__(self, letter: Letter, now: datetime) -> bool:
        """What holds no event is never meant; what has to be looked at first, only by name."""
        reasons = self.reasons or frozenset(Reason) - ONLY_BY_NAME | {UNDELIVERED}
        return (
            letter.reason in reasons - {UNREADABLE}
            and (not self.users or letter.user_id in self.users)
            and (not self.jobs or letter.job_id in self.jobs)
            and self.older_than <= now - letter.arrived_at <= self.newer_than
        )


def dead_letter_reader(now: datetime, event_max_age: timedelta) -> Read:
    """How to read the dead-letter subscription."""

    def read(message: PubsubMessage) -> Letter:
        attributes = dict(message.attributes)
        detail = job_id = user_id = ""
        try:
            event = parse_failed(message.data)
        except MalformedEvent as error:
            reason, detail = str(Reason.MALFORMED_EVENT), str(error)
            job_id, user_id = error.known.get("archive_job_id", ""), error.known.get("user_id", "")
        else:
            job_id, user_id = event.job_id, event.user_id
            expired = event.failed_at and now - event.failed_at > event_max_age
            reason = str(Reason.EVENT_EXPIRED) if expired else UNDELIVERED
        deliveries = attributes.get(f"{_DEAD_LETTER}DeliveryCount", "")
        return Letter(
            message_id=message.message_id,
            arrived_at=_arrived_at(message),
            reason=reason,
            detail=detail,
            job_id=job_id,
            user_id=user_id,
            source=attributes.get(f"{_DEAD_LETTER}Subscription", ""),
            deliveries=int(deliveries) if deliveries.isdecimal() else 0,
            data=message.data,
            attributes={name: value for name, value in attributes.items() if not name.startswith(_ADDED)},
        )

    return read


def read_rejection(message: PubsubMessage) -> Letter:
    """How to read the rejected subscription. A rejection keeps its event's data, whole, and not its attributes."""
    message_id, arrived_at = message.message_id, _arrived_at(message)
    try:
        rejection = msgspec.json.decode(message.data, type=RetryRejected)
        data = _original(rejection)
    except (msgspec.DecodeError, RecursionError, ValueError):
        detail = "This message is not a rejection."
        return Letter(message_id=message_id, arrived_at=arrived_at, reason=UNREADABLE, detail=detail)
    return Letter(
        message_id=message_id,
        arrived_at=arrived_at,
        reason=rejection.reason,
        detail=rejection.detail,
        job_id=rejection.archive_job_id,
        user_id=rejection.user_id,
        rejected_at=rejection.rejected_at,
        data=data,
    )


def _original(rejection: RetryRejected) -> bytes:
    if rejection.event_encoding == "base64":
        return base64.b64decode(rejection.event, validate=True)
    return rejection.event.encode()


def _arrived_at(message: PubsubMessage) -> datetime:
    moment: datetime = message._pb.publish_time.ToDatetime(UTC)
    return moment
