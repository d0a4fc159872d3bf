"""What Google's Data Portability API answers when it does not retry, in the shapes it documents.

https://google.aip.dev/193 for the body and its details; reasons and metadata from
https://developers.google.com/data-portability/user-guide/troubleshooting and .../methods. The order of the details is
not promised, so it varies here.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from local.scripted import Answer

_TYPE = "type.googleapis.com/google.rpc."


def error(code: int, status: str, message: str, *details: dict[str, Any], **headers: str) -> Answer:
    """An error body; `details` as the functions below make them."""
    content: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        content["details"] = list(details)
    return Answer(code, {"error": content}, headers)


def error_info(reason: str, domain: str = "dataportability.googleapis.com", **metadata: str) -> dict[str, Any]:
    """google.rpc.ErrorInfo: the reason a program may act on."""
    return {"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}


def debug_info(detail: str) -> dict[str, Any]:
    """google.rpc.DebugInfo: text for people."""
    return {"@type": f"{_TYPE}DebugInfo", "detail": detail}


def retry_info(seconds: float) -> dict[str, Any]:
    """google.rpc.RetryInfo: how long to stay away."""
    return {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{seconds:g}s"}


def quota_failure(description: str) -> dict[str, Any]:
    """google.rpc.QuotaFailure: which quota it was."""
    return {
        "@type": f"{_TYPE}QuotaFailure",
        "violations": [{"description": description}],
    }


def bad_request(field: str) -> dict[str, Any]:
    """google.rpc.BadRequest: which field it was."""
    return {"@type": f"{_TYPE}BadRequest", "fieldViolations": [{"field": field, "description": "invalid"}]}


def precondition_failure(kind: str) -> dict[str, Any]:
    """google.rpc.PreconditionFailure: what has to be done first, as in accepting terms of service."""
    return {"@type": f"{_TYPE}PreconditionFailure", "violations": [{"type": kind, "subject": "example.com"}]}


def help_links() -> dict[str, Any]:
    """google.rpc.Help: where a person may go on."""
    return {
        "@type": f"{_TYPE}Help",
        "links": [{"description": "Google developers console", "url": "https://x.example"}],
    }


def already_exists(job_id: str) -> Answer:
    """409: the same export runs already, as this job."""
    return error(
        409,
        "ALREADY_EXISTS",
        "Request failed because an identical job already exists.",
        debug_info("An archive job with the same resources is in progress."),
        error_info("ALREADY_EXISTS_ONE_TIME", job_id=job_id),
    )


def cooldown(until: datetime) -> Answer:
    """429: the resources were exported already, and may be again at `until`."""
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        "Requested resources have already been exported.",
        error_info(
            "RESOURCE_EXHAUSTED_TIME_BASED",
            previous_job_ids="job-before-1,job-before-2",
            timestamp_after_24hrs=until.isoformat().replace("+00:00", "Z"),
        ),
    )


def cools_down(seconds: float) -> Iterator[Answer]:
    """A script: the cooldown counts from Google's answer, however long the event was on its way."""
    yield cooldown(datetime.now(UTC) + timedelta(seconds=seconds))


def rate_limited(seconds: float = 30) -> Answer:
    """429: the project's quota of requests is used up."""
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute'.",
        retry_info(seconds),
        error_info("RATE_LIMIT_EXCEEDED", "googleapis.com", quota_limit="RequestsPerMinutePerProject"),
        quota_failure("Requests per minute"),
    )


def access_denied() -> Answer:
    """403: this user's grant does not cover the job. No ErrorInfo comes with it."""
    return error(
        403,
        "PERMISSION_DENIED",
        "The requested resources are not authorized by the OAuth token.",
        debug_info("[ORIGINAL ERROR] generic::permission_denied"),
    )


def project_refused(reason: str = "SERVICE_DISABLED") -> Answer:
    """403: our project is at fault: SERVICE_DISABLED, BILLING_DISABLED, CONSUMER_SUSPENDED or CONSUMER_INVALID."""
    return error(
        403,
        "PERMISSION_DENIED",
        "Data Portability API has not been used in this project before or it is disabled.",
        {"@type": f"{_TYPE}Help", "links": []},
        error_info(reason, "googleapis.com", service="dataportability.googleapis.com", consumer="projects/123456789"),
    )


def unregistered_caller() -> Answer:
    """403: the request came with no identity that this API accepts."""
    return error(
        403,
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other"
        " form of API consumer identity to call this API.",
    )


def not_found() -> Answer:
    """404: no such job."""
    return error(404, "NOT_FOUND", "Requested entity was not found.")


def not_failed() -> Answer:
    """400: only a job that failed can be retried."""
    return error(400, "FAILED_PRECONDITION", "Precondition check failed.")


def unauthenticated(reason: str = "ACCESS_TOKEN_EXPIRED") -> Answer:
    """401: the access token is unknown or expired; nothing was carried out."""
    return error(
        401,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid"
        " authentication credential.",
        error_info(reason, "googleapis.com", service="dataportability.googleapis.com"),
        **{"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'},
    )


def unavailable() -> Answer:
    """503: carried out or not, nobody knows."""
    return error(503, "UNAVAILABLE", "The service is currently unavailable.")


def bad_gateway() -> Answer:
    """502 from a proxy on the way: HTML, not JSON."""
    return Answer(502, b"<!DOCTYPE html><title>Error 502 (Server Error)!!1</title>")
