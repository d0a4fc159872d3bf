"""An HTTP request becomes a Delivery: a Pub/Sub push body, or a CloudEvent that holds one.

https://cloud.google.com/pubsub/docs/push#receive_push and
https://googleapis.github.io/google-cloudevents/examples/binary/pubsub/MessagePublishedData-complex.json
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

MESSAGE_PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"


class NotADelivery(Exception):
    """The body is nothing that Pub/Sub or Eventarc would send."""


class Delivery(Struct, frozen=True, kw_only=True):
    """One Pub/Sub message as it was delivered. `attempt` is 0 where the subscription has no dead-letter policy."""

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    message_id: str = ""
    published_at: datetime | None = None
    attempt: int = 0


class _Message(Struct):
    data: bytes | None = None  # msgspec reads base64 into bytes
    attributes: dict[str, str] | None = None
    messageId: str | UnsetType = UNSET  # noqa: N815, Google's own name; the snake-case twin is sent beside it
    message_id: str | UnsetType = UNSET
    publishTime: str | UnsetType = UNSET  # noqa: N815
    publish_time: str | UnsetType = UNSET


class _Push(Struct):
    message: _Message
    deliveryAttempt: int | None = None  # noqa: N815


class _CloudEvent(Struct):
    type: str
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET


_decode_push = msgspec.json.Decoder(_Push).decode
_decode_cloud_event = msgspec.json.Decoder(_CloudEvent).decode


def parse_delivery(headers: Mapping[str, str], body: bytes) -> Delivery:
    """Read a request. Raises NotADelivery, whose text never quotes the request."""
    try:
        push = _decode_push(_push_body(headers, body))
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise NotADelivery("The body is no Pub/Sub push and no CloudEvent with one.") from None
    message = push.message
    return Delivery(
        data=message.data or b"",
        attributes=message.attributes or {},
        message_id=message.messageId or message.message_id or "",
        published_at=_moment(message.publishTime or message.publish_time or ""),
        attempt=push.deliveryAttempt or 0,
    )


def _push_body(headers: Mapping[str, str], body: bytes) -> bytes | Raw:
    """The push body inside of a CloudEvent of either mode, or the body itself where it is none."""
    if headers.get("content-type", "").lower().startswith("application/cloudevents+json"):
        event = _decode_cloud_event(body)
        kind = event.type
        body = base64.b64decode(event.data_base64, validate=True) if event.data_base64 else event.data or b""
    else:
        kind = headers.get("ce-type", MESSAGE_PUBLISHED)
    if kind != MESSAGE_PUBLISHED:
        raise NotADelivery("The CloudEvent is of another type.")
    return body


def _moment(text: str) -> datetime | None:
    """An RFC 3339 time. None for what is not one: a time that nobody can read must not cost an event."""
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
