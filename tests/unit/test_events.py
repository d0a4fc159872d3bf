"""Rules of a failed event's form."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.events import ArchiveJobFailed, MalformedEvent, parse_failed, timestamp

LEAST = {"archiveJobId": "job", "userId": "alice"}


def parse(**fields: Any) -> ArchiveJobFailed:
    return parse_failed(json.dumps(LEAST | fields).encode())


def test_what_an_event_leaves_out_has_its_default() -> None:
    assert ArchiveJobFailed(job_id="job", user_id="alice", credential_id="alice") == parse()


def test_every_field_is_read() -> None:
    event = parse(
        archiveJobId="archiveJobs/A-z.0_~",
        credentialId="second",
        rootArchiveJobId="root",
        attempt=2,
        failedAt="2026-11-23T19:00:00+01:00",
        theirs={"own": ["fields"]},
    )
    failed_at = datetime(2026, 11, 23, 18, tzinfo=UTC)
    assert event.failed_at == failed_at
    assert (event.job_id, event.credential_id, event.root_job_id, event.attempt) == ("A-z.0_~", "second", "root", 2)


def test_half_a_surrogate_pair_in_a_field_of_the_producers_own_is_nobodys_business() -> None:
    assert "job" == parse(theirs="cut inside an emoji: \ud83d").job_id
    for wrong in (b'{"archiveJobId":"job","theirs":"\\ud83d"}', b'{"archiveJobId":"job","userId":"\\ud83d"}'):
        with pytest.raises(MalformedEvent, match="malformed") as caught:
            parse_failed(wrong)
        assert {"archive_job_id": "job"} == caught.value.known


def test_an_attempt_beyond_any_integer_of_a_consumer_is_as_good_as_the_largest() -> None:
    assert parse(attempt=10**30).attempt == 2**31 - 1


WRONG: dict[str, list[Any]] = {
    "archiveJobId": ["", "a/b", "a:b", "job\n", "j b", "ä", "x" * 257, "archiveJobs/", "archiveJobs/a/b", None, 5, {}],
    "userId": ["", "a.b", "a/b", "alice\n", "x" * 129, None, 5],
    "credentialId": ["", "../other", None, 5],
    "rootArchiveJobId": ["", "a b", None],
    "attempt": [-1, 1.0, 1.5, "1", True, None, []],
    "failedAt": ["", "yesterday", "2026-11-23", "2026-11-23T18:00:00", 1764000000, None],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_field_of_the_wrong_type_or_form_is_malformed(field: str, value: Any) -> None:
    with pytest.raises(MalformedEvent):
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
        b'{"archiveJobId":"job"}',
        b'{"archiveJobId":"job","userId":"alice","attempt":NaN}',
        b'{"archiveJobId":"job","userId":"alice","theirs":NaN}',
        b'{"archiveJobId":"job","userId":"alice","theirs":["\\ud83d",-Infinity]}',
        b'{"archiveJobId":"job","userId":"alice"} trailing',
        b'{"archiveJobId":"job","userId":"alice","theirs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_data_of_another_shape_is_malformed_and_never_quoted(data: bytes) -> None:
    with pytest.raises(MalformedEvent) as caught:
        parse_failed(data)
    assert "alice" not in str(caught.value)


def test_the_longest_ids_are_accepted() -> None:
    parse(archiveJobId="j" * 256, userId="u" * 128, credentialId="c" * 128, rootArchiveJobId="archiveJobs/" + "r" * 256)


def test_times_go_out_in_utc_with_milliseconds() -> None:
    moment = datetime.fromisoformat("2026-11-23T19:00:00.000999+01:00")
    assert timestamp(moment) == "2026-11-23T18:00:00.000Z"
