"""Every answer that Google or somebody else may give, and the verdict on it: the tables of local/*_answers.py."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import aiohttp

from local.answer_rows import Row, Verdict
from local.function_server import FunctionServer
from local.google_answers import RETRY
from local.oauth_answers import OTHER_CLIENT, REFRESH, UNAUTHORIZED_CLIENT
from local.scripted import Step
from local.stage import RESUME, WATCH, Stage
from local.state_answers import LOOK
from local.topics import STARTED
from tests.e2e.pushing import deliver

STATUS = {"not_now": 503, "fault": 500}  # of the rest: 204
CLOSE = 60.0  # seconds that a deferral's end may be off
IN_FLIGHT = 20


def answers(row: Row, job: str) -> Iterator[Step]:
    """The row's answer, made when it is asked for, as often as one delivery calls."""
    for _ in range(row.verdict.calls):
        yield row.make(job, datetime.now(UTC))


async def statuses(server: FunctionServer, jobs: Sequence[str]) -> dict[str, int]:
    """Of one delivery for each of these jobs, of users of the same names."""
    answered = await deliver(server, *jobs, in_flight=IN_FLIGHT)
    return {job: answer.status for job, answer in answered.items()}


def seen(stage: Stage, job: str) -> Verdict:
    """The verdict as it stands, told from what came out and from the last log line."""
    line = [line for line in stage.deliveries if line.get("archiveJobId") == job][-1]
    [reason, cause] = next(
        ((message.data["reason"], message.data.get("cause")) for message in of(stage.rejections, job)), ("", "")
    )
    follow_up = next(iter(of(stage.follow_ups, job)), None)
    until = datetime.fromisoformat(line["notBefore"]) if line["outcome"] == "deferred" else None
    return Verdict(
        line["outcome"],
        reason,
        cause or "",
        calls=len(stage.google.retries(job)),
        new_job=follow_up.data["archiveJobId"] if follow_up else "",
        seconds=(until - datetime.now(UTC)).total_seconds() if until else None,
    )


def of(messages: Sequence[Any], job: str) -> list[Any]:
    return [message for message in messages if message.attributes.get("dedupKey") == job]


def differs(expected: Verdict, status: int, found: Verdict, *, calls: int) -> str:
    """In words, or ""."""
    facts = {
        "status": (STATUS.get(expected.outcome, 204), status),
        "outcome": (expected.outcome, found.outcome),
        "reason": (expected.reason, found.reason),
        "cause": (expected.cause, found.cause),
        "calls": (calls, found.calls),
    }
    if expected.new_job:
        facts["new job"] = (expected.new_job, found.new_job)
    if expected.seconds is not None:
        off = abs((found.seconds or 0.0) - expected.seconds) > CLOSE
        facts["seconds"] = (expected.seconds, found.seconds if off else expected.seconds)
    return ", ".join(f"{name}: {want!r}, not {got!r}" for name, (want, got) in facts.items() if want != got)


def named(rows: Sequence[Row]) -> dict[str, Row]:
    found = {f"row-{number}": row for number, row in enumerate(rows)}
    assert len({row.name for row in rows}) == len(rows)
    return found


def report(wrong: dict[str, str], rows: dict[str, Row]) -> list[str]:
    found = [f"{rows[job].name}: {words}" for job, words in wrong.items() if words]
    print("\n".join(found))
    return found


async def came_out(stage: Stage) -> None:
    """Wait for the messages that the outcomes promise."""
    lines = [line for line in stage.deliveries if line["outcome"] in ("retried", "rejected")]
    await stage.until(lambda: len(stage.follow_ups) + len(stage.rejections) >= len(lines))


async def test_every_answer_to_a_retry_has_its_verdict() -> None:
    async with Stage(settings={"DOUBT_PAUSE_SECONDS": "0.1"}) as stage:
        server, rows = await stage.start_function(), named(RETRY)
        for job, row in rows.items():
            stage.add_user(job)
            stage.google.script_retry(job, answers(row, job))
        first = await statuses(server, list(rows))
        await came_out(stage)
        wrong = {
            job: differs(row.verdict, first[job], seen(stage, job), calls=row.verdict.calls)
            for job, row in rows.items()
        }
        assert [] == report(wrong, rows)

        # What is not over ends well the next time, and has cost a retry only where it was in doubt.
        again = [job for job, row in rows.items() if row.verdict.outcome in STATUS]
        await asyncio.sleep(0.2)
        assert {204} == set((await statuses(server, again)).values())
        await came_out(stage)
        cost = {message.data["retriedArchiveJobId"]: message.data["attempt"] for message in stage.follow_ups}
        assert [] == [rows[job].name for job in again if cost[job] != 1 + rows[job].verdict.in_doubt]


async def test_every_answer_to_a_refresh_has_its_verdict() -> None:
    async with Stage() as stage:
        server, rows = await stage.start_function(), named(REFRESH)
        for job, row in rows.items():
            stage.google.script_token(stage.add_user(job), answers(row, job))
        first = await statuses(server, list(rows))
        await came_out(stage)
        wrong = {
            job: differs(row.verdict, first[job], seen(stage, job), calls=1 if row.verdict.outcome == "retried" else 0)
            for job, row in rows.items()
        }
        assert [] == report(wrong, rows)

        again = [job for job, row in rows.items() if row.verdict.outcome in STATUS]
        assert {204} == set((await statuses(server, again)).values())
        assert {1} == {message.data["attempt"] for message in stage.follow_ups}


async def test_another_clients_token_is_known_once_this_client_has_worked() -> None:
    async with Stage() as stage:
        server = await stage.start_function()
        for user in ("first", "second", "third"):
            token = stage.add_user(user)
            if user != "second":
                stage.google.script_token(token, [UNAUTHORIZED_CLIENT] * 2)
        assert {"first": 500} == await statuses(server, ["first"])
        assert {"second": 204} == await statuses(server, ["second"])
        assert {"third": 204} == await statuses(server, ["third"])
        await stage.until(lambda: stage.rejections)
        data = stage.rejections[0].data
        assert ("third", OTHER_CLIENT.reason, OTHER_CLIENT.cause) == (data["userId"], data["reason"], data["cause"])


async def test_every_answer_to_a_look_has_its_verdict(firestore_emulator: str) -> None:
    async with Stage(firestore=firestore_emulator, settings={"WATCH_INTERVAL_SECONDS": "0.1"}) as stage:
        await stage.start_function(target=WATCH)
        schedule, rows = await stage.start_function(target=RESUME), named(LOOK)
        for job, row in rows.items():
            stage.add_user(job)
            stage.google.script_state(job, answers(row, job))
            await stage.publish({"archiveJobId": job, "userId": job}, topic=STARTED)

        def outcomes(job: str) -> list[str]:
            return [line["outcome"] for line in stage.deliveries if line.get("archiveJobId") == job]

        async with aiohttp.ClientSession() as http:
            for _ in range(40):  # what is due is put back
                await (await http.post(schedule.url)).read()
                if all(len(outcomes(job)) >= 2 for job in rows):
                    break
                await asyncio.sleep(0.25)
        wrong = {
            rows[job].name: outcomes(job)[:2]
            for job, row in rows.items()
            if outcomes(job)[:2] != ["watching", row.verdict.outcome]
        }
        assert {} == wrong
        assert {job: {row.verdict.state} for job, row in rows.items() if row.verdict.state} == {
            job: {message.data["state"] for message in of(stage.ended, job)} for job in rows if of(stage.ended, job)
        }
