"""What a run of the model of scale takes of the things that cost money, and what that costs at list prices."""

from dataclasses import dataclass

from infra.delivery.prices import (
    DOCUMENT_DELETE,
    DOCUMENT_READ,
    DOCUMENT_WRITE,
    LOG_BYTE,
    LOG_BYTES,
    MESSAGE_BYTE,
    METRIC_BYTE,
    POINT_BYTES,
    REQUEST,
    SECRET_ACCESS,
    cost,
    instance,
)

MESSAGE_BYTES = 1000  # what Pub/Sub charges at least: https://cloud.google.com/pubsub/pricing


@dataclass(slots=True)
class Taken:
    """Amounts, of retried jobs and of deliveries in vain alike."""

    deliveries: int = 0  # each is a message pushed, a request and its log lines, whoever turns it away
    messages: int = 0  # the others: events, follow-ups and dead letters that are published, follow-ups that are fetched
    instance_seconds: float = 0.0  # in which an instance has a request in hand, which is when it is paid
    accesses: float = 0.0  # of secrets
    reads: int = 0  # of the ledger's entries
    writes: int = 0
    deletes: int = 0
    minutes: int = 0  # in which there was a delivery: each metric has one point for it, of however many deliveries


def usd(taken: Taken) -> float:
    """What all of it costs, with nothing free. An answer of Cloud Run's own is reckoned like one of the function's."""
    return (
        instance(taken.instance_seconds)
        + cost(REQUEST, taken.deliveries)
        + cost(MESSAGE_BYTE, (taken.deliveries + taken.messages) * MESSAGE_BYTES)
        + cost(LOG_BYTE, taken.deliveries * LOG_BYTES)
        + cost(SECRET_ACCESS, taken.accesses)
        + cost(DOCUMENT_READ, taken.reads)
        + cost(DOCUMENT_WRITE, taken.writes)
        + cost(DOCUMENT_DELETE, taken.deletes)
        + cost(METRIC_BYTE, taken.minutes * POINT_BYTES)
    )
