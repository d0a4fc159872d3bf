"""An HTTP request becomes a Delivery: a Pub/Sub push body, or a CloudEvent that holds one.

https://cloud.google.com/pubsub/docs/push#receive_push and
https://googleapis.github.io/google-cloudevents/examples/binary/pubsub/MessagePublishedData-complex.json
"""

import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from handlers.domain.events import ATTEMPT_MAX, Delivery

MESSAGE_PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"


class NotADelivery(Exception):
    """The body is nothing that Pub/Sub or Eventarc would send."""


_Id = Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None


class _Message(Struct):
    data: str | None = None
    attributes: Raw = Raw(b"{}")
    messageId: _Id = None  # noqa: N815, Google's own name; the snake-case twin is sent beside it
    message_id: _Id = None
    publishTime: str | None = None  # noqa: N815
    publish_time: str | None = None


class _Push(Struct):
    message: _Message
    deliveryAttempt: float | str | None = None  # noqa: N815


class _CloudEvent(Struct):
    type: str
    data: Raw = Raw()
    data_base64: str | None = None


_ATTRIBUTES_BYTES = 1 << 20  # as JSON, which may write each of theirs in six
_ATTRIBUTES_MAX = 200  # a hundred of the publisher's, and Pub/Sub's own
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_decode_attributes = msgspec.json.Decoder(dict[str, str | None] | None).decode
_decode_push = msgspec.json.Decoder(_Push).decode
_decode_cloud_event = msgspec.json.Decoder(_CloudEvent).decode


def parse_delivery(headers: Mapping[str, str], body: bytes | bytearray) -> Delivery:
    """Read a request. Raises NotADelivery, whose text never quotes the request."""
    try:
        push = _decode_push(_push_body(headers, body))
        message = push.message
        return Delivery(
            data=_base64(message.data or ""),
            attributes=_attributes(message.attributes),
            message_id=str(message.messageId or message.message_id or ""),
            published_at=_moment(message.publishTime or message.publish_time or ""),
            delivery_attempt=min(max(int(push.deliveryAttempt or 0), 0), ATTEMPT_MAX),
        )
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise NotADelivery("The body is no Pub/Sub push and no CloudEvent with one.") from None


def _attributes(raw: Raw) -> dict[str, str]:
    """Pub/Sub takes a hundred, of 256 and 1,024 bytes at most (https://cloud.google.com/pubsub/quotas)."""
    attributes = _decode_attributes(raw) or {} if len(bytes(raw)) <= _ATTRIBUTES_BYTES else None
    if attributes is None or len(attributes) > _ATTRIBUTES_MAX:
        raise NotADelivery("The message has more attributes than Pub/Sub takes.")
    return {name: text for name, text in attributes.items() if text is not None}


def _push_body(headers: Mapping[str, str], body: bytes | bytearray) -> bytes | bytearray | Raw:
    """The push body inside of a CloudEvent of either mode, or the body itself where it is none."""
    if headers.get("content-type", "").lower().startswith("application/cloudevents+json"):
        event = _decode_cloud_event(body)
        kind = event.type
        body = _base64(event.data_base64) if event.data_base64 else event.data
    else:
        kind = headers.get("ce-type", MESSAGE_PUBLISHED)
    if kind != MESSAGE_PUBLISHED:
        raise NotADelivery("The CloudEvent is of another type.")
    return body


def _base64(text: str) -> bytes:
    """Either alphabet, with padding or without: some relays write the URL-safe one."""
    plain = text.encode("ascii").translate(_FROM_URL_SAFE).rstrip(b"=")
    plain += b"=" * (-len(plain) % 4)
    return binascii.a2b_base64(plain, strict_mode=True)


def _moment(text: str) -> datetime | None:
    """An RFC 3339 time. None for what is not one: a time that nobody can read must not cost an event."""
    try:
        moment = msgspec.convert(text, datetime)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (msgspec.ValidationError, OverflowError):
        return None
