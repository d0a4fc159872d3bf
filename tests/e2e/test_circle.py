"""The circle closed: a product says once that an export has started, and hears once how it ended.

Three functions and a schedule of a second, on Google's emulators.
"""

import asyncio
import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from local.google_errors import not_found
from local.scripted import Answer
from local.stage import RESUME, RETRY, WATCH, Stage
from local.state_answers import SIGNED_URL
from local.topics import STARTED, WATCH_DEAD

SECONDS = 30.0
OF_EACH_KIND = 3  # jobs: the first of each kind is started twice
BUDGET = 3
MALFORMED = b'{"archiveJobId": "malformed", "userId": 5}'


def state(word: str) -> Answer:
    return Answer(200, {"state": word, "urls": [SIGNED_URL]})


def started(stage: Stage, job: str, *, ago: timedelta = timedelta(), consents: bool = True) -> dict[str, Any]:
    """The started event of a user with the job's name."""
    stage.add_user(job, consents=consents)
    return {"archiveJobId": job, "userId": job, "startedAt": (datetime.now(UTC) - ago).isoformat()}


def retries_make(stage: Stage, job: str, *states: str) -> None:
    """Each retry of the chain makes the next job, `job-2` and on, and all of them end in these states."""
    for number, word in enumerate(states, start=2):
        before = job if number == 2 else f"{job}-{number - 1}"
        stage.google.script_retry(before, [Answer(200, {"archiveJobId": f"{job}-{number}"})])
        stage.google.states[f"{job}-{number}"] = word


def events(stage: Stage) -> dict[str, dict[str, Any]]:
    """The started events of all jobs by kind, and what the world does to them."""
    kinds: dict[str, dict[str, Any]] = defaultdict(dict)
    for number in range(OF_EACH_KIND):
        for kind in ("completes", "cancelled", "fails-once", "fails-for-ever"):
            job = f"{kind}-{number}"
            kinds[kind][job] = started(stage, job)
        stage.google.script_state(f"completes-{number}", [state("IN_PROGRESS"), *[state("COMPLETE")] * 5])
        stage.google.states[f"cancelled-{number}"] = "CANCELLED"
        stage.google.states[f"fails-once-{number}"] = "FAILED"
        retries_make(stage, f"fails-once-{number}", "COMPLETE")
        stage.google.states[f"fails-for-ever-{number}"] = "FAILED"
        retries_make(stage, f"fails-for-ever-{number}", *["FAILED"] * BUDGET)
        # Nobody can be sure in a job's first hour that it is not there.
        two_hours = timedelta(hours=2)
        kinds["unknown"][f"unknown-{number}"] = started(stage, f"unknown-{number}", ago=two_hours)
        stage.google.script_state(f"unknown-{number}", itertools.repeat(not_found()))
        withdrawn = f"withdrawn-{number}"
        kinds["withdrawn"][withdrawn] = started(stage, withdrawn, ago=two_hours, consents=False)
    return kinds


def told(stage: Stage) -> dict[str, set[tuple[Any, ...]]]:
    """What the product hears of each chain, by its root: ended events and rejections."""
    heard: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for message in stage.ended:
        data = message.data
        said = data["archiveJobId"], data["state"], data["cause"], data["attempt"]
        heard[data["rootArchiveJobId"]].add(said)
    for message in stage.rejections:
        data = message.data
        heard[data["rootArchiveJobId"]].add((data["archiveJobId"], data["reason"], data["cause"], data["attempt"]))
    return heard


def promised() -> dict[str, set[tuple[Any, ...]]]:
    """That, as the contract has it."""
    expected: dict[str, set[tuple[Any, ...]]] = {"": {("malformed", "MALFORMED_EVENT", "", 0)}}
    for number in range(OF_EACH_KIND):
        last = f"fails-for-ever-{number}-{BUDGET + 1}"
        expected |= {
            f"completes-{number}": {(f"completes-{number}", "COMPLETE", "", 0)},
            f"cancelled-{number}": {(f"cancelled-{number}", "CANCELLED", "", 0)},
            f"fails-once-{number}": {(f"fails-once-{number}-2", "COMPLETE", "", 1)},
            f"fails-for-ever-{number}": {(last, "RETRY_BUDGET_EXHAUSTED", "", BUDGET)},
            f"unknown-{number}": {(f"unknown-{number}", "UNKNOWN", "JOB_NOT_FOUND", 0)},
            f"withdrawn-{number}": {(f"withdrawn-{number}", "UNKNOWN", "INVALID_GRANT", 0)},
        }
    return expected


def wanted_retries() -> dict[str, int]:
    """The calls to archiveJobs.retry, by job."""
    chains = {f"fails-once-{number}": 1 for number in range(OF_EACH_KIND)}
    chains |= {f"fails-for-ever-{number}": BUDGET for number in range(OF_EACH_KIND)}
    return {
        job if step == 1 else f"{job}-{step}": 1 for job, retries in chains.items() for step in range(1, retries + 1)
    }


async def test_jobs_of_every_kind_end_as_the_product_was_promised(google_cloud: dict[str, Any], figure: Any) -> None:
    async with Stage(**google_cloud, settings={"WATCH_INTERVAL_SECONDS": "0.2"}) as stage:
        kinds = events(stage)
        await stage.start_function(target=RETRY)
        await stage.start_function(target=WATCH)
        schedule = asyncio.create_task((await stage.start_function(target=RESUME)).be_called(every_seconds=1))
        begun = asyncio.get_running_loop().time()
        for events_of_kind in kinds.values():
            for number, event in enumerate(events_of_kind.values()):
                for _ in range(2 if number == 0 else 1):
                    await stage.publish(event, topic=STARTED)
        await stage.publish(MALFORMED, topic=STARTED)
        await stage.until(lambda: told(stage).keys() >= promised().keys(), seconds=SECONDS)
        figure("seconds until every watched job's end was told", round(asyncio.get_running_loop().time() - begun))
        await asyncio.sleep(2.5)  # two more runs of the schedule: nothing else comes
        schedule.cancel()

        assert promised() == told(stage)
        assert ([], []) == (stage.dead_letters, stage.arrived[WATCH_DEAD])
        [malformed] = [message for message in stage.rejections if message.data["reason"] == "MALFORMED_EVENT"]
        assert "archive-job-started" == malformed.attributes["source"]
        calls = [request.key for request in stage.google.retries()]
        assert wanted_retries() == {job: calls.count(job) for job in calls}
        assert not stage.google.counts["other"]
        assert {"GET"} == {request.method for request in stage.google.looks()}
        jobs = {job for kind, jobs in kinds.items() for job in jobs if kind != "withdrawn"}  # those have no token
        new = {said[0] for heard in told(stage).values() for said in heard} - {"malformed"}
        looks = {request.key for request in stage.google.looks()}
        assert jobs | wanted_retries().keys() | (new - kinds["withdrawn"].keys()) == looks
        assert not [line for line in stage.deliveries if line["outcome"] == "fault"]
