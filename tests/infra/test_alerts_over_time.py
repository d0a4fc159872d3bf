"""Alerts over days: none in a healthy product with its base rates, and the watch's where no job ends any more."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from tests.infra.terraform import ROOT, Plan
from tests.monitoring import reckon
from tests.monitoring.product import DAY, HEALTHY, HOUR, RUN, Alerts, Told
from tests.monitoring.run import RESUME, RETRY, WATCH

PAGE = (ROOT / "docs" / "alerts.md").read_text()
_WATCHING: Mapping[str, Any] = {"severity": "INFO", "outcome": "watching"}
_ENDED: Mapping[str, Any] = {"severity": "INFO", "outcome": "ended", "state": "COMPLETE"}
_REJECTED = {"severity": "INFO", "outcome": "rejected", "calls": 0, "callsUnknown": 0, "republished": False}


@pytest.fixture(scope="module")
def alerts(watch_plan: Plan) -> Alerts:
    return Alerts(watch_plan)


def hourly(begin: float, end: float) -> dict[float, float]:
    return {begin + hour * HOUR: 1.0 for hour in range(int((end - begin) / HOUR))}


def test_the_page_tells_the_reckoning_and_its_base_rates() -> None:
    assert reckon.table() in PAGE
    rates = f"{reckon.CONSENT:.0%} of jobs", f"{reckon.OTHER:.0%} for", f"{reckon.LATE:.1%} of follow", "0.2 % of calls"
    assert [] == [rate for rate in rates if rate.replace("%", " %") not in PAGE and rate not in PAGE]


def test_the_page_has_every_alert(watch_plan: Plan) -> None:
    names = [policy.values["display_name"].partition(": ")[2] for policy in watch_plan.of("monitoring_alert_policy")]
    assert [] == [name for name in names if f"`{name}`" not in PAGE and not name.startswith("watch-dead")]


@pytest.mark.parametrize("a_day", [3, 30])
def test_a_healthy_product_with_its_base_rates_hears_nothing_in_two_months(a_day: int, alerts: Alerts) -> None:
    dice, told, end = random.Random(a_day), Told(alerts.metrics), 60 * DAY
    told.say(RESUME, RUN, hourly(0.0, end))
    for user in range(10):
        at: dict[str, dict[float, float]] = {"REAUTHORIZATION_REQUIRED": {}, "JOB_NOT_FOUND": {}, "": {}}
        for _ in range(a_day * 6):
            share = dice.random()
            reason = "REAUTHORIZATION_REQUIRED" if share < reckon.CONSENT else ""
            reason = "JOB_NOT_FOUND" if reckon.CONSENT <= share < reckon.CONSENT + reckon.OTHER else reason
            at[reason][dice.random() * end] = 1.0
        for reason, times in at.items():
            line = {**_REJECTED, "reason": reason} if reason else HEALTHY
            told.say(RETRY, {**line, "userId": f"user-{user}"}, times)
    assert {} == alerts.fired(told, 7 * DAY, end, every=3 * HOUR)


def test_the_watch_is_stalled_where_jobs_are_looked_at_and_none_ends(alerts: Alerts) -> None:
    for ends, fires in ({}, True), ({60 * HOUR: 1.0}, False):
        told = Told(alerts.metrics)
        told.say(RESUME, RUN, hourly(0.0, 4 * DAY))
        told.say(WATCH, _WATCHING, hourly(0.0, 4 * DAY))
        told.say(WATCH, _ENDED, ends)
        assert fires is ("watch-stalled" in alerts.fired(told, 73 * HOUR, 4 * DAY, every=HOUR))


def test_jobs_that_are_new_after_quiet_days_are_not_stalled(alerts: Alerts) -> None:
    told = Told(alerts.metrics)
    told.say(RESUME, RUN, hourly(0.0, 10 * DAY))
    told.say(WATCH, _ENDED, {0.0: 1.0})
    told.say(WATCH, _WATCHING, dict.fromkeys(hourly(8 * DAY, 9.9 * DAY), 50.0))
    assert {} == alerts.fired(told, 7 * DAY, 9.9 * DAY, every=HOUR)


def test_the_watch_is_stalled_where_events_wait_and_no_look_succeeds(alerts: Alerts) -> None:
    told = Told(alerts.metrics)
    told.say(RESUME, RUN, hourly(0.0, DAY))
    told.say(WATCH, {"severity": "ERROR", "outcome": "fault", "failedStep": "state"}, hourly(0.0, 6 * HOUR))
    for minute in range(0, 360, 5):
        told.gauge("oldest_unacked_message_age", "archive-job-started-watch", minute * 60.0, minute * 60.0)
    assert {"watch-stalled"} == set(alerts.fired(told, 0.5 * HOUR, 6 * HOUR, every=0.5 * HOUR)) - {"schedule"}


def test_a_schedule_that_stands_still_is_told_within_three_hours_and_a_half(alerts: Alerts) -> None:
    told = Told(alerts.metrics)
    told.say(RESUME, RUN, hourly(0.0, DAY))
    assert {"schedule"} == set(found := alerts.fired(told, DAY, 2 * DAY, every=HOUR / 4))
    assert found["schedule"] <= 3.5 * HOUR


def test_dead_letters_of_any_cause_are_told(alerts: Alerts) -> None:
    told = Told(alerts.metrics)
    told.say(RESUME, RUN, hourly(0.0, DAY))
    for name in ("archive-job-dead", "archive-job-watch-dead"):
        told.gauge("num_undelivered_messages", name, 20 * HOUR, 3.0)
    assert {"dead-letters", "watch-dead-letters"} == set(alerts.fired(told, 20 * HOUR, 21 * HOUR, every=HOUR / 4))
