"""What a delivery is: every form that Google Cloud sends, and nothing else."""

import base64
import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.domain.events import Delivery
from handlers.web.push_request import MESSAGE_PUBLISHED, NotADelivery, parse_delivery

MIB = 1 << 20
DATA = b"data \xff\xfb\xef"
PUSH: dict[str, Any] = {
    "message": {
        "data": base64.b64encode(DATA).decode(),
        "attributes": {"key": "value"},
        "messageId": "42",
        "message_id": "42",
        "publishTime": "2026-11-23T18:00:00.123Z",
        "publish_time": "2026-11-23T18:00:00.123Z",
        "orderingKey": "key",
    },
    "subscription": "projects/p/subscriptions/s",
    "deliveryAttempt": 3,
}
SAME = Delivery(
    data=DATA,
    attributes={"key": "value"},
    message_id="42",
    published_at=datetime(2026, 11, 23, 18, 0, 0, 123_000, UTC),
    delivery_attempt=3,
)
STRUCTURED = {"content-type": "application/cloudevents+json"}
EVENT = {"specversion": "1.0", "type": MESSAGE_PUBLISHED, "source": "//pubsub", "id": "1"}


def encode(content: Any) -> bytes:
    return json.dumps(content).encode()


def parse(attempt: Any = 3, **message: Any) -> Delivery:
    return parse_delivery({}, encode({"message": message, "deliveryAttempt": attempt}))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/json"}, encode(PUSH)),
        ({}, encode(PUSH)),
        ({"ce-type": MESSAGE_PUBLISHED, "ce-specversion": "1.0"}, encode(PUSH)),
        ({"content-type": "Application/CloudEvents+JSON; charset=utf-8"}, encode(EVENT | {"data": PUSH})),
        (STRUCTURED, encode(EVENT | {"data_base64": base64.b64encode(encode(PUSH)).decode()})),
    ],
    ids=["push", "push without a content type", "binary CloudEvent", "structured CloudEvent", "structured in base64"],
)
def test_every_form_is_the_same_delivery(headers: dict[str, str], body: bytes) -> None:
    assert SAME == parse_delivery(headers, body)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"message_id": "7", "publish_time": "2026-11-23T18:00:00Z"}, {"message_id": "7"}),
        ({"messageId": None, "message_id": "7"}, {"message_id": "7"}),
        ({"messageId": None, "message_id": None}, {"message_id": ""}),
        ({"messageId": 7}, {"message_id": "7"}),
        ({"attributes": {"one": None, "other": "x"}}, {"attributes": {"other": "x"}}),
        ({}, {"data": b"", "attributes": {}, "message_id": "", "published_at": None}),
        ({"attributes": {"only": "attributes"}}, {"data": b"", "attributes": {"only": "attributes"}}),
        ({"data": None, "attributes": None, "publishTime": None}, {"data": b"", "attributes": {}}),
        ({"data": base64.urlsafe_b64encode(DATA).decode()}, {"data": DATA}),
        ({"data": base64.b64encode(DATA + b"x").decode().rstrip("=")}, {"data": DATA + b"x"}),
        *[
            ({"publishTime": text}, {"published_at": None})
            for text in ("", "yesterday", "2026-11-23", "99999-01-01T00:00:00Z", "9999-12-31T23:00:00-02:00")
        ],
    ],
)
def test_message_of_a_push(message: dict[str, Any], expected: dict[str, Any]) -> None:
    delivery = parse(**message)
    assert expected == {name: getattr(delivery, name) for name in expected}


def test_more_attributes_than_pubsub_sends_are_no_delivery() -> None:
    """A hundred are the publisher's, and Pub/Sub adds some of its own."""
    attributes = {str(number): "" for number in range(201)}
    assert 150 == len(parse(attributes=dict(list(attributes.items())[:150])).attributes)
    with pytest.raises(NotADelivery):
        parse(attributes=attributes)


@pytest.mark.parametrize(
    ("data", "times"),
    [("A" * 4 * MIB, 4), ("-_" * 2 * MIB, 4), ("\U0001f600" + "-_" * 2 * MIB, 6)],
    ids=["standard", "url-safe", "not ascii"],
)
def test_parsing_takes_a_few_times_the_body_at_most(data: str, times: int) -> None:
    body = json.dumps({"message": {"data": data}}, ensure_ascii=False).encode()
    tracemalloc.start()
    try:
        with suppress(NotADelivery):
            parse_delivery({}, body)
        assert tracemalloc.get_traced_memory()[1] < times * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("attempt", "read"), [(3, 3), ("3", 3), (3.0, 3), (None, 0), (0, 0), (-1, 0)])
def test_delivery_attempt(attempt: Any, read: int) -> None:
    assert read == parse(attempt).delivery_attempt


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        *[({}, body) for body in (b"", b"rubbish", b"\xff\xfe", b"[]", b"{}", b'{"message":' * 100_000)],
        ({}, encode({"message": []})),
        ({}, encode({"message": None})),
        ({}, encode({"message": {"data": "not base64!"}})),
        ({}, encode({"message": {"data": 5}})),
        ({}, encode({"message": {"data": "\U0001f600"}})),
        ({}, encode({"message": {"messageId": "4" * 257}})),
        ({}, b'{"message": {"messageId": %b}}' % (b"4" * 257)),
        ({}, encode({"message": {"attributes": {"nested": {}}}})),
        ({}, encode({"message": {}, "deliveryAttempt": "many"})),
        ({"ce-type": "google.cloud.audit.log.v1.written"}, encode(PUSH)),
        (STRUCTURED, encode(PUSH)),
        (STRUCTURED, encode({"type": "another", "data": PUSH})),
        (STRUCTURED, encode({"type": MESSAGE_PUBLISHED})),
        (STRUCTURED, encode({"type": MESSAGE_PUBLISHED, "data_base64": "%"})),
        (STRUCTURED, encode({"type": MESSAGE_PUBLISHED, "data_base64": "é"})),
        (STRUCTURED, b"[" * 100_000),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_no_delivery_is_not_quoted(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(NotADelivery) as caught:
        parse_delivery(headers, body)
    assert str(caught.value) in (
        "The body is no Pub/Sub push and no CloudEvent with one.",
        "The CloudEvent is of another type.",
    )
