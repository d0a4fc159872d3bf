"""The one table of gRPC errors: what a failed call of a Google client means for a delivery.

https://cloud.google.com/apis/design/errors#handling_errors
"""

from google.api_core import exceptions
from google.api_core.exceptions import GoogleAPIError
from grpc import StatusCode

from handlers.domain.outcomes import Misconfigured, Throttled, Transient

_TRANSIENT = exceptions.ServerError, exceptions.Aborted, exceptions.Cancelled, exceptions.ResourceExhausted


def is_transient(error: Exception) -> bool:
    """Whether the call may succeed later. What was asked for may have been done all the same."""
    if isinstance(error, _TRANSIENT):
        return not isinstance(error, exceptions.MethodNotImplemented)
    # a RetryError has no code: its time ran out on transient errors
    return isinstance(error, GoogleAPIError) and getattr(error, "grpc_status_code", None) is None


def is_refused(error: Exception) -> bool:
    """Whether the call was refused with nothing done, for what may be one item of a batch."""
    return isinstance(error, exceptions.Aborted) or (isinstance(error, GoogleAPIError) and not is_transient(error))


def to_step_error(error: GoogleAPIError, action: str) -> Transient | Misconfigured:
    """The fault behind a failed call. Whatever is not transient is ours: a role, a name, a request."""
    code = getattr(error, "grpc_status_code", None)
    said = f"{action}: {code.name if code else 'no answer'}"
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Throttled(said)
    if is_transient(error):
        return Transient(said)
    # Google's own words, which name resources and permissions. One line of them, without URLs, is enough to act on
    words = str(getattr(error, "message", "")).split("\n")[0].split(" http")[0]
    return Misconfigured(f"{said}: {words[:200]}")
