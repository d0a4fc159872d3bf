"""A stage broken in five ways: what the program shows names the cause, the runbook has the remedy, an alert fires."""

import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.pubsub_v1.types.pubsub import PublishRequest

from local import google_errors
from local.grpc_service import Refused, service
from local.scripted import ANY
from local.stage import OAUTH_CLIENT, Stage
from tests.infra.monitoring import _SELECTOR, _USER, reading
from tests.infra.terraform import ROOT, Plan
from tests.monitoring.logs import Entry, LogMetric, entry, matches
from tests.monitoring.run import RETRY

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
_ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in RUNBOOK.splitlines() if line.startswith("| `")]


@dataclass(frozen=True, slots=True)
class Broken:
    """`breaks` the stage. `said`: words of the line that stand in the runbook's row for it, beside its remedy."""

    what: str
    outcome: str
    step: str
    said: str
    remedy: str
    alert: str
    breaks: Callable[[Stage], object] = lambda stage: None
    settings: tuple[tuple[str, str], ...] = ()


def _revoke(stage: Stage) -> None:
    stage.add_user("user", consents=False)


def _wrong_secret(stage: Stage) -> None:
    client = stage.google.client_file().replace(stage.google.client_secret.encode(), b"last-years-secret")
    stage.secrets.add_version(OAUTH_CLIENT, client)


def _disable(stage: Stage) -> None:
    stage.google.script_retry(ANY, itertools.repeat(google_errors.project_refused("SERVICE_DISABLED")))


FIVE = (
    Broken("consent revoked", "rejected", "", "REAUTHORIZATION_REQUIRED", "asks the user", "reauthorization", _revoke),
    Broken(
        "wrong client secret",
        "fault",
        "token",
        "invalid_client",
        f"gcloud secrets versions add {OAUTH_CLIENT}",
        "faults",
        _wrong_secret,
    ),
    Broken("API disabled", "fault", "retry", "SERVICE_DISABLED", "gcloud services enable", "faults", _disable),
    Broken("topic permission missing", "fault", "publish", "publishing to", "topics get-iam-policy", "faults"),
    Broken(
        "ledger down",
        "not_now",
        "claim",
        "not over in time",
        "wait",
        "oldest-event",
        settings=(
            ("RETRY_LEDGER", "firestore"),
            ("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1"),
            ("HANDLER_DEADLINE_SECONDS", "3"),
        ),
    ),
)


@asynccontextmanager
async def nobody_may_publish() -> AsyncIterator[str]:
    """Where Pub/Sub refuses to take a message from us: no emulator knows permissions."""

    def refuse(_: Any) -> Any:
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action.")

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service("google.pubsub.v1.Publisher", {"Publish": (PublishRequest, refuse)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def line_of(broken: Broken) -> dict[str, Any]:
    """What the function writes of the first delivery on the broken stage."""
    async with nobody_may_publish() as refusing, Stage(settings=dict(broken.settings)) as stage:
        stage.add_user("user")
        broken.breaks(stage)
        given = {"PUBSUB_EMULATOR_HOST": refusing} if broken.step == "publish" else {}
        await stage.start_function(settings=given)
        await stage.publish({"archiveJobId": "job", "userId": "user"})
        await stage.until(lambda: stage.deliveries)
        return stage.deliveries[0]


@pytest.mark.parametrize("broken", FIVE, ids=lambda broken: broken.what)
async def test_the_line_names_the_cause_the_runbook_the_remedy_and_the_alert_fires(broken: Broken, plan: Plan) -> None:
    line = await line_of(broken)
    assert (broken.outcome, broken.said in f"{line['message']} {line.get('reason')}") == (line["outcome"], True), line
    if broken.step:
        assert broken.step == line["failedStep"]
    [row] = [
        row
        for row in _ROWS
        if f"`{broken.outcome}`" == row[0]
        and (f"`{broken.step}`" in row[1] if broken.step else not row[1])
        and broken.said in row[2]
    ]
    assert broken.remedy in row[4]
    fired = {name for name, fires in alerts(plan).items() if fires(entry(RETRY, line))}
    assert {broken.alert} == fired - ({"oldest-event"} if broken.outcome == "fault" else set())  # which comes later


def alerts(plan: Plan) -> dict[str, Callable[[Entry], bool]]:
    """Of the alerts on ours and on the push: whether more and more of such a line makes it fire."""
    metrics = {metric.values["name"]: LogMetric.planned(metric.values) for metric in plan.of("logging_metric")}
    found: dict[str, Callable[[Entry], bool]] = {}
    for policy in plan.of("monitoring_alert_policy"):
        name = policy.values["display_name"].partition(": ")[2]
        [condition] = policy.values["conditions"]
        for matched in condition["condition_matched_log"]:
            found[name] = lambda line, query=matched["filter"]: matches(query, line)  # type: ignore[misc]
        for threshold in condition["condition_threshold"]:
            if reading(threshold["filter"])[0].endswith("/oldest_unacked_message_age"):
                found[name] = lambda line: line["jsonPayload"]["outcome"] in ("not_now", "fault")
        for query in condition["condition_prometheus_query_language"]:
            if name != "schedule":  # which fires where there are no lines
                found[name] = lambda line, query=query["query"]: _counts(metrics, query, line)  # type: ignore[misc]
    assert len(found) == 7
    return found


def _counts(metrics: dict[str, LogMetric], query: str, line: Entry) -> bool:
    """Whether the line adds to what the query compares: its first selector."""
    written, matchers = _SELECTOR.findall(query)[0]
    [metric] = [m for m in metrics.values() if re.sub(r"[^a-z0-9]", "_", _USER + m.name) == written.replace(":", "_")]
    point = metric.point(line)
    wanted = re.findall(r'([a-z_]+)=(~?)"([^"]*)"', matchers)
    labels = {name: text if tilde else re.escape(text) for name, tilde, text in wanted}
    labels.pop("monitored_resource")
    return point is not None and all(re.fullmatch(text, point[0].get(name, "")) for name, text in labels.items())
