"""The form of a failed event."""

import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.domain.events import JobEvent, MalformedEvent, parse_failed, timestamp

LEAST = {"archiveJobId": "job", "userId": "alice"}


def parse(**fields: Any) -> JobEvent:
    return parse_failed(json.dumps(LEAST | fields).encode())


def test_optional_fields_have_defaults() -> None:
    published = datetime(2026, 11, 23, tzinfo=UTC)
    expected = JobEvent(
        job_id="job",
        user_id="alice",
        credential_id="alice",
        failed_at=published,
        published_at=published,
        tells_time=False,
    )
    assert expected == parse_failed(json.dumps(LEAST).encode(), published)
    nulls = dict.fromkeys(("credentialId", "rootArchiveJobId", "attempt", "failedAt"))
    assert expected == parse_failed(json.dumps(LEAST | nulls).encode(), published)


@pytest.mark.parametrize(
    ("number", "read"),
    [
        ("0", 0),
        ("-0", 0),
        ("-0.0", 0),
        ("1.0", 1),
        ("1e1", 10),
        ("2147483647", 2147483647),
        ("2147483648", 2147483647),
        ("1e400", 2147483647),
        ("9" * 5000, 2147483647),
    ],
)
def test_attempt_is_an_integer_and_capped(number: str, read: int) -> None:
    assert read == parse_failed(b'{"archiveJobId":"job","userId":"a","attempt":%b}' % number.encode()).retries_before


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2017-01-01T00:59:60.5+01:00", datetime(2016, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)),
        ("2026-11-23t18:00:00z", datetime(2026, 11, 23, 18, tzinfo=UTC)),
    ],
)
def test_failed_at_takes_leap_seconds(text: str, read: datetime) -> None:
    assert read == parse(failedAt=text).failed_at


@pytest.mark.parametrize(
    "theirs",
    [
        rb'"cut inside an emoji: \ud83d"',
        rb'"\ud800", "n": ' + b"9" * 5000,
        rb'"\udc00\\\ud800\u0041"',
        rb'{"\ud83d": ["\ud83d\ude00", "\ud83d"]}',
    ],
)
def test_half_surrogate_pair_in_a_producers_field_is_read(theirs: bytes) -> None:
    assert "job" == parse_failed(b'{"archiveJobId":"job","userId":"a","theirs":%b}' % theirs).job_id


@pytest.mark.parametrize(
    "wrong", [rb'{"archiveJobId":"job","x":"\ud83d"}', rb'{"archiveJobId":"job","userId":"\ud83d"}']
)
def test_malformed_event_tells_its_sound_fields(wrong: bytes) -> None:
    with pytest.raises(MalformedEvent, match="malformed") as caught:
        parse_failed(wrong)
    assert {"archiveJobId": "job"} == caught.value.known


WRONG: dict[str, list[Any]] = {
    "archiveJobId": ["", "a/b", "a:b", "job\n", "j b", "ä", "x" * 257, "archiveJobs/", "archiveJobs/a/b", None, 5, {}],
    "userId": ["", "a.b", "a/b", "alice\n", "x" * 129, None, 5],
    "credentialId": ["", "../other", 5],
    "rootArchiveJobId": ["", "a b", []],
    "attempt": [-1, -1.0, 1.5, "1", True, [], {}],
    "failedAt": ["", "yesterday", "2026-11-23", "2026-11-23T18:00:00", "2026-11-23T18:60:00Z", 1764000000, {}],
}
WRONG["failedAt"] += ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "12:34:60" * 100_000]  # no dates in UTC


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda value: str(value)[:40],
)
def test_field_of_the_wrong_form_is_malformed(field: str, value: Any) -> None:
    with pytest.raises(MalformedEvent, match=field):
        parse(**{field: value})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish",
        b"\xff",
        b'{"archiveJobId":"job","userId":"alice","theirs":"\xff"}',
        b"null",
        b"[]",
        b'"text"',
        b'{"userId":"alice"}',
        b'{"archiveJobId":"job","userId":"alice","attempt":NaN}',
        b'{"archiveJobId":"job","userId":"alice","theirs":NaN}',
        b'{"archiveJobId":"job","userId":"alice","theirs":["\\ud83d",-Infinity]}',
        b'{"archiveJobId":"job","userId":"alice"} trailing',
        b'{"archiveJobId":"job","userId":"alice","theirs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:60]),
)
def test_data_of_another_shape_is_malformed_and_not_quoted(data: bytes) -> None:
    with pytest.raises(MalformedEvent) as caught:
        parse_failed(data)
    assert "alice" not in str(caught.value)


@pytest.mark.parametrize("half_pair", [b"", rb',"y":"\ud83d"'])
def test_nested_data_costs_little_memory(half_pair: bytes) -> None:
    data = b'{"archiveJobId":"job","userId":"a","x":[%b0]%b}' % (b"[],[[]]," * 110_000, half_pair)
    tracemalloc.start()
    try:
        parse_failed(data)
        assert 12 * len(data) > tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_longest_ids_are_read() -> None:
    parse(archiveJobId="j" * 256, userId="u" * 128, credentialId="c" * 128, rootArchiveJobId="archiveJobs/" + "r" * 256)


def test_times_go_out_in_utc_with_milliseconds() -> None:
    assert "2026-11-23T18:00:00.000Z" == timestamp(datetime.fromisoformat("2026-11-23T19:00:00.000999+01:00"))
