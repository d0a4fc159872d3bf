"""`make dashboard`: docs/dashboard.svg, from infra/dashboard.json and a minute of the real functions."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local import emulators
from tests.infra.terraform import INFRA, ROOT, prepare
from tests.monitoring import minute
from tests.monitoring.draw import Series, picture
from tests.monitoring.logs import LogMetric
from tests.monitoring.series import Point, series

_PERIOD_SECONDS = 2
_LATE_SECONDS = 600


def main() -> int:
    installed = emulators.find()
    if not installed.firestore:
        sys.stderr.write(f"This needs Google's Firestore emulator: {installed.missing}.\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(Path(folder)).plan()
    metrics = [LogMetric.planned(metric.values) for metric in plan.of("logging_metric")]
    with emulators.started(installed.firestore) as [firestore]:
        lived = asyncio.run(minute.run(firestore))
    dashboard = json.loads((INFRA / "dashboard.json").read_text())
    drawn = draw(dashboard, lived.points(metrics), lived.begin)
    (ROOT / "docs" / "dashboard.svg").write_text(drawn)
    return 0


def draw(dashboard: Mapping[str, Any], points: list[Point], begin: float) -> str:
    """The dashboard with these points in it."""

    def data(query: Mapping[str, Any]) -> Series:
        if query["timeSeriesFilter"]["filter"].startswith("select_slo_compliance("):
            delays = [point.value for point in points if point.metric.endswith("/archive-job-retry/delay")]
            good = sum(delay <= _LATE_SECONDS for delay in delays)
            return {(): [good / len(delays)]} if delays else {}
        periods = minute.SECONDS // _PERIOD_SECONDS
        return series(query, points, begin=begin, seconds=_PERIOD_SECONDS, periods=periods)

    caption = (
        "A minute on one machine, with stand-ins for Google's services: its API fails in seconds 18 to 26, and is "
        "disabled for our project in 38 to 42."
    )
    return picture(dashboard, data, caption=caption, seconds=minute.SECONDS)


if __name__ == "__main__":
    sys.exit(main())
