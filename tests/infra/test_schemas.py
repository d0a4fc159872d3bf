"""The schemas in infra/schemas/ are those of the function's messages, and Pub/Sub enforces them."""

import json

import fastavro
import msgspec
import pytest
from google.api_core.exceptions import InvalidArgument
from google.pubsub_v1 import Encoding, PublisherClient, PubsubMessage, Schema, SchemaServiceClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from grpc import insecure_channel
from handlers.events import ArchiveJobRetried, RetryRejected, encode
from handlers.outcomes import Reason

from tests.infra.rules import SCHEMAS

RETRIED = ArchiveJobRetried(
    archive_job_id="new",
    retried_archive_job_id="failed",
    root_archive_job_id="root",
    user_id="user",
    credential_id="user",
    attempt=2,
    retried_at="2026-11-23T18:00:00.000Z",
)
REJECTED = RetryRejected(
    reason=Reason.MALFORMED_EVENT,
    detail="The event is not JSON.",
    rejected_at="2026-11-23T18:00:00.000Z",
    event="rubbish",
    event_encoding="text",
)
MESSAGES = {"archive_job_retried": RETRIED, "archive_job_retry_rejected": REJECTED}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_the_fields_of_its_schema_and_fits_it(name: str) -> None:
    schema = json.loads(SCHEMAS[name].read_text())
    message = json.loads(encode(MESSAGES[name]))
    assert [field["name"] for field in schema["fields"]] == list(message)
    assert fastavro.validate(message, schema, strict=True)


def test_there_is_no_other_schema() -> None:
    assert set(SCHEMAS) == set(MESSAGES)


def test_the_schema_names_every_reason() -> None:
    reason = json.loads(SCHEMAS["archive_job_retry_rejected"].read_text())["fields"][0]
    assert [known for known in Reason if known not in reason["doc"]] == []


@pytest.mark.parametrize("name", MESSAGES)
def test_pubsub_takes_the_message_and_refuses_one_without_a_field(
    name: str, pubsub_emulator: str, project: str
) -> None:
    with insecure_channel(pubsub_emulator) as channel:
        schemas = SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=channel))
        schema = schemas.create_schema(
            parent=f"projects/{project}",
            schema=Schema(type_=Schema.Type.AVRO, definition=SCHEMAS[name].read_text()),
            schema_id=name,
        )
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        topic = f"projects/{project}/topics/{name}"
        publisher.create_topic(
            request={"name": topic, "schema_settings": {"schema": schema.name, "encoding": Encoding.JSON}}
        )
        publisher.publish(topic=topic, messages=[PubsubMessage(data=encode(MESSAGES[name]))], timeout=10)
        short = msgspec.to_builtins(MESSAGES[name])
        short.popitem()
        with pytest.raises(InvalidArgument):
            publisher.publish(topic=topic, messages=[PubsubMessage(data=encode(short))], timeout=10)
