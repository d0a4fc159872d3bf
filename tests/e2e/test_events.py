"""The whole way, on Google's Pub/Sub and Firestore emulators and the real server."""

import asyncio
import base64
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from local import google_errors
from local.scripted import Answer, Drop
from local.stage import Stage
from tests.e2e.ends import DONE, new_jobs
from tests.e2e.pushing import push, push_body

TOMORROW = datetime.now(UTC) + timedelta(hours=24)
LONG_AGO = (datetime.now(UTC) - timedelta(days=15)).isoformat()
SECONDS = 90.0


@dataclass(frozen=True)
class Fate:
    """What a job meets, and what has to come of it: retried, deferred, or the rejection's reason."""

    outcome: str
    calls: int = 1
    attempt: int = 1
    retry: tuple[Any, ...] = ()
    token: tuple[Any, ...] = ()
    consents: bool = True
    event: dict[str, Any] = field(default_factory=dict)


FATES = {
    "plain": Fate("retried"),
    "adopted": Fate("retried", retry=(google_errors.already_exists("running"),)),
    "unavailable": Fate("retried", calls=2, attempt=2, retry=(google_errors.unavailable(),)),
    "dropped": Fate("retried", calls=2, attempt=2, retry=(Drop(),)),
    "refreshed": Fate("retried", calls=2, retry=(google_errors.unauthenticated(),)),
    "token-down": Fate("retried", token=(Answer(503, b""),)),
    "throttled": Fate("retried", calls=2, retry=(google_errors.rate_limited(),)),
    "cooldown": Fate("deferred", retry=(google_errors.cooldown(TOMORROW),)),
    "revoked": Fate("REAUTHORIZATION_REQUIRED", calls=0, attempt=0, consents=False),
    "unknown": Fate("JOB_NOT_FOUND", attempt=0, retry=(google_errors.not_found(),)),
    "forbidden": Fate("ACCESS_DENIED", attempt=0, retry=(google_errors.access_denied(),)),
    "old": Fate("EVENT_EXPIRED", calls=0, attempt=0, event={"failedAt": LONG_AGO}),
}
OF_EACH = 7  # 84 events in all


def outcomes(stage: Stage) -> dict[str, set[str]]:
    """What came of each job, by its id."""
    found: dict[str, set[str]] = defaultdict(set)
    for message in stage.follow_ups:
        found[message.data["retriedArchiveJobId"]].add("retried")
    for message in stage.rejections:
        found[message.data["archiveJobId"]].add(message.data["reason"])
    for line in stage.deliveries:
        if line["outcome"] == "deferred":
            found[line["archiveJobId"]].add("deferred")
    return found


async def test_84_mixed_events_each_published_twice_end_as_the_contract_says(google_cloud: Any) -> None:
    async with Stage(**google_cloud, max_delivery_attempts=20) as stage:
        await stage.start_function()
        jobs = {f"{name}-{number}": fate for name, fate in FATES.items() for number in range(OF_EACH)}
        for job, fate in jobs.items():
            token = stage.add_user(job, consents=fate.consents)
            is_rejected = fate.outcome not in ("retried", "deferred")
            stage.google.script_retry(job, fate.retry * 2 if is_rejected else fate.retry)
            stage.google.script_token(token, fate.token)
        events = [{"archiveJobId": job, "userId": job} | fate.event for job, fate in jobs.items()] * 2
        random.Random(84).shuffle(events)
        for event in events:
            await stage.publish(event)
        # every publication ends in an acknowledged delivery of its own
        await stage.until(
            lambda: 2 * len(jobs) <= sum(line["outcome"] in DONE for line in stage.deliveries), seconds=SECONDS
        )
        await stage.until(lambda: len(outcomes(stage)) == len(jobs))

        assert {job: {fate.outcome} for job, fate in jobs.items()} == outcomes(stage)
        assert {job: 1 for job, fate in jobs.items() if fate.outcome == "retried"} == {
            job: len(made) for job, made in new_jobs(stage).items()
        }
        # a copy that was published after the rejection is a new question, and may be asked once more
        calls = {job: len(stage.google.retries(job)) for job in jobs}
        once = {job: fate.calls for job, fate in jobs.items() if fate.outcome in ("retried", "deferred")}
        assert once == {job: calls[job] for job in once}
        assert {} == {job: made for job, made in calls.items() if made not in (jobs[job].calls, jobs[job].calls * 2)}
        assert {(message.data["retriedArchiveJobId"], message.data["attempt"]) for message in stage.follow_ups} == {
            (job, fate.attempt) for job, fate in jobs.items() if fate.outcome == "retried"
        }
        assert [] == stage.dead_letters
        assert [] == [line for server in stage.servers for line in server.other_output]


BAD = [
    b"",
    b"rubbish \xff\x00\xfe",
    b"[" * 100_000,
    b'{"archiveJobId":' * 50_000,
    b'{"archiveJobId":"job"}',
    b'{"userId":"alice"}',
    b'{"archiveJobId":7,"userId":"alice"}',
    b'{"archiveJobId":"a/b","userId":"alice"}',
    b'{"archiveJobId":"a:retry","userId":"alice"}',
    b'{"archiveJobId":"job\\n","userId":"alice"}',
    b'{"archiveJobId":"job","userId":"' + b"u" * 129 + b'"}',
    b'{"archiveJobId":"job","userId":"alice","attempt":NaN}',
    b'{"archiveJobId":"job","userId":"alice","failedAt":"yesterday"}',
    b"x" * (10_000_000 - 1000),  # as large as Pub/Sub takes, its rejection is beyond that on the real service
]


KIND, CONTENT_TYPE = "google.cloud.pubsub.topic.v1.messagePublished", {"Content-Type": "application/json"}
BINARY = {"ce-specversion": "1.0", "ce-type": KIND, "ce-source": "//pubsub", "ce-id": "1"}
STRUCTURED = b'{"specversion": "1.0", "type": "%b", "source": "//pubsub", "id": "1", "data": %b}'
PUSHED = {job: push_body({"archiveJobId": job, "userId": "alice"}) for job in ("push", "binary", "structured")}
FORMS = {
    "push": (CONTENT_TYPE, PUSHED["push"]),
    "binary": (CONTENT_TYPE | BINARY, PUSHED["binary"]),
    "structured": (
        {"Content-Type": "application/cloudevents+json"},
        STRUCTURED % (KIND.encode(), PUSHED["structured"]),
    ),
}


async def test_each_form_of_a_delivery_reaches_google_a_bad_event_is_kept_whole_and_anything_else_is_400(
    google_cloud: Any,
) -> None:
    headers = {"Authorization": "Bearer a-token-to-be-kept", "X-Own": "a-header-to-be-kept"}
    async with Stage(**google_cloud) as stage, aiohttp.ClientSession() as session:
        server = await stage.start_function()
        for data in BAD:
            await stage.publish(data, number=str(len(data)))
        await stage.until(lambda: len(stage.rejections) >= len(BAD), seconds=SECONDS)

        read = {"text": str.encode, "base64": base64.b64decode}
        read["truncated"] = base64.b64decode
        kept = [read[message.data["eventEncoding"]](message.data["event"]) for message in stage.rejections]  # type: ignore[operator]
        assert sorted(data if len(data) <= 1 << 20 else data[: 64 << 10] for data in BAD) == sorted(kept)
        assert {"MALFORMED_EVENT"} == {message.data["reason"] for message in stage.rejections}

        for body in (b"", b"rubbish", b"[]", b'{"message":5}', b"[" * 100_000, b"x" * 10_000_000):
            async with session.post(server.url, data=body, headers=headers) as answer:
                assert (400, b"malformed") == (answer.status, await answer.read()), body[:20]
        async with session.get(server.url, headers=headers) as answer:
            assert 405 == answer.status
        assert "to-be-kept" not in server.printed()
        assert {} == stage.google.counts

        stage.add_user("alice")
        for job, (form, body) in FORMS.items():
            async with session.post(server.url, data=body, headers=form) as answer:
                assert (204, b"") == (answer.status, await answer.read()), job
        await stage.until(lambda: len(stage.follow_ups) == len(FORMS))
        assert {*FORMS} == {made.data["retriedArchiveJobId"] for made in stage.follow_ups}
        assert [] == server.other_output


async def test_logs_stay_one_json_object_a_line_at_80_deliveries_in_flight(google_cloud: Any) -> None:
    deliveries, in_flight = 400, asyncio.Semaphore(80)
    async with Stage(**google_cloud, settings={"LOG_LEVEL": "DEBUG"}, retry_latency=0.2) as stage:
        server = await stage.start_function()
        stage.add_user("alice")

        async def deliver(session: aiohttp.ClientSession, number: int) -> int:
            async with in_flight:
                event = {"archiveJobId": f"job-{number}-" + "x" * 200, "userId": "alice"}
                return await push(session, server.url, event, messageId=str(number))

        # the server ends a connection that rests for two seconds
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            statuses = await asyncio.gather(*(deliver(session, number) for number in range(deliveries)))
        assert {204} == set(statuses)
        await stage.until(lambda: len(server.deliveries) >= deliveries)
        assert sorted(map(str, range(deliveries))) == sorted(line["messageId"] for line in server.deliveries)
        assert [] == server.other_output
