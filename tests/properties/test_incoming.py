"""Any bytes in: one well-formed outcome out, and nothing of a sound message is lost on the way."""

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import fastavro
from hypothesis import assume, example, given
from hypothesis import strategies as st

from handlers.domain.events import Delivery, JobEvent, MalformedEvent, encode, parse_failed, timestamp
from handlers.domain.messages import ArchiveJobRetried
from handlers.domain.outcomes import Deferred, Outcome, Reason, Rejected, Retried
from handlers.settings import Settings, WrongSettings, from_environment
from handlers.web.push_request import MESSAGE_PUBLISHED, NotADelivery, parse_delivery
from local.google_apis import MARK
from tests.properties.inputs import QUOTED, anything, events, job_ids, moments, nearly, rejected, user_ids
from tests.unit.fakes import CLIENT_SECRET, START, cooldown
from tests.unit.instance import Instance
from tests.unit.process import ROOT

_SCHEMAS: dict[str, Any] = {
    path.stem: fastavro.parse_schema(json.loads(path.read_text())) for path in (ROOT / "infra/schemas").glob("*.avsc")
}
RETRIED, REJECTED = "archive_job_retried", "archive_job_retry_rejected"
ATTEMPT_MAX = 2147483647


class AnySecret(dict[str, Any]):
    """A secret for every user."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, [f"{MARK}-refresh".encode()])


def deliver(data: bytes, **scripts: Any) -> tuple[Instance, Outcome]:
    """One delivery to an instance of its own."""
    instance = Instance()
    instance.secrets.secrets = AnySecret({CLIENT_SECRET: instance.secrets.secrets[CLIENT_SECRET]})
    instance.http.retry_scripts = {job: [answer] for job, answer in scripts.items()}
    return instance, asyncio.run(instance.deliver(data))


def fault_or(parse: Callable[..., Any], *given: Any) -> Any:
    """What it returns, or the exception that it raises."""
    try:
        return parse(*given)
    except Exception as fault:
        return fault


def published(instance: Instance) -> list[tuple[str, dict[str, Any]]]:
    """Each message with the name of its schema, which it satisfies."""
    messages = [(RETRIED, message) for message in instance.retried]
    messages += [(REJECTED, message) for message in instance.rejected]
    for name, message in messages:
        known = {field["name"] for field in _SCHEMAS[name]["fields"]}
        assert fastavro.validate({key: message[key] for key in message if key in known}, _SCHEMAS[name])
    return messages


@given(st.binary() | nearly(events))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"archiveJobId":' * 50_000)
def test_any_data_ends_as_one_message_of_its_schema(data: bytes) -> None:
    assume(MARK.encode() not in data)  # what comes from outside is nobody's secret, and is published as it came
    instance, outcome = deliver(data)
    [(name, message)] = published(instance)
    match outcome:
        case Rejected(reason):
            assert (REJECTED, reason) == (name, message["reason"])
            kept = message["event"].encode()
            assert data == (base64.b64decode(kept) if message["eventEncoding"] == "base64" else kept)
            if reason == Reason.MALFORMED_EVENT:
                rejected()
        case Retried(new_job_id):
            assert (RETRIED, new_job_id) == (name, message["archiveJobId"])
        case _:
            raise AssertionError(outcome)


@given(st.binary() | nearly(events))
def test_any_data_is_a_failed_job_or_malformed(data: bytes) -> None:
    read = fault_or(parse_failed, data)
    if not isinstance(read, JobEvent):
        rejected()
        assert isinstance(read, MalformedEvent)
        assert QUOTED not in str(read)


@given(nearly(events))
def test_what_python_reads_as_an_event_is_read_the_same(data: bytes) -> None:
    """The parser reads known fields only; the standard library reads all. They agree on what is JSON."""
    try:
        content = json.loads(data.decode(), parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        assert isinstance(fault_or(parse_failed, data), MalformedEvent)
        return
    read = fault_or(parse_failed, data)
    if isinstance(read, JobEvent):
        assert read.job_id == content["archiveJobId"].removeprefix("archiveJobs/")
        assert read.user_id == content["userId"]


@given(events)
def test_every_field_of_a_sound_event_is_read(event: dict[str, Any]) -> None:
    failed_at = datetime.fromisoformat(event["failedAt"]) if event.get("failedAt") else None
    assert parse_failed(json.dumps(event).encode(), START) == JobEvent(
        job_id=event["archiveJobId"].removeprefix("archiveJobs/"),
        user_id=event["userId"],
        credential_id=event.get("credentialId") or event["userId"],
        root_job_id=(event.get("rootArchiveJobId") or "").removeprefix("archiveJobs/"),
        retries_before=min(int(event.get("attempt") or 0), ATTEMPT_MAX),
        failed_at=failed_at or START,
        published_at=START,
        tells_time=bool(failed_at),
    )


@given(job_ids, job_ids, job_ids, user_ids, user_ids, st.integers(0, ATTEMPT_MAX), moments)
def test_any_follow_up_is_a_failed_event(
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
    assert parse_failed(encode(follow_up)) == JobEvent(
        job_id=new, user_id=user, credential_id=credential, root_job_id=root, retries_before=attempt, tells_time=False
    )


@given(events, st.binary(max_size=5))
def test_deferral_keeps_a_sound_event(event: dict[str, Any], own: bytes) -> None:
    """It is read as it came, but for the time of the failure, which it tells now."""
    event = event | {"failedAt": None, "attempt": 0, "theirs": own.hex()}
    job = event["archiveJobId"].removeprefix("archiveJobs/")
    until = START.replace(hour=19)
    instance, outcome = deliver(json.dumps(event).encode(), **{job: cooldown(until)})
    assert Deferred(until) == outcome
    assert [] == published(instance)
    entry = asyncio.run(instance.entry(job))
    assert entry
    kept = json.loads(entry.event)
    assert event | {"failedAt": timestamp(START)} == kept


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
def test_message_is_the_same_delivery_in_every_form(push: dict[str, Any]) -> None:
    body, message = json.dumps(push).encode(), push["message"]
    event = {"specversion": "1.0", "type": MESSAGE_PUBLISHED, "source": "//pubsub", "id": "1"}
    structured = {"content-type": "application/cloudevents+json"}
    same = Delivery(
        data=base64.b64decode(message.get("data", "")),
        attributes=message.get("attributes", {}),
        message_id=message["messageId"],
        published_at=datetime.fromisoformat(message["publishTime"]),
        delivery_attempt=push.get("deliveryAttempt", 0),
    )
    assert same == parse_delivery({}, body)
    assert same == parse_delivery({"ce-type": MESSAGE_PUBLISHED}, body)
    assert same == parse_delivery(structured, json.dumps(event | {"data": push}).encode())
    in_base64 = {"data_base64": base64.b64encode(body).decode()}
    assert same == parse_delivery(structured, json.dumps(event | in_base64).encode())


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
def test_any_request_is_a_delivery_or_is_not_quoted(headers: dict[str, str], body: bytes) -> None:
    read = fault_or(parse_delivery, headers, body)
    if not isinstance(read, Delivery):
        rejected()
        assert isinstance(read, NotADelivery)
        assert QUOTED not in str(read)


_NAMES = [name.upper() for name in Settings.__struct_fields__]
_values = (
    st.text() | st.just(QUOTED) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(("a-project", "90"))
)


@given(st.dictionaries(st.sampled_from(_NAMES), _values, max_size=6))
def test_any_environment_is_settings_or_is_not_quoted(environment: dict[str, str]) -> None:
    read = fault_or(from_environment, environment)
    if not isinstance(read, Settings):
        rejected()
        assert isinstance(read, WrongSettings)
        assert QUOTED not in str(read)
