"""Stages broken on purpose: the log line names the cause, the runbook the remedy, and the right alerts fire."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from local import google_errors
from local.foreign_answers import bodies
from local.grants import MARK
from local.scripted import ANY, Answer
from tests.infra.broken import EVENT, REMEDIES, STAGES, Broken, line_of, running
from tests.infra.code import log
from tests.infra.terraform import ROOT, Plan
from tests.monitoring.logs import entry, matches
from tests.monitoring.product import DAY, HEALTHY, HOUR, LARGE, MINUTE, RUN, SMALL, Alerts, Told, Volume, broken_by
from tests.monitoring.run import RESUME, RETRY
from tests.unit.fakes import cooldown
from tests.unit.instance import Instance, LogLines, failed, later, push

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in RUNBOOK.splitlines()
    if line.startswith("| `") and line.count("|") == 6
]
EACH = pytest.mark.parametrize("broken", STAGES, ids=lambda broken: broken.what)
_GOES_BY = ("outcome", "reason", "cause", "republished", "callsUnknown", "calls", "delaySeconds")


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def row_of(line: Mapping[str, Any]) -> list[str]:
    """The first row of the runbook that fits a line."""
    said = " ".join(str(line.get(name, "")) for name in ("message", "reason", "cause"))
    return next(
        row
        for row in ROWS
        if line["outcome"] in words(row[0])
        and (not row[1] or line.get("failedStep") in words(row[1]))
        and (not row[2] or any(word in said for word in words(row[2])))
    )


@pytest.fixture(scope="module")
def alerts(watch_plan: Plan) -> Alerts:
    return Alerts(watch_plan)


@pytest.fixture(scope="module")
def faults(watch_plan: Plan) -> str:
    """The lines that the alert on faults matches."""
    policies = watch_plan.of("monitoring_alert_policy")
    [found] = [each for policy in policies for each in policy.values["conditions"][0]["condition_matched_log"]]
    return str(found["filter"])


@pytest.fixture
def logged() -> Iterator[LogLines]:
    """What an instance in this process logs."""
    handlers = log.handlers[:]
    yield LogLines()
    log.handlers[:] = handlers


@pytest.fixture(scope="module")
def known() -> dict[tuple[Any, ...], dict[str, float]]:
    """What fires, by the fields of a line that alerts go by: many stages make the same ones fire."""
    return {}


def fired(alerts: Alerts, known: dict[Any, dict[str, float]], broken: Broken, line: Any, volume: Volume) -> Any:
    schedule = broken.target == "resume_deferred_retries"
    key = (volume.name, broken.one, schedule, "userId" in line, *(line.get(name) for name in _GOES_BY[:-1]))
    if key not in known:
        told, begin, end = broken_by(alerts.metrics, line, volume, one=broken.one, schedule=schedule)
        known[key] = alerts.fired(told, begin, end, every=5 * MINUTE if volume is LARGE else HOUR)
    return known[key]


@EACH
async def test_a_broken_stage_has_a_line_a_row_and_its_alerts(
    broken: Broken, alerts: Alerts, known: dict[tuple[Any, ...], dict[str, float]]
) -> None:
    line = await line_of(broken)
    said = f"{line['message']} {line.get('reason')} {line.get('cause')}"
    assert (broken.outcome, True) == (line["outcome"], broken.said in said), line
    if broken.step:
        assert broken.step == line["failedStep"], line
    if broken.outcome != "retried":
        row = row_of(line)
        assert broken.said in "".join(words(row[2])) or not broken.said, row
        assert REMEDIES[broken.said] in row[4], row
    large, small = (fired(alerts, known, broken, line, volume) for volume in (LARGE, SMALL))
    assert broken.fires == {*large, *small}
    assert large.get("stalled", 0.0) <= 20 * MINUTE
    assert not small or min(small.values()) < 72 * HOUR


@pytest.mark.parametrize(
    ("message", "reason", "told"),
    [
        ("Enable the API first. Then wait.", "SERVICE_DISABLED", "googleapis.com: Enable the API first."),
        ("Enable it by visiting https://x.example?token=x", "SERVICE_DISABLED", "com: Enable it by visiting"),
        (f"{MARK}-access-token-1 is bad.", "SERVICE_DISABLED", "with the access token in it"),
        ("It is ecret-access bad.", "SERVICE_DISABLED", "SERVICE_DISABLED googleapis.com"),
        ("No.", f"{MARK}-access-token-1", "with the access token in it"),
    ],
)
async def test_googles_first_sentence_is_told_and_no_token_in_it(message: str, reason: str, told: str) -> None:
    answer = google_errors.error(403, "PERMISSION_DENIED", message, google_errors.error_info(reason, "googleapis.com"))
    script = itertools.repeat(answer)
    line = await line_of(
        Broken("", "fault", "retry", "", breaks=lambda stage: stage.google.script_retry("job", script))
    )
    assert ("fault", "retry", True) == (line["outcome"], line["failedStep"], line["message"].endswith(told)), line


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        (bodies(403)["html"], "fault", "DATA_PORTABILITY_API_ENDPOINT"),
        (google_errors.project_refused(), "fault", "SERVICE_DISABLED"),
        (google_errors.unavailable(), "not_now", "was answered"),
        (google_errors.rate_limited(), "not_now", "held back"),
    ],
)
async def test_a_broken_watch_has_a_line_and_a_row(answer: Answer, outcome: str, said: str) -> None:
    script = itertools.repeat(answer)
    broken = Broken(
        "", "", "", "", breaks=lambda stage: stage.google.script_state("job", script), target="watch_archive_job"
    )
    async with running(broken) as (_, function):
        assert "watching" == (await function.deliver(EVENT))["outcome"]
        function.later(minutes=6)
        line = await function.deliver(EVENT)
    assert (outcome, "state") == (line["outcome"], line["failedStep"])
    assert (said, True) == (said, said in line["message"])
    assert said in words(row_of(line)[2])


def row_without_outcome(sentence: str, text: str) -> list[str]:
    """The first row of the table after this sentence that fits a line."""
    table = RUNBOOK.split(sentence)[1].split("\n\n")[1]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return next(row for row in rows if any(word in text for word in words(row[0])))


def of_the_program(text: str) -> list[str]:
    return row_without_outcome("Those of the program:", text)


@pytest.mark.parametrize(
    ("headers", "body", "ends", "remedy"),
    [
        ({}, b"{}", "http.request", "noWrapper"),
        ({}, b"<html>", "http.request", "noWrapper"),
        ({"ce_type": "google.cloud.storage.object.v1.finalized"}, b"{}", "http.request", "noWrapper"),
        ({}, b"{", "http.disconnect", "delivered again"),
    ],
    ids=["no message", "no JSON", "another event", "broken off"],
)
async def test_request_that_is_no_delivery_has_a_line_and_a_row(
    headers: Mapping[str, str], body: bytes, ends: str, remedy: str
) -> None:
    chunks: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": body, "more_body": True}, {"type": ends}])

    async def receive() -> dict[str, Any]:
        return next(chunks)

    async with running(STAGES[0]) as (_, function):
        assert remedy in of_the_program(await function.post(receive, **headers))[2]


async def test_bodies_that_fill_the_memory_have_a_line_and_a_row() -> None:
    half = {"type": "http.request", "body": bytes(25 << 20), "more_body": True}
    arrived, over = asyncio.Event(), asyncio.Event()
    chunks: Iterator[dict[str, Any]] = iter([half, {"type": "http.disconnect"}])

    async def first() -> dict[str, Any]:
        if not arrived.is_set():
            arrived.set()
        else:
            await over.wait()
        return next(chunks)

    async def second() -> dict[str, Any]:
        return half

    async with running(STAGES[0]) as (_, function):
        waiting = asyncio.create_task(function.post(first))
        await arrived.wait()
        said = await function.post(second)
        over.set()
        await waiting
    assert "who publishes such events" in of_the_program(said)[2]


async def test_refresh_token_that_is_replaced_has_a_line_and_a_row() -> None:
    content = {"access_token": f"{MARK}-access", "expires_in": 3599, "refresh_token": f"{MARK}-another"}
    script = itertools.repeat(Answer(200, content))
    broken = Broken("", "", "", "", breaks=lambda stage: stage.google.script_token(ANY, script))
    async with running(broken) as (_, function):
        await function.deliver(EVENT)
        [said] = [line["message"] for line in function.said if "outcome" not in line]
    assert "`token_uri`" in of_the_program(said)[2]


# Texts: https://cloud.google.com/run/docs/troubleshooting; of the memory also
# https://cloud.google.com/run/docs/configuring/services/memory-limits
_OF_CLOUD_RUN = [
    ("ERROR", "Memory limit of 512 MiB exceeded with 514 MiB used.", "`memory`"),
    (
        "ERROR",
        "While handling this request, the container instance was found to be using too much memory and was terminated.",
        "`memory`",
    ),
    ("WARNING", "The request was aborted because there was no available instance.", "`max_instances`"),
    ("ERROR", "The Cloud Run service probably has reached its maximum container instance limit.", "`max_instances`"),
    (
        "ERROR",
        "The request has been terminated because it has reached the maximum request timeout.",
        "`concurrency`",
    ),
    (
        "ERROR",
        "The request failed because either the HTTP response was malformed or connection to the instance had an error.",
        "`Memory limit of`",
    ),
    ("ERROR", "The request failed because the instance could not start successfully.", "make rollback"),
    (
        "ERROR",
        "Container failed to start. Failed to start and then listen on the port defined by the PORT environment",
        "make rollback",
    ),
    (
        "ERROR",
        "The user-provided container failed to start and listen on the port defined provided by the PORT=8080",
        "make rollback",
    ),
    ("WARNING", "The request was not authorized to invoke this service.", "gives the invoker's account its right"),
    (
        "WARNING",
        "The request was not authenticated. Either allow public access or set the proper Authorization header",
        "gives the push its account",
    ),
    (
        "WARNING",
        "Forbidden: Your client does not have permission to get URL from this server.",
        "gives the invoker's account its right",
    ),
]


@pytest.mark.parametrize(("severity", "text", "remedy"), _OF_CLOUD_RUN, ids=[text[:40] for _, text, _ in _OF_CLOUD_RUN])
def test_line_of_cloud_run_is_shown_by_the_first_look_and_has_a_row(severity: str, text: str, remedy: str) -> None:
    [query] = re.findall(r"gcloud logging read '([^']*severity>=WARNING)'.*textPayload\)'", RUNBOOK)
    shown = {**entry(RETRY, {"severity": severity, "time": "2026-11-23T18:00:00Z"}), "textPayload": text}
    assert matches(query, shown)
    assert remedy in row_without_outcome("Those of [Cloud Run]", text)[2]


def test_one_odd_job_wakes_nobody_and_is_told(alerts: Alerts) -> None:
    told_by = {("fault", "ERROR"): {"faults", "oldest-event"}, ("not_now", "WARNING"): {"oldest-event"}}
    for (outcome, severity), tells in told_by.items():
        line = {"severity": severity, "message": "", "outcome": outcome, "calls": 0, "callsUnknown": 0}
        for volume in (LARGE, SMALL):
            told, begin, end = broken_by(alerts.metrics, line, volume, one=True)
            assert tells == set(alerts.fired(told, begin, end, every=HOUR / 4)) - {"dead-letters"}


def test_wrong_settings_are_a_line_with_a_row_and_an_alert(faults: str) -> None:
    started = subprocess.run(
        [sys.executable, "-c", "import main"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "RETRY_BUDGET": "many"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    [line] = [json.loads(line) for line in started.stderr.splitlines()]
    assert (1, "ERROR", "fault", "settings") == (
        started.returncode,
        line["severity"],
        line["outcome"],
        line["failedStep"],
    )
    assert all(name in line["message"] for name in ("RETRY_BUDGET", "GOOGLE_CLOUD_PROJECT"))
    assert "make rollback" in row_of(line)[4]
    assert matches(faults, entry(RETRY, line))


async def test_bug_in_a_call_that_is_parked_is_a_fault_with_a_row(logged: LogLines, faults: str) -> None:
    instance = Instance(AMBIGUOUS_RETRY="park")
    instance.script("job", RuntimeError("a bug"))
    await instance.post(push(failed()))
    bug, line = logged.lines
    assert ("rejected", "OUTCOME_UNKNOWN") == (line["outcome"], line["reason"])
    assert "make rollback" in of_the_program(bug["message"])[2]
    assert (True, False) == (matches(faults, entry(RETRY, bug)), matches(faults, entry(RETRY, line)))


async def test_due_entry_that_cannot_be_read_has_a_row_and_an_alert(logged: LogLines, alerts: Alerts) -> None:
    instance = Instance(RETRY_LEDGER="firestore", WATCH="off")
    instance.script("job", cooldown(later(60)))
    await instance.deliver(failed())
    [stored] = instance.documents.documents.values()
    stored.fields["attempt"].string_value = "three"
    instance.clock.wait(61)
    await instance.resume()
    [line] = logged.lines
    assert "do not delete" in of_the_program(line["message"])[2]
    told = Told(alerts.metrics)
    told.say(RESUME, RUN, dict.fromkeys(range(0, int(DAY), 600), 1.0))
    told.say(RESUME, line, dict.fromkeys(range(int(HOUR), int(DAY), 600), 1.0))
    assert {"schedule": HOUR} == alerts.fired(told, HOUR, DAY, every=10 * MINUTE)


def test_where_all_is_well_nothing_fires(alerts: Alerts) -> None:
    for volume in (LARGE, SMALL):
        told, begin, end = broken_by(alerts.metrics, HEALTHY, volume)
        assert {} == alerts.fired(told, begin, end, every=30 * MINUTE)


def test_no_alert_and_no_row_lays_a_bug_at_the_oauth_clients_door(watch_plan: Plan) -> None:
    bug = {"outcome": "fault", "failedStep": "token", "message": "unexpected KeyError: a bug"}
    assert "OAuth" not in "".join(row_of(bug))
    [faults] = [
        policy.values
        for policy in watch_plan.of("monitoring_alert_policy")
        if "faults" in policy.values["display_name"]
    ]
    assert "OAuth" not in faults["documentation"][0]["content"]


def test_only_what_ends_by_itself_is_waited_for() -> None:
    waits = [row for row in ROWS if re.match(r"wait\b(?!ing does not)", row[4])]
    assert {"`not_now`"} == {row[0] for row in waits}
    assert {row[2] for row in ROWS if "waiting does not help" in row[4]} == {
        "`Certificate`, `SSLError`",
        "`Proxy`",
        "`ClientConnector`, `ConnectionTimeout`",
    }
