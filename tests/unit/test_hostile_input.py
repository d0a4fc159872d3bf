"""What somebody hostile, or a careless hand, sends: nothing is told, nobody is blamed, no delivery is for ever."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.domain.outcomes import Fault, Retried, RetryLater
from local.google_apis import MARK
from local.stage import WATCH
from local.state_answers import SIGNED_URL
from tests.unit.fakes import Answer, cooldown, error_info, google_error
from tests.unit.instance import Instance, LogLines, failed, later, push

MIB = 1 << 20
TOKEN = f"{MARK}-access"
GRANTED: Answer = (200, {"access_token": TOKEN, "expires_in": 3599})


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ((200, {"archiveJobId": f"job-{TOKEN}"}), 1),
        ((200, ('{"archiveJobId": "' + "".join(f"\\u{ord(each):04x}" for each in TOKEN) + '"}').encode()), 1),
        (google_error(409, "ALREADY_EXISTS", error_info("ALREADY_EXISTS_ONE_TIME", job_id=f"x{TOKEN}")), 0),
        (google_error(404, TOKEN), 0),
        ((200, {"archiveJobId": TOKEN[:-1]}), 1),
        (google_error(403, TOKEN[:9], error_info(TOKEN[9:])), 0),
        (google_error(400, "INVALID_ARGUMENT", error_info(TOKEN)), 0),
        (google_error(403, "PERMISSION_DENIED", error_info("X", **{TOKEN: "x"})), 0),
    ],
)
async def test_answer_with_the_token_in_it_is_a_fault_and_told_nowhere(
    instance: Instance, logged: LogLines, answer: Answer, calls: int
) -> None:
    instance.http.token_script = [GRANTED]
    instance.script("job", answer)
    assert 500 == (await instance.post(push(failed()))).status_code
    assert ("open", calls) == await instance.state()
    assert MARK not in f"{logged.lines} {await instance.entry()}"


@pytest.mark.parametrize("beside", ["1e999", "9" * 6000, '"\\ud800"'])
async def test_new_job_is_read_whatever_stands_beside_it(instance: Instance, beside: str) -> None:
    instance.script("job", (200, f'{{"archiveJobId": "new", "more": {beside}}}'.encode()))
    assert Retried("new") == await instance.deliver()


@pytest.mark.parametrize("before", ["", " ", '"', "(", "\t", "at:"])
@pytest.mark.parametrize("url", [SIGNED_URL, SIGNED_URL.replace("https", "HTTPS"), SIGNED_URL.partition("://")[2]])
async def test_url_in_an_error_is_told_nowhere(instance: Instance, logged: LogLines, before: str, url: str) -> None:
    error = google_error(400, "SOMETHING_NEW", message=f"The file cannot be read {before}{url} for now.")
    instance.script("job", error)
    instance.http.state_scripts["job"] = [error]
    assert 500 == (await instance.post(push(failed()))).status_code
    await instance.post(push(failed()), entry_point=WATCH)
    instance.clock.wait(300)
    assert 500 == (await instance.post(push(failed()), entry_point=WATCH)).status_code
    assert [True, True] == [
        line["message"].endswith("The file cannot be read") for line in logged.lines if "ERROR" in line.values()
    ]
    assert "Signature" not in str(logged.lines)


async def test_long_error_is_told_in_short(instance: Instance, logged: LogLines) -> None:
    metadata = {f"key{number}": "" for number in range(60_000)}
    instance.script("job", google_error(403, "X", error_info("X", **metadata)))
    assert 204 == (await instance.post(push(failed()))).status_code
    assert len(f"{logged.lines} {instance.rejected}") < 3000


async def test_long_error_is_searched_for_a_time_at_its_beginning_only(instance: Instance) -> None:
    """Each of 48,000 times would be read: 0.4 s of CPU."""
    message = f"{later(-1).isoformat()} " * 40_000 + later(60).isoformat()
    instance.script("job", google_error(429, "X", error_info("RESOURCE_EXHAUSTED_TIME_BASED"), message=message))
    assert isinstance(await instance.deliver(), RetryLater)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"\x01" * MIB, "base64"),
        (b"\x01" * (MIB // 9) + b"x" * (MIB * 8 // 9), "base64"),
        (b"\x01" * (MIB // 11) + b"x" * (MIB * 10 // 11), "text"),
        (b'"x' * (MIB * 4 // 9) + b'"' * (MIB // 9), "base64"),
        (b'"x,' * (MIB // 3), "text"),
        ("\U0001f600".encode() + b"x" * (MIB - 4), "base64"),
        ("\U0001f600".encode() * (MIB // 4), "text"),
        ("\u3042".encode() * (MIB // 3), "text"),
        ("\u3042".encode() + b"x" * (MIB - 3), "text"),
        (b"\x01" * 10_000, "text"),
    ],
    ids=lambda value: f"{value[:12]!r}" if isinstance(value, bytes) else value,
)
async def test_large_text_is_kept_as_base64_where_text_would_take_much_memory(
    instance: Instance, data: bytes, encoding: str
) -> None:
    await instance.deliver(data)
    [rejection] = instance.rejected
    kept = rejection["event"].encode() if encoding == "text" else base64.b64decode(rejection["event"])
    assert (encoding, data) == (rejection["eventEncoding"], kept)


async def test_million_attributes_are_no_delivery(instance: Instance) -> None:
    attributes = {str(number): "" for number in range(200_000)}
    body = json.dumps({"message": {"data": "", "attributes": attributes}}).encode()
    assert 400 == (await instance.post(body)).status_code


async def test_large_events_let_others_in_between(instance: Instance) -> None:
    large = push({"archiveJobId": "job", "userId": "alice", "more": {str(number): "" for number in range(40_000)}})
    answered: list[str] = []

    async def deliver(name: str, body: bytes) -> None:
        await instance.post(body)
        answered.append(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(deliver("large", large))
        await asyncio.sleep(0)
        group.create_task(deliver("small", push(failed("small"))))
    assert "small" in answered[:4]


@pytest.mark.parametrize(
    "fields",
    [
        {"newJobId": ""},
        {"newJobId": "a b/c"},
        {"callsCounted": -5},
        {"fence": 2**63 - 1},
        {"inDoubtBefore": 2**40},
        {"leaseSeconds": 1e300},
        {"attributes": "no"},
        {"rootJobId": "../../x"},
        {"userId": "u" * 3000},
        {"credentialId": "a b"},
    ],
)
async def test_entry_with_senseless_values_is_unreadable(fields: dict[str, Any]) -> None:
    instance = Instance(RETRY_LEDGER="firestore")
    await instance.deliver()
    [document] = [each for name, each in instance.documents.documents.items() if name.endswith("/job")]
    for name, value in fields.items():
        kind = {str: "string_value", int: "integer_value", float: "double_value"}[type(value)]
        setattr(document.fields[name], kind, value)
    outcome = await instance.deliver(attempt=2)
    assert isinstance(outcome, Fault)
    assert "cannot be read" in outcome.detail


async def test_entry_that_waits_for_the_end_of_time_is_unreadable_and_costs_no_call() -> None:
    """Its claim could not be recorded: the sum of its time and its keeping is no date."""
    instance = Instance(RETRY_LEDGER="firestore")
    instance.script("job", (503, {}))
    await instance.deliver()
    [document] = instance.documents.documents.values()
    document.fields["notBefore"].timestamp_value.FromDatetime(datetime(9999, 12, 31, tzinfo=UTC))
    instance.clock.wait(3600)
    for _ in range(3):
        outcome = await instance.deliver(attempt=2)
        assert isinstance(outcome, Fault)
        assert "cannot be read" in outcome.detail
        instance.clock.wait(3600)
    assert ["job"] == instance.http.retries


async def test_publish_time_that_is_none_in_utc_leaves_no_claim(instance: Instance) -> None:
    instance.script("job", cooldown(later(3600)))
    body = push(failed(), publishTime="9999-12-31T23:59:59-12:00")
    assert 204 == (await instance.post(body)).status_code
    assert ("deferred", 0) == await instance.state()


@pytest.mark.parametrize("attempt", ["1e308", f'"{"9" * 4000}"'])
async def test_delivery_attempt_that_no_field_holds_is_capped(
    instance: Instance, logged: LogLines, attempt: str
) -> None:
    body = push(failed()).replace(b'"deliveryAttempt": 2', f'"deliveryAttempt": {attempt}'.encode())
    assert 204 == (await instance.post(body)).status_code
    assert 2**31 - 1 == logged.lines[-1]["deliveryAttempt"]
