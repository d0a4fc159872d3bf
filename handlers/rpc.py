"""The one table of gRPC errors: what an answer of Pub/Sub, Firestore or Secret Manager means for a delivery.

https://cloud.google.com/apis/design/errors#handling_errors
"""

from google.api_core.exceptions import GoogleAPIError
from grpc import StatusCode

from handlers.outcomes import Fault, Misconfigured, Unavailable

PASSING = frozenset(
    {
        StatusCode.ABORTED,
        StatusCode.CANCELLED,
        StatusCode.DATA_LOSS,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
    }
)


def fault_of(error: GoogleAPIError, doing: str) -> Fault:
    """The fault behind a failed call. Everything that does not pass by itself is ours: a role, a name, a request."""
    code = getattr(error, "grpc_status_code", None)  # a RetryError has none: its time ran out on passing faults
    if code is None or code in PASSING:
        return Unavailable(f"{doing}: {code.name if code else 'no answer'}")
    return Misconfigured(f"{doing}: {code.name}")
