"""Rules of what a delivery is: every form that Google Cloud sends, and nothing else."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.delivery import MESSAGE_PUBLISHED, Delivery, NotADelivery, parse_delivery

PUSH: dict[str, Any] = {
    "message": {
        "data": base64.b64encode(b"data \xff").decode(),
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
    data=b"data \xff",
    attributes={"key": "value"},
    message_id="42",
    published_at=datetime(2026, 11, 23, 18, 0, 0, 123_000, UTC),
    attempt=3,
)


def encode(content: Any) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/json"}, encode(PUSH)),
        ({}, encode(PUSH)),
        ({"ce-type": MESSAGE_PUBLISHED, "ce-specversion": "1.0"}, encode(PUSH)),
        (
            {"content-type": "Application/CloudEvents+JSON; charset=utf-8"},
            encode({"specversion": "1.0", "type": MESSAGE_PUBLISHED, "source": "//pubsub", "id": "1", "data": PUSH}),
        ),
        (
            {"content-type": "application/cloudevents+json"},
            encode({"type": MESSAGE_PUBLISHED, "data_base64": base64.b64encode(encode(PUSH)).decode()}),
        ),
    ],
    ids=["push", "push without a content type", "binary CloudEvent", "structured CloudEvent", "structured in base64"],
)
def test_every_form_of_a_delivery_is_read_the_same(headers: dict[str, str], body: bytes) -> None:
    assert parse_delivery(headers, body) == SAME


def test_snake_case_names_may_stand_alone() -> None:
    message = {"message_id": "7", "publish_time": "2026-11-23T18:00:00Z"}
    delivery = parse_delivery({}, encode({"message": message}))
    assert ("7", datetime(2026, 11, 23, 18, tzinfo=UTC)) == (delivery.message_id, delivery.published_at)


@pytest.mark.parametrize(
    "message", [{}, {"attributes": {"only": "attributes"}}, {"data": None, "attributes": None}, {"data": ""}]
)
def test_data_may_be_absent(message: dict[str, Any]) -> None:
    assert parse_delivery({}, encode({"message": message})).data == b""


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23", "99999-01-01T00:00:00Z"])
def test_a_publish_time_that_nobody_can_read_costs_no_event(text: str) -> None:
    assert parse_delivery({}, encode({"message": {"publishTime": text}})).published_at is None


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({}, b"rubbish"),
        ({}, b"\xff\xfe"),
        ({}, b"[]"),
        ({}, b"{}"),
        ({}, encode({"message": []})),
        ({}, encode({"message": {"data": "not base64!"}})),
        ({}, encode({"message": {"data": 5}})),
        ({}, encode({"message": {"attributes": {"nested": {}}}})),
        ({}, b'{"message":' * 100_000),
        ({"ce-type": "google.cloud.audit.log.v1.written"}, encode(PUSH)),
        ({"content-type": "application/cloudevents+json"}, encode(PUSH)),
        ({"content-type": "application/cloudevents+json"}, encode({"type": "another", "data": PUSH})),
        ({"content-type": "application/cloudevents+json"}, encode({"type": MESSAGE_PUBLISHED})),
        ({"content-type": "application/cloudevents+json"}, encode({"type": MESSAGE_PUBLISHED, "data_base64": "%"})),
        ({"content-type": "application/cloudevents+json"}, encode({"type": MESSAGE_PUBLISHED, "data_base64": "é"})),
        ({"content-type": "application/cloudevents+json"}, b"[" * 100_000),
    ],
)
def test_what_is_no_delivery_is_refused_without_quoting_it(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(NotADelivery) as caught:
        parse_delivery(headers, body)
    assert str(caught.value) in (
        "The body is no Pub/Sub push and no CloudEvent with one.",
        "The CloudEvent is of another type.",
    )
