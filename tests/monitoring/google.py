"""Metrics of Google's that infra/ reads, and what may be done with a metric of which kind."""

from collections.abc import Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """Of a metric: DELTA or GAUGE; INT64, DOUBLE or DISTRIBUTION; the resource that it is of, and its labels."""

    metric: str
    value: str
    resource: str
    labels: frozenset[str] = frozenset()


# https://cloud.google.com/monitoring/api/metrics_gcp_p_z
GOOGLE: Mapping[str, Kind] = {
    "pubsub.googleapis.com/subscription/num_undelivered_messages": Kind("GAUGE", "INT64", "pubsub_subscription"),
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age": Kind("GAUGE", "INT64", "pubsub_subscription"),
    "pubsub.googleapis.com/topic/send_message_operation_count": Kind("DELTA", "INT64", "pubsub_topic"),
    "run.googleapis.com/container/cpu/utilizations": Kind("DELTA", "DISTRIBUTION", "cloud_run_revision"),
    "run.googleapis.com/container/instance_count": Kind("GAUGE", "INT64", "cloud_run_revision", frozenset({"state"})),
    "run.googleapis.com/container/memory/utilizations": Kind("DELTA", "DISTRIBUTION", "cloud_run_revision"),
}

# https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#Aligner: aligner → kinds and values that
# it is valid for
_NUMBERS, _ALL = {"INT64", "DOUBLE"}, {"INT64", "DOUBLE", "DISTRIBUTION"}
ALIGNERS: Mapping[str, tuple[set[str], set[str]]] = {
    "ALIGN_COUNT": ({"GAUGE", "DELTA"}, _NUMBERS),
    "ALIGN_DELTA": ({"DELTA", "CUMULATIVE"}, _ALL),
    "ALIGN_MAX": ({"GAUGE"}, _NUMBERS),
    "ALIGN_MEAN": ({"GAUGE"}, _NUMBERS),
    "ALIGN_MIN": ({"GAUGE"}, _NUMBERS),
    "ALIGN_PERCENTILE_50": ({"GAUGE", "DELTA"}, {"DISTRIBUTION"}),
    "ALIGN_PERCENTILE_95": ({"GAUGE", "DELTA"}, {"DISTRIBUTION"}),
    "ALIGN_PERCENTILE_99": ({"GAUGE", "DELTA"}, {"DISTRIBUTION"}),
    "ALIGN_RATE": ({"DELTA", "CUMULATIVE"}, _NUMBERS),
    "ALIGN_SUM": ({"GAUGE", "DELTA"}, _ALL),
}


def allows(aligner: str, kind: Kind) -> bool:
    """Whether a metric of this kind can be aligned so."""
    kinds, values = ALIGNERS.get(aligner, (set(), set()))
    return kind.metric in kinds and kind.value in values
