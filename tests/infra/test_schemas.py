"""The schemas in infra/schemas/ are those of the contract and of the functions' messages, and Pub/Sub enforces them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import fastavro
import pytest
from google.api_core.exceptions import InvalidArgument
from google.pubsub_v1 import Encoding, PublisherClient, PubsubMessage, Schema, SchemaServiceClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from grpc import insecure_channel

from tests.infra.code import ArchiveJobRetried, Reason, RetryRejected, encode
from tests.infra.rules import SCHEMAS

_AT = "2026-11-23T18:00:00.000Z"
# as the contract has them
_JOB = {"archiveJobId": "job", "rootArchiveJobId": "root", "userId": "user", "credentialId": "user"}
_WHOLE = {**_JOB, "attempt": 1, "rejectedAt": _AT, "event": "rubbish", "eventEncoding": "text"}
MESSAGES: dict[str, dict[str, object]] = {
    "archive_job_ended": {**_JOB, "attempt": 1, "state": "COMPLETE", "cause": "", "endedAt": _AT},
    "archive_job_retried": {**_JOB, "retriedArchiveJobId": "failed", "attempt": 1, "retriedAt": _AT},
    "archive_job_retry_rejected": {"reason": "MALFORMED_EVENT", "cause": "", "detail": "", "callsInDoubt": 0, **_WHOLE},
}
# the first revision of the rejection's, which may still be enforced where a new function starts
_FIRST = {"reason": "MALFORMED_EVENT", "detail": "", **_WHOLE}

CODES = {
    "archive_job_retried": ArchiveJobRetried(
        archive_job_id="new",
        retried_archive_job_id="failed",
        root_archive_job_id="root",
        user_id="user",
        credential_id="user",
        attempt=2,
        retried_at=_AT,
    ),
    "archive_job_retry_rejected": RetryRejected(
        reason=Reason.MALFORMED_EVENT, detail="No JSON.", rejected_at=_AT, event="rubbish", event_encoding="text"
    ),
}


def _schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMAS[name].read_text())
    return found


def test_there_is_a_schema_for_each_message_and_no_other() -> None:
    assert set(SCHEMAS) == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_the_contract_has_the_fields_of_its_schema_and_fits_it(name: str) -> None:
    assert {field["name"] for field in _schema(name)["fields"]} == set(MESSAGES[name])
    assert fastavro.validate(MESSAGES[name], _schema(name), strict=True)


@pytest.mark.parametrize("name", CODES)
def test_a_message_of_the_code_has_these_fields_in_this_order(name: str) -> None:
    message = json.loads(encode(CODES[name]))
    assert [f["name"] for f in _schema(name)["fields"]] == list(message)


def test_the_schema_names_every_reason() -> None:
    reason = _schema("archive_job_retry_rejected")["fields"][0]
    assert [known for known in Reason if known not in reason["doc"]] == []


def test_a_field_that_was_added_has_a_default() -> None:
    """So that it can read what was written before: https://cloud.google.com/pubsub/docs/commit-schema-revision"""
    fields = {field["name"]: field for field in _schema("archive_job_retry_rejected")["fields"]}
    assert {name for name, field in fields.items() if "default" in field} == set(fields) - set(_FIRST)


Publish = Callable[[dict[str, object]], object]


@pytest.fixture
def schemas(pubsub_emulator: str) -> Iterator[SchemaServiceClient]:
    with insecure_channel(pubsub_emulator) as channel:
        yield SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=channel))


@pytest.fixture
def topic(pubsub_emulator: str, project: str) -> Iterator[Callable[[str], Publish]]:
    """Makes a topic with a schema; gives what publishes to it."""
    with insecure_channel(pubsub_emulator) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))

        def made(schema: str) -> Publish:
            name = f"projects/{project}/topics/{schema.rpartition('/')[2]}"
            settings = {"schema": schema, "encoding": Encoding.JSON}
            publisher.create_topic(request={"name": name, "schema_settings": settings})
            return lambda message: publisher.publish(
                topic=name, messages=[PubsubMessage(data=json.dumps(message).encode())], timeout=10
            )

        yield made


def _definition(content: object) -> Schema:
    return Schema(type_=Schema.Type.AVRO, definition=json.dumps(content))


@pytest.mark.parametrize("name", MESSAGES)
def test_pubsub_takes_the_message_and_refuses_one_without_a_field(
    name: str, schemas: SchemaServiceClient, topic: Callable[[str], Publish], project: str
) -> None:
    made = schemas.create_schema(parent=f"projects/{project}", schema=_definition(_schema(name)), schema_id=name)
    publish = topic(made.name)
    publish(MESSAGES[name])
    for field in MESSAGES[name]:
        short = {other: value for other, value in MESSAGES[name].items() if other != field}
        with pytest.raises(InvalidArgument):
            publish(short)


def test_after_a_new_revision_the_messages_of_both_functions_are_taken(
    schemas: SchemaServiceClient, topic: Callable[[str], Publish], project: str
) -> None:
    """Whether the first one takes the new fields the emulator does not tell: it passes over what it does not know."""
    now = _schema("archive_job_retry_rejected")
    first = {**now, "fields": [field for field in now["fields"] if field["name"] in _FIRST]}
    made = schemas.create_schema(parent=f"projects/{project}", schema=_definition(first), schema_id="revised")
    publish = topic(made.name)
    revision = _definition(now)
    revision.name = made.name
    schemas.commit_schema(name=made.name, schema=revision)
    publish(MESSAGES["archive_job_retry_rejected"])
    publish(_FIRST)  # by the first revision: the new one asks for every field (see above)
