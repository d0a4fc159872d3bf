"""The rules that metrics, alerts and the SLO keep; tests/infra/rules.py has the others. No provider checks these."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from handlers.outcomes import Reason

from tests.infra.rules import Problems
from tests.infra.terraform import Plan
from tests.monitoring.google import GOOGLE, Kind, allows
from tests.monitoring.logs import LogMetric, Unreadable, extracted

OUTCOMES = {"retried", "rejected", "deferred", "not_now", "fault", "resumed"}
_USER = "logging.googleapis.com/user/"
_NAME = re.compile(
    r"[A-Za-z0-9_\-.,+!*',()%/]{1,100}"
)  # https://cloud.google.com/logging/docs/reference/v2/rest/v2/projects.metrics
_FILTER = re.compile(r'([a-z_.]+)="([^"]*)"')
_SELECTOR = re.compile(r"([a-z_]+:[a-z_]+)\{([^}]*)\}")


def kinds(plan: Plan) -> dict[str, Kind]:
    """Every metric that can be read: Google's, and those that are made."""
    made = {}
    for metric in plan.of("logging_metric"):
        [descriptor] = metric.values["metric_descriptor"]
        labels = frozenset(label["key"] for label in descriptor["labels"])
        name = _USER + metric.values["name"]
        made[name] = Kind(descriptor["metric_kind"], descriptor["value_type"], "cloud_run_revision", labels)
    return {**GOOGLE, **made}


def reading(query: str) -> tuple[str, str, dict[str, str]]:
    """Metric, resource type and labels of a Monitoring filter; it raises Unreadable for one of another form."""
    parts = [_FILTER.fullmatch(part) for part in query.split(" AND ")]
    named = {part[1]: part[2] for part in parts if part}
    if len(named) != len(parts):
        raise Unreadable(query)
    labels = {name: text for name, text in named.items() if ".labels." in name}
    if set(named) - set(labels) != {"metric.type", "resource.type"}:
        raise Unreadable(query)
    return named["metric.type"], named["resource.type"], labels


def wrong_reading(plan: Plan, query: str, *aligners: str) -> Iterator[str]:
    """What is wrong with a filter and the aligners of what it selects."""
    try:
        name, resource, labels = reading(query)
    except Unreadable:
        yield f"{query} is not one metric of one resource."
        return
    kind = kinds(plan).get(name)
    if kind is None:
        yield f"There is no metric {name}."
        return
    if resource != kind.resource:
        yield f"{name} is not of {resource}."
    yield from (
        f"A metric {kind.metric} {kind.value} has no {aligner}." for aligner in aligners if not allows(aligner, kind)
    )
    for label, text in labels.items():
        where, _, key = label.partition(".labels.")
        if where == "metric":
            yield from _wrong_label(name, kind, key, text)
        elif key == "subscription_id" and text not in _names(plan, "pubsub_subscription"):
            yield f"There is no subscription {text}."
        elif key == "topic_id" and text not in _names(plan, "pubsub_topic"):
            yield f"There is no topic {text}."
        elif key == "service_name" and text not in _names(plan, "cloudfunctions2_function"):
            yield f"There is no function {text}."


def _names(plan: Plan, kind: str) -> set[str]:
    return {resource.values["name"] for resource in plan.of(kind)}


def _wrong_label(name: str, kind: Kind, label: str, text: str) -> Iterator[str]:
    known: Mapping[str, set[str]] = {"outcome": OUTCOMES, "reason": set(Reason), "republished": {"true", "false"}}
    if label not in kind.labels:
        yield f"{name} has no label {label}."
    elif label in known and not set(text.split("|")) <= known[label]:
        yield f"{name} has no {label} {text}."


def metrics_can_be_made(plan: Plan) -> Problems:
    """What Cloud Logging refuses, and the provider does not."""
    for metric in plan.of("logging_metric"):
        values, [descriptor] = metric.values, metric.values["metric_descriptor"]
        if not _NAME.fullmatch(values["name"]):
            yield f"{metric.address}: Cloud Logging takes no such name."
        labels = {label["key"] for label in descriptor["labels"]}
        if labels != set(values["label_extractors"] or {}) or len(labels) > 10:
            yield f"{metric.address}: ten labels at most, each with its extractor."
        gathers = descriptor["value_type"] == "DISTRIBUTION"
        if descriptor["metric_kind"] != "DELTA" or not (gathers or descriptor["value_type"] == "INT64"):
            yield f"{metric.address} neither counts nor gathers."
        if gathers != bool(values["value_extractor"]) or gathers != bool(values["bucket_options"]):
            yield f"{metric.address}: what gathers, and nothing else, has a value and buckets."
        for extractor in LogMetric.planned(values).labels.values():
            extracted(extractor, {})


def alerts_read_what_there_is(plan: Plan) -> Problems:
    """Metrics that exist, with labels and values that exist, aligned as their kind allows."""
    filters = {metric.values["filter"] for metric in plan.of("logging_metric")}
    for policy in plan.of("monitoring_alert_policy"):
        [condition] = policy.values["conditions"]
        for threshold in condition["condition_threshold"]:
            [aggregation] = threshold["aggregations"]
            for problem in wrong_reading(plan, threshold["filter"], aggregation["per_series_aligner"]):
                yield f"{policy.address}: {problem}"
        for query in condition["condition_prometheus_query_language"]:
            yield from (f"{policy.address}: {problem}" for problem in _wrong_promql(plan, query["query"]))
            if not query["disable_metric_validation"]:
                yield f"{policy.address} could not be made along with its metrics."
        for matched in condition["condition_matched_log"]:
            if matched["filter"] not in filters:
                yield f"{policy.address}: no metric has this filter, so that nobody knows what it matches."


def _wrong_promql(plan: Plan, query: str) -> Iterator[str]:
    selectors = _SELECTOR.findall(query)
    if not selectors or len(selectors) != query.count("{"):
        yield f"{query} selects nothing that can be read here."
    known = {re.sub(r"[^a-z0-9]", "_", name): (name, kind) for name, kind in kinds(plan).items()}
    for written, matchers in selectors:
        name = written.replace(":", "_")
        gathered = known.get(name.removesuffix("_count")) if name.endswith("_count") else None
        found = known.get(name) or gathered
        if not found or (found[1].value == "DISTRIBUTION") is not bool(gathered):
            yield f"There is no metric {written}."
            continue
        labels = dict(re.findall(r'([a-z_]+)=~?"([^"]*)"', matchers))
        if labels.pop("monitored_resource", "") != found[1].resource:
            yield f"{written} could be of several resources."
        for label, text in labels.items():
            yield from _wrong_label(*found, label, text)


def alerts_say_what_to_do(plan: Plan) -> Problems:
    """Few, each with a severity, a meaning and a command; told once, not for every line."""
    policies = plan.of("monitoring_alert_policy")
    if len(policies) > 10:
        yield "So many alerts that nobody reads them."
    for policy in policies:
        values, [condition] = policy.values, policy.values["conditions"]
        if not values["documentation"] or not re.search(
            r"^ {4}\S", values["documentation"][0]["content"], re.MULTILINE
        ):
            yield f"{policy.address} names no command."
        elif not values["documentation"][0]["content"].startswith("**"):
            yield f"{policy.address} does not say what it means."
        if values["severity"] not in ("CRITICAL", "ERROR", "WARNING"):
            yield f"{policy.address} has no severity."
        [strategy] = values["alert_strategy"] or [{"notification_rate_limit": []}]
        if bool(strategy["notification_rate_limit"]) is not bool(condition["condition_matched_log"]):
            yield f"{policy.address}: a rate limit is for what matches lines, which has to have one."


def the_slo_can_be_told(plan: Plan) -> Problems:
    """It cuts a distribution where one of its buckets ends."""
    slo = plan.one("monitoring_slo")
    [cut] = slo["request_based_sli"][0]["distribution_cut"]
    yield from wrong_reading(plan, cut["distribution_filter"])
    name, _, _ = reading(cut["distribution_filter"])
    metric = plan.one("logging_metric", name.removeprefix(_USER))
    if not metric["bucket_options"] or cut["range"][0]["max"] not in _bounds(metric):
        yield "The SLO's limit lies within a bucket: what is late would be guessed."
    if slo["service"] != plan.one("monitoring_custom_service")["service_id"]:
        yield "The SLO is of another service."
    if (slo["goal"], slo["rolling_period_days"]) != (0.99, 28):
        yield "The SLO is not 99 % over four weeks."


def _bounds(metric: Mapping[str, Any]) -> list[float]:
    return [bound for explicit in metric["bucket_options"][0]["explicit_buckets"] for bound in explicit["bounds"]]


RULES: tuple[Callable[[Plan], Problems], ...] = (
    alerts_read_what_there_is,
    alerts_say_what_to_do,
    metrics_can_be_made,
    the_slo_can_be_told,
)
