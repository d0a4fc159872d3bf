"""What a retried and a watched job cost is counted on a real run, not guessed."""

import asyncio
import json
import math
import re
import urllib.request
from datetime import timedelta

from handlers.bootstrap import Container
from handlers.settings import from_environment
from infra.delivery import prices
from local.function_server import ROOT
from local.grants import EXPIRES_IN
from local.stage import Stage
from tests.infra.terraform import Plan
from tests.unit.fakes import START
from tests.unit.instance import Instance, failed

VARIABLES = (ROOT / "infra" / "variables.tf").read_text()


def _ledger_entries(emulator: str, project: str) -> list[dict[str, str]]:
    url = f"http://{emulator}/v1/projects/{project}/databases/(default)/documents/archiveJobRetries"
    request = urllib.request.Request(url, headers={"Authorization": "Bearer owner"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        entries: list[dict[str, str]] = json.load(answer)["documents"]
    return entries


async def test_one_retried_job_takes_what_the_prices_are_reckoned_with(
    pubsub_emulator: str, firestore_emulator: str
) -> None:
    async with Stage(pubsub=pubsub_emulator, firestore=firestore_emulator) as stage:
        stage.add_user("user")
        await stage.start_function()
        await stage.publish({"archiveJobId": "failed", "userId": "user"})
        await stage.until(lambda: stage.follow_ups and stage.deliveries)
        entries = await asyncio.to_thread(_ledger_entries, firestore_emulator, stage.project)
        tokens = [access for access in stage.secrets.accesses if "refresh-token" in access.secret_id]
        line = stage.deliveries[0]
    assert prices.SECRET_ACCESSES == len(tokens)
    assert prices.DOCUMENT_DELETES == len(entries)
    changed = {entry["name"].rpartition("/")[2] for entry in entries if entry["createTime"] != entry["updateTime"]}
    assert changed == {"failed"}  # claimed, then answered; the new job's entry is written once
    assert prices.DOCUMENT_WRITES == len(entries) + len(changed)
    assert len(json.dumps(line)) < prices.LOG_BYTES / 2  # Cloud Run's own line has the rest


async def test_one_watched_job_takes_what_the_prices_are_reckoned_with() -> None:
    instance = Instance(RETRY_LEDGER="firestore")
    ends = START + timedelta(hours=prices.WATCHED_HOURS)
    await instance.watch(failed())
    put_back = run = 0
    while not instance.published("archive-job-ended"):
        run += 1
        instance.clock.now = START + timedelta(seconds=run * prices.SCHEDULE_SECONDS)
        before = len(instance.topics.messages)
        await instance.resume()
        instance.clock.wait(prices.LATENCY_SECONDS)
        if instance.clock.now >= ends:
            instance.http.state_scripts["job"] = [(200, {"state": "COMPLETE"})]
        for _, message in instance.topics.messages[before:]:
            put_back += 1
            await instance.watch(message.data, published_at=instance.clock())
    number, _ = prices.looks(prices.WATCHED_HOURS)
    assert number == put_back == len(instance.http.looks)
    messages = 1 + len(instance.topics.messages)
    assert prices.STARTED_MESSAGES + number * prices.LOOK_MESSAGES == 2 * messages
    reads = instance.documents.calls.count("read") + put_back
    assert reads == prices.STARTED_READS + number * prices.LOOK_READS
    writes = sum(map(len, instance.documents.commits))
    assert writes == prices.STARTED_WRITES + number * prices.LOOK_WRITES
    assert len(instance.documents.documents) == prices.WATCH_DELETES


async def test_waits_tokens_and_schedule_are_what_the_prices_are_reckoned_with() -> None:
    settings = from_environment({"GOOGLE_CLOUD_PROJECT": "p"})
    assert settings.watch_interval_seconds == prices.WATCH_INTERVAL_SECONDS
    assert EXPIRES_IN - settings.token_margin == prices.TOKEN_SECONDS
    watch = Container(settings).watch_use_case
    assert watch.wait(timedelta(days=9)).total_seconds() == prices.LONGEST_WAIT_SECONDS
    schedule = re.search(r'variable "resume_schedule" {.*?"\*/(\d+) \* \* \* \*"', VARIABLES, re.DOTALL)
    assert schedule
    assert int(schedule[1]) * 60 == prices.SCHEDULE_SECONDS


def test_what_is_watched_is_what_the_prices_are_reckoned_with(plan: Plan) -> None:
    conditions = [
        condition for policy in plan.of("monitoring_alert_policy") for condition in policy.values["conditions"]
    ]
    assert prices.ALERT_CONDITIONS == len(conditions)
    queries = [query for one in conditions for query in one["condition_prometheus_query_language"]]
    thresholds = [threshold for one in conditions for threshold in one["condition_threshold"]]
    # a threshold is looked at twice a minute
    reads = sum(query["query"].count("{") * 60 / float(query["evaluation_interval"][:-1]) for query in queries)
    assert prices.ALERT_SERIES == math.ceil(reads + 2 * len(thresholds))
    values = [metric.values["metric_descriptor"][0]["value_type"] for metric in plan.of("logging_metric")]
    assert prices.DISTRIBUTIONS == values.count("DISTRIBUTION")
    assert prices.COUNTS == values.count("INT64") - 3  # the schedule's two and the watch's cost next to nothing
