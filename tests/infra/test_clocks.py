"""An instance whose clock is off: nobody is told that it is late, and no cooldown ends early."""

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from local import google_errors
from tests.infra.broken import EVENT, Broken, claimed, running
from tests.infra.terraform import Plan
from tests.monitoring.product import HEALTHY, HOUR, LARGE, SMALL, Alerts, broken_by

OFF = pytest.mark.parametrize("ahead", [timedelta(minutes=20), timedelta(minutes=-20)], ids=["ahead", "behind"])


def with_clock(ahead: timedelta) -> Broken:
    return Broken("a clock", "retried", "", "", ahead=ahead)


@OFF
async def test_a_clock_that_is_off_makes_no_follow_up_late_and_fires_no_alert(
    ahead: timedelta, watch_plan: Plan
) -> None:
    async with running(with_clock(ahead)) as (_, function):
        published = function.now
        function.later(seconds=2)
        line = await function.deliver(EVENT, published=published)
    assert ("retried", 2.0) == (line["outcome"], line["delaySeconds"])
    alerts = Alerts(watch_plan)
    for volume in (LARGE, SMALL):
        told, begin, end = broken_by(alerts.metrics, {**HEALTHY, **line}, volume)
        assert {} == alerts.fired(told, begin, end, every=HOUR)


@OFF
async def test_a_clock_that_is_off_ends_no_cooldown_early_and_none_late(ahead: timedelta) -> None:
    async with running(with_clock(ahead)) as (stage, function):
        until = function.now + timedelta(hours=24)
        stage.google.script_retry("job", [google_errors.cooldown(until)])
        line = await function.deliver(EVENT)
        assert ("deferred", until) == (line["outcome"], datetime.fromisoformat(line["notBefore"]))
        function.now = until - timedelta(minutes=10)
        assert "deferred" == (await function.deliver(EVENT, attempt=2))["outcome"]
        assert 0 == (await function.resume())["resumed"]
        function.now = until + timedelta(seconds=1)
        assert 1 == (await function.resume())["resumed"]
        assert "retried" == (await function.deliver(EVENT, published=function.now))["outcome"]
        assert 2 == len(stage.google.retries("job"))


@OFF
async def test_a_cooldown_that_google_names_in_seconds_counts_from_the_ledgers_time(ahead: timedelta) -> None:
    async with running(with_clock(ahead)) as (stage, function):
        refused = google_errors.error(429, "RESOURCE_EXHAUSTED", "Later.", google_errors.retry_info(7200))
        stage.google.script_retry("job", [refused])
        line = await function.deliver(EVENT)
        assert timedelta(hours=2) == datetime.fromisoformat(line["notBefore"]) - function.now


@OFF
async def test_a_clock_that_is_off_takes_no_claim_over_and_ends_no_pause_early(ahead: timedelta) -> None:
    async with running(with_clock(ahead)) as (stage, function):
        await function.store.write(replace(claimed(0)(function.now), job_id="held"), None)
        stage.google.script_retry("job", [google_errors.unavailable(), google_errors.unavailable()])
        assert "not_now" == (await function.deliver(EVENT))["outcome"]
        function.later(seconds=1)  # the stage's first pause is a tenth of a second, and the second one three seconds
        assert "not_now" == (await function.deliver(EVENT, attempt=2))["outcome"]
        function.later(seconds=2)
        assert "not_now" == (await function.deliver(EVENT, attempt=3))["outcome"]
        assert "not_now" == (await function.deliver({**EVENT, "archiveJobId": "held"}, attempt=2))["outcome"]
        assert ["job", "job"] == [call.key for call in stage.google.retries()]
        function.later(seconds=2)
        assert "retried" == (await function.deliver(EVENT, attempt=4))["outcome"]
