"""Any bytes in: one well-formed outcome out, and nothing of a sound message is lost on the way."""

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import fastavro
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handlers.delivery import MESSAGE_PUBLISHED, Delivery, NotADelivery, parse_delivery
from handlers.events import ArchiveJobFailed, ArchiveJobRetried, MalformedEvent, encode, parse_failed, timestamp
from handlers.outcomes import Deferred, Outcome, Reason, Rejected, Retried
from handlers.settings import Settings, WrongSettings, from_environment
from local.google_apis import MARK
from tests.infra.rules import SCHEMAS
from tests.properties.inputs import QUOTED, anything, events, job_ids, moments, nearly, refused, user_ids
from tests.unit.world import World

_SCHEMAS: dict[str, Any] = {name: fastavro.parse_schema(json.loads(path.read_text())) for name, path in SCHEMAS.items()}
RETRIED, REJECTED = "archive_job_retried", "archive_job_retry_rejected"


def deliver(data: bytes, **answers: Any) -> tuple[World, Outcome]:
    """One delivery to an instance of its own."""
    world = World()
    world.http.retry_scripts = {job: [answer] for job, answer in answers.items()}
    return world, asyncio.run(world.deliver(data))


def fault_or(parse: Callable[..., Any], *given: Any) -> Any:
    """What it returns, or the exception that it raises."""
    try:
        return parse(*given)
    except Exception as fault:
        return fault


def came_out(world: World) -> list[tuple[str, dict[str, Any]]]:
    """All that was published, each with the name of its schema, which it satisfies."""
    messages = [(RETRIED, message) for message in world.retried.messages]
    messages += [(REJECTED, message) for message in world.rejected.messages]
    for name, message in messages:
        assert fastavro.validate(message, _SCHEMAS[name], strict=True)
        assert list(message) == [field["name"] for field in _SCHEMAS[name]["fields"]]
    return messages


@given(st.binary() | nearly(events))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"archiveJobId":' * 50_000)
def test_any_data_ends_as_one_message_that_fits_its_schema(data: bytes) -> None:
    assume(MARK.encode() not in data)  # what comes from outside is nobody's secret, and is published as it came
    world, outcome = deliver(data)
    [(name, message)] = came_out(world)
    match outcome:
        case Rejected(reason):
            assert (REJECTED, reason) == (name, message["reason"])
            kept = message["event"].encode()
            assert data == (base64.b64decode(kept) if message["eventEncoding"] == "base64" else kept)
            if reason == Reason.MALFORMED_EVENT:
                refused()
        case Retried(new_job_id):
            assert (RETRIED, new_job_id) == (name, message["archiveJobId"])
        case _:
            raise AssertionError(outcome)


@given(st.binary() | nearly(events))
def test_any_data_is_a_failed_job_or_malformed(data: bytes) -> None:
    read = fault_or(parse_failed, data)
    if isinstance(read, ArchiveJobFailed):
        assert read == parse_failed(read.encoded())
        return
    refused()
    assert isinstance(read, MalformedEvent)
    assert QUOTED not in str(read)
    assert read.known.keys() <= {"archive_job_id", "root_archive_job_id", "user_id", "credential_id", "attempt"}


@given(events)
def test_every_field_of_a_sound_event_is_read_and_written_as_it_was(event: dict[str, Any]) -> None:
    read = parse_failed(json.dumps(event).encode())
    assert read == parse_failed(read.encoded())
    assert read == ArchiveJobFailed(
        job_id=event["archiveJobId"].removeprefix("archiveJobs/"),
        user_id=event["userId"],
        credential_id=event.get("credentialId", event["userId"]),
        root_job_id=event.get("rootArchiveJobId", ""),
        attempt=min(event.get("attempt", 0), 2**31 - 1),
        failed_at=datetime.fromisoformat(event["failedAt"]) if "failedAt" in event else None,
    )


@given(job_ids, job_ids, job_ids, user_ids, user_ids, st.integers(0, 2**31 - 1), moments)
def test_any_follow_up_is_a_failed_event_as_it_stands(
    new: str, failed: str, root: str, user: str, credential: str, attempt: int, at: datetime
) -> None:
    follow_up = ArchiveJobRetried(
        archive_job_id=new,
        retried_archive_job_id=failed,
        root_archive_job_id=root,
        user_id=user,
        credential_id=credential,
        attempt=attempt,
        retried_at=timestamp(at),
    )
    assert fastavro.validate(json.loads(encode(follow_up)), _SCHEMAS[RETRIED], strict=True)
    assert parse_failed(encode(follow_up)) == ArchiveJobFailed(
        job_id=new, user_id=user, credential_id=credential, root_job_id=root, attempt=attempt
    )


_messages = st.fixed_dictionaries(
    {"messageId": st.text(), "publishTime": moments.map(lambda moment: moment.isoformat())},
    optional={
        "data": st.binary().map(lambda data: base64.b64encode(data).decode()),
        "attributes": st.dictionaries(st.text(), st.text()),
        "orderingKey": st.text(),
        "theirs": anything,
    },
)
_pushes = st.fixed_dictionaries(
    {"message": _messages, "subscription": st.text()}, optional={"deliveryAttempt": st.integers(1, 100)}
)


@given(_pushes)
def test_a_message_is_the_same_delivery_in_every_form(push: dict[str, Any]) -> None:
    body, message = json.dumps(push).encode(), push["message"]
    event = {"specversion": "1.0", "type": MESSAGE_PUBLISHED, "source": "//pubsub", "id": "1"}
    structured = {"content-type": "application/cloudevents+json"}
    same = Delivery(
        data=base64.b64decode(message.get("data", "")),
        attributes=message.get("attributes", {}),
        message_id=message["messageId"],
        published_at=datetime.fromisoformat(message["publishTime"]),
        attempt=push.get("deliveryAttempt", 0),
    )
    assert same == parse_delivery({}, body)
    assert same == parse_delivery({"ce-type": MESSAGE_PUBLISHED}, body)
    assert same == parse_delivery(structured, json.dumps(event | {"data": push}).encode())
    assert same == parse_delivery(
        structured, json.dumps(event | {"data_base64": base64.b64encode(body).decode()}).encode()
    )


_headers = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(("application/json", "application/cloudevents+json; x", "", "text/html")),
        "ce-type": st.sampled_from((MESSAGE_PUBLISHED, "another")) | st.text(),
    },
)


@given(
    _headers,
    st.binary() | nearly(_pushes) | nearly(_pushes.map(lambda push: {"type": MESSAGE_PUBLISHED, "data": push})),
)
def test_any_request_is_a_delivery_or_none_and_is_never_quoted(headers: dict[str, str], body: bytes) -> None:
    read = fault_or(parse_delivery, headers, body)
    if not isinstance(read, Delivery):
        refused()
        assert isinstance(read, NotADelivery)
        assert QUOTED not in str(read)


_NAMES = [name.upper() for name in Settings.__struct_fields__]
_values = (
    st.text() | st.just(QUOTED) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(("a-project", "90"))
)


@given(st.dictionaries(st.sampled_from(_NAMES), _values, max_size=6))
def test_any_environment_is_settings_or_one_message_without_its_values(environment: dict[str, str]) -> None:
    read = fault_or(from_environment, environment)
    if not isinstance(read, Settings):
        refused()
        assert isinstance(read, WrongSettings)
        assert QUOTED not in str(read)


@given(job_ids, st.datetimes(timezones=st.just(UTC)))
def test_a_deferral_publishes_nothing_yet(job: str, until: datetime) -> None:
    info = {"@type": "google.rpc.ErrorInfo", "reason": "X", "metadata": {"timestamp_after_24hrs": until.isoformat()}}
    answer = 429, {"error": {"status": "RESOURCE_EXHAUSTED", "details": [info]}}
    world, outcome = deliver(json.dumps({"archiveJobId": job, "userId": "alice"}).encode(), **{job: answer})
    assert isinstance(outcome, Deferred) == (until > world.time)
    assert [] == came_out(world)
