"""The dashboard shows what there is: every metric that it names exists, and every one that we make is on it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.monitoring import kinds, reading, wrong_reading
from tests.infra.terraform import INFRA, Plan
from tests.monitoring.__main__ import draw
from tests.monitoring.logs import Unreadable
from tests.monitoring.series import Point, legend, series

DASHBOARD = json.loads((INFRA / "dashboard.json").read_text())
TILES = DASHBOARD["mosaicLayout"]["tiles"]
_NOT_SHOWN = {"late", "rejected", "unreadable"}  # for the alerts; the first two show in the delay and by reason


def data_sets() -> Iterator[dict[str, Any]]:
    for tile in TILES:
        yield from tile["widget"].get("xyChart", {"dataSets": []})["dataSets"]


def query(data_set: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    chosen = data_set["timeSeriesQuery"]["timeSeriesFilter"]
    return chosen["filter"], chosen["aggregation"]


def test_every_metric_that_it_names_exists_with_its_labels_and_can_be_aligned_so(plan: Plan) -> None:
    assert [] == [
        problem
        for data_set in data_sets()
        for problem in wrong_reading(plan, query(data_set)[0], query(data_set)[1]["perSeriesAligner"])
    ]


@pytest.mark.parametrize(
    ("old", "new"), [("/deliveries", "/delivery"), ("pubsub_subscription", "pubsub_topic"), ("outcome", "outcomes")]
)
def test_a_query_of_what_does_not_exist_is_found(plan: Plan, old: str, new: str) -> None:
    wrong = [query(data_set)[0].replace(old, new) for data_set in data_sets() if old in query(data_set)[0]]
    assert all(list(wrong_reading(plan, each)) for each in wrong)
    assert wrong


def test_every_metric_that_we_make_is_on_it(plan: Plan) -> None:
    shown = {reading(query(data_set)[0])[0] for data_set in data_sets()}
    made = {name for name in kinds(plan) if name.startswith("logging.googleapis.com/user/")}
    assert _NOT_SHOWN == {name.rpartition("/")[2] for name in made - shown}


def test_its_groups_are_labels_and_its_legends_name_groups(plan: Plan) -> None:
    for data_set in data_sets():
        chosen, aggregation = query(data_set)
        grouped = aggregation.get("groupByFields", [])
        known = {f"metric.labels.{label}" for label in kinds(plan)[reading(chosen)[0]].labels}
        assert set(grouped) <= known
        assert set(re.findall(r"\$\{([^}]+)\}", data_set["legendTemplate"])) == set(grouped)


def test_what_is_deployed_is_the_file_with_the_projects_slo(plan: Plan) -> None:
    deployed = plan.one("monitoring_dashboard")["dashboard_json"]
    assert DASHBOARD["displayName"] == json.loads(deployed)["displayName"]
    assert "PROJECT_ID" not in deployed
    slo, service = plan.one("monitoring_slo")["slo_id"], plan.one("monitoring_custom_service")["service_id"]
    name = f"projects/my-portability-project/services/{service}/serviceLevelObjectives/{slo}"
    assert f'select_slo_compliance(\\"{name}\\")' in deployed


def test_watched_jobs_that_failed_are_among_those_that_ended() -> None:
    [tile] = [tile["widget"] for tile in TILES if tile["widget"]["title"].startswith("Watched jobs that ended")]
    read = [reading(query(data_set)[0])[2] for data_set in tile["xyChart"]["dataSets"]]
    assert ["ended", "failed"] == [labels["metric.labels.outcome"] for labels in read]


def test_its_tiles_fill_the_rows_and_say_no_position_of_0() -> None:
    cells = [
        (x, y)
        for tile in TILES
        for x in range(tile.get("xPos", 0), tile.get("xPos", 0) + tile["width"])
        for y in range(tile.get("yPos", 0), tile.get("yPos", 0) + tile["height"])
    ]
    assert len(cells) == len(set(cells)) == 48 * (max(y for _, y in cells) + 1)
    assert not [tile for tile in TILES if 0 in (tile.get("xPos"), tile.get("yPos"))]


def test_it_can_be_drawn_with_any_data_and_with_none() -> None:
    delay = "logging.googleapis.com/user/archive-job-retry/delay"
    assert "100.0 %" not in draw(DASHBOARD, [], 0.0)
    assert "50.0 %" in draw(DASHBOARD, [Point(1.0, delay, 1.0), Point(1.0, delay, 601.0)], 0.0)


def test_the_picture_is_of_this_dashboard() -> None:
    drawn = (INFRA.parent / "docs" / "dashboard.svg").read_text()
    titles = [tile["widget"]["title"] for tile in TILES]
    assert titles == re.findall(r'font-size="12"[^>]*font-weight="bold">([^<]+)<', drawn)


def counted(value: float, **labels: str) -> Point:
    return Point(value, "m", 1.0, {f"metric.labels.{name}": text for name, text in labels.items()})


def chosen(aligner: str, reducer: str = "", *group_by: str, more: str = "") -> dict[str, Any]:
    aggregation = {"perSeriesAligner": aligner, "crossSeriesReducer": reducer, "groupByFields": list(group_by)}
    return {"timeSeriesFilter": {"filter": f'metric.type="m" AND resource.type="r"{more}', "aggregation": aggregation}}


def test_series_are_counted_by_period_and_group() -> None:
    points = [counted(0.5, outcome="a"), counted(0.6, outcome="a"), counted(2.5, outcome="b"), counted(9.0)]
    told = chosen("ALIGN_DELTA", "REDUCE_SUM", "metric.labels.outcome")
    assert {("a",): [2.0, 0.0, 0.0], ("b",): [0.0, 0.0, 1.0]} == series(told, points, begin=0, seconds=1, periods=3)
    only_b = chosen("ALIGN_DELTA", "REDUCE_SUM", more=' AND metric.labels.outcome="b"')
    assert {(): [0.0, 0.0, 1.0]} == series(only_b, points, begin=0, seconds=1, periods=3)
    assert "ended: a" == legend("ended: ${metric.labels.outcome}", ["metric.labels.outcome"], ["a"])


def test_a_percentile_is_of_a_periods_values_and_unknown_where_there_are_none() -> None:
    points = [Point(0.1, "m", float(value)) for value in range(1, 101)]
    assert {(): [95.0, None]} == series(
        chosen("ALIGN_DELTA", "REDUCE_PERCENTILE_95"), points, begin=0, seconds=1, periods=2
    )


@pytest.mark.parametrize("wrong", [chosen("ALIGN_RATE"), chosen("ALIGN_MAX", more=' OR metric.labels.outcome="b"')])
def test_a_query_of_a_form_that_is_not_known_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        series(wrong, [], begin=0, seconds=1, periods=1)
