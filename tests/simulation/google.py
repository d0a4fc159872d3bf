"""Google as the program meets it: grants, the token endpoint, and archive jobs that can be retried.

The answers are written down from the documentation, not read from the program's tables:
https://developers.google.com/data-portability/user-guide/troubleshooting, https://google.aip.dev/193, RFC 6749 (5.2),
https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from tests.simulation import faults
from tests.simulation.faults import Faults
from tests.simulation.grants import Grants
from tests.simulation.record import CallAnswered, CallArrived, CallSent, Meaning, Record
from tests.simulation.timeline import Timeline

Answer = tuple[int, bytes]
_TYPE = "type.googleapis.com/google.rpc."
_API = "dataportability.googleapis.com"

HELD_BACK = (
    (429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
    (403, "PERMISSION_DENIED", "RATE_LIMIT_EXCEEDED"),
    (403, "PERMISSION_DENIED", "RESOURCE_QUOTA_EXCEEDED"),
    (429, "RESOURCE_EXHAUSTED", ""),
    (409, "ABORTED", ""),
)
# about our project or our request: (status, code, reason of an ErrorInfo of Google's front end)
_OURS = (
    (403, "PERMISSION_DENIED", "SERVICE_DISABLED"),
    (403, "PERMISSION_DENIED", "BILLING_DISABLED"),
    (403, "PERMISSION_DENIED", "CONSUMER_SUSPENDED"),
    (403, "PERMISSION_DENIED", "CONSUMER_INVALID"),
    (403, "PERMISSION_DENIED", "GCP_SUSPENDED"),
    (403, "PERMISSION_DENIED", "SERVICE_NOT_VISIBLE"),
    (403, "PERMISSION_DENIED", "USER_PROJECT_DENIED"),
    (403, "PERMISSION_DENIED", "SECURITY_POLICY_VIOLATED"),
    (404, "NOT_FOUND", "SERVICE_NOT_FOUND"),
    (400, "INVALID_ARGUMENT", "API_KEY_INVALID"),
    (400, "FAILED_PRECONDITION", "LOCATION_POLICY_VIOLATED"),
    (409, "ALREADY_EXISTS", "NEVER_HEARD_OF"),
    (405, "", ""),
    (410, "", ""),
    (411, "", ""),
    (412, "FAILED_PRECONDITION", ""),
)
_OUR_DETAILS = ("PreconditionFailure", "QuotaFailure")
_DENIED = (
    ("", "", "DebugInfo"),
    ("", "", ""),
    ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", ""),
    ("SOME_REASON", _API, "DebugInfo"),
)
_NOT_RETRYABLE = (
    (400, "INVALID_ARGUMENT"),
    (400, "FAILED_PRECONDITION"),
    (400, "OUT_OF_RANGE"),
    (409, "ALREADY_EXISTS"),
)
_BROKEN = (
    (500, "INTERNAL"),
    (501, "UNIMPLEMENTED"),
    (503, "UNAVAILABLE"),
    (504, "DEADLINE_EXCEEDED"),
    (499, "CANCELLED"),
)
_COOL = ("cools down",)
_NATURES = ("denied", "not found", "not retryable", "adopts", "itself", "one-time", *_COOL * 3)

# What somebody else answers in Google's place: none of it is Google's own by its form.
_FOREIGN_BODIES = (
    b"<html><title>Error</title>\xff</html>",
    b"",
    b"{}",
    b"[]",
    b"null",
    b'{"message": "Forbidden"}',
    b'{"error": {"code": 418, "status": "PERMISSION_DENIED", "message": "The caller does not have permission"}}',
    b'{"error": {"status": "NOT_FOUND", "message": "no code"}}',
)
_FOREIGN_STATUSES = (200, 204, 302, 307, 400, 401, 403, 404, 407, 408, 409, 429, 500, 502, 503, 504)


def error(status: int, code: str = "", *details: dict[str, Any], message: str = "words") -> dict[str, Any]:
    """An error in the shape of https://google.aip.dev/193."""
    return {"error": {"code": status, "status": code, "message": message, "details": list(details)}}


def info(reason: str, domain: str, **metadata: Any) -> tuple[dict[str, Any], ...]:
    """The ErrorInfo; none without a reason."""
    return ({"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata},) * bool(reason)


def retry_info(seconds: float) -> dict[str, Any]:
    """Google wants to wait for so long."""
    return {"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{seconds:.3f}s"}


@dataclass(slots=True)
class Job:
    """A failed archive job, as Google knows it, and what will become of it."""

    name: str
    credential: str
    root: str
    parent: str = ""
    used_before: int = 0  # retries that the event itself tells of
    nature: str = "retryable"  # or one of _NATURES
    consent: int = 1  # which of the user's, from 1: what it denies, a later one may give
    fails: bool = True
    cools_until: float = 0.0  # virtual seconds; 0 before the first call
    retries: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    job: str
    bearer: str
    meaning: Meaning = "unknown"
    named: str = ""
    reason: str = ""
    until: float = 0.0


class Google:
    """The token endpoint and the Data Portability API."""

    def __init__(
        self,
        timeline: Timeline,
        record: Record,
        faults_: Faults,
        grants: Grants,
        *,
        epoch: int,
        delivery: Callable[[], str],
        defers: bool,
    ) -> None:
        rng = timeline.rng
        self._timeline = timeline
        self._record = record
        self._faults = faults_
        self._grants = grants
        self._epoch = epoch
        self._delivery = delivery
        self._second_time = rng.choice(("makes another", "adopts", "refuses"))  # which of them Google does is unknown
        self._fail_again = rng.choice((0.0, 0.5, 1.0))
        self._unlike = 0.9 if defers else rng.choice((0.0, 0.3, 0.5))  # share of jobs that are not simply retryable
        self._natures = _COOL if defers else _NATURES
        self._cooldown = rng.choice((30.0, 300.0) if defers else (20.0, 300.0, 3600.0, 86_000.0))  # seconds, at most
        self._calls: dict[str, _Call] = {}
        self.jobs: dict[str, Job] = {}
        self.seen: set[tuple[str, int, str]] = set()  # (service, status, code or reason) that was answered

    # --- the token endpoint ---

    def token(self, form: dict[str, list[str]], trouble: str) -> Answer:
        """The answer to a refresh, https://datatracker.ietf.org/doc/html/rfc6749#section-5."""
        rng = self._timeline.rng
        if trouble == faults.FOREIGN:
            status, body = self._foreign("oauth")
            return status, rng.choice((body, b'{"error": {"code": 400, "status": "INVALID_ARGUMENT"}}'))
        if trouble == faults.BROKEN:
            return self._token_error(
                *rng.choice(
                    (
                        (408, ""),
                        (429, "rate_limit_exceeded"),
                        (500, "internal_failure"),
                        (400, "internal_failure"),
                        (400, "server_error"),
                        (400, "temporarily_unavailable"),
                        (503, ""),
                    )
                )
            )
        ours = ""
        if self._faults.is_wrong("oauth"):
            ours = rng.choice(
                ("deleted_client", "org_internal", "invalid_scope", "invalid_request", "unsupported_grant_type", "x")
            )
        elif not self._grants.knows_client(form["client_id"][0], form["client_secret"][0]):
            ours = "invalid_client"
        if ours:
            return self._token_error(401 if ours == "invalid_client" else 400, ours)
        assert form["grant_type"] == ["refresh_token"]
        refused, answer = self._grants.refresh(form["refresh_token"][0])
        if refused:
            return self._token_error(401 if refused == "unauthorized_client" else 400, refused)
        if trouble == faults.BROKEN_AFTER:
            return self._foreign("oauth") if rng.random() < 0.5 else self._token_error(503, "")
        return 200, msgspec.json.encode(answer)

    def _token_error(self, status: int, code: str) -> Answer:
        self.seen.add(("oauth", status, code))
        if not code:
            return status, b"<html>busy</html>"
        if code == "internal_failure":
            code, said = "invalid_request", code
        else:
            said = "words"
        content = {"error": code, "error_description": said}
        if code == "invalid_grant" and self._timeline.rng.random() < 0.3:
            content["error_subtype"] = "invalid_rapt"
        return status, msgspec.json.encode(content)

    def _foreign(self, service: str) -> Answer:
        """Somebody else's answer: for whoever runs the function to look into."""
        rng = self._timeline.rng
        self._faults.was_wrong(service)
        status = rng.choice(_FOREIGN_STATUSES)
        self.seen.add((service, status, "foreign"))
        return status, rng.choice(_FOREIGN_BODIES)

    # --- archiveJobs.retry ---

    def sends(self, url: str, headers: dict[str, str]) -> str:
        """An instance is about to call. Returns the call's name."""
        _, _, path = url.partition("/v1/archiveJobs/")
        job, _, method = path.partition(":")
        assert method == "retry"
        bearer = headers["Authorization"].removeprefix("Bearer ")
        delivery = self._delivery()
        call = f"{delivery}/{len(self._calls) + 1}"
        self._calls[call] = _Call(job, bearer)
        said = self._grants.credential_of(bearer), self._grants.expired_for(bearer)
        self._record.add(CallSent(self._timeline.now, call, delivery, job, *said))
        return call

    def answered(self, call: str) -> None:
        known = self._calls[call]
        said = known.named, known.reason, known.until
        self._record.add(CallAnswered(self._timeline.now, call, known.meaning, *said))

    def unanswered(self, call: str, *, sent: bool) -> None:
        self._record.add(CallAnswered(self._timeline.now, call, "unknown" if sent else "not sent", "", ""))

    def retry(self, call: str, trouble: str) -> Answer:
        """The call arrives, and may make a new job."""
        known = self._calls[call]
        made: list[str] = []
        if trouble == faults.FOREIGN:
            status, body = self._foreign("portability")
            in_doubt = status < 300 or status >= 500 or status == 408
            known.meaning = "unknown" if in_doubt else "held back" if status == 429 else "ours"
        else:
            known.meaning, status, content = self._retry(known, trouble, made)
            if trouble == faults.BROKEN_AFTER and known.meaning == "made":
                known.meaning, status, content = self._break()
            if status >= 400 and self._timeline.rng.random() < 0.2:
                content = [content]
            body = msgspec.json.encode(content)
        self._record.add(CallArrived(self._timeline.now, call, known.job, "".join(made)))
        return status, body

    def _break(self) -> tuple[Meaning, int, Any]:
        status, code = self._timeline.rng.choice(_BROKEN)
        self.seen.add(("portability", status, code))
        return "unknown", status, error(status, code)

    def _retry(self, call: _Call, trouble: str, made: list[str]) -> tuple[Meaning, int, Any]:
        rng, now = self._timeline.rng, self._timeline.now
        if trouble == faults.BROKEN:
            return self._break()
        if self._grants.is_account_closed(call.bearer):
            call.reason = "ACCOUNT_STATE"
            return self._say("unauthorized", 401, "UNAUTHENTICATED", *info("ACCOUNT_STATE_INVALID", "googleapis.com"))
        if trouble == faults.UNAUTHORIZED or not self._grants.accepts(call.bearer):
            reason = rng.choice(("ACCESS_TOKEN_EXPIRED", "CREDENTIALS_MISSING", ""))
            return self._say("unauthorized", 401, "UNAUTHENTICATED", *info(reason, "googleapis.com"))
        if self._faults.is_wrong("portability"):
            return self._our_fault()
        if trouble == faults.HELD_BACK:
            status, code, reason = rng.choice(HELD_BACK)
            return self._say("held back", status, code, *info(reason, "googleapis.com"))
        job = self.jobs.get(call.job)
        if job is None or job.nature == "not found":
            call.reason = "JOB_NOT_FOUND"
            return self._say("refused", 404, "NOT_FOUND", *self._of_the_api())
        credential = self._grants.credential_of(call.bearer)
        if credential != job.credential or (job.nature == "denied" and self._grants.serial(credential) == job.consent):
            call.reason = "ACCESS_DENIED"
            reason, domain, kind = rng.choice(_DENIED)
            details = ({"@type": _TYPE + kind, "detail": "not authorized by the OAuth token"},) * bool(kind)
            return self._say("refused", 403, "PERMISSION_DENIED", *details, *info(reason, domain))
        if job.nature == "one-time" and self._grants.serial(credential) == job.consent:
            call.reason = "ONE_TIME_GRANT_USED"
            metadata = rng.choice(({}, {"timestamp_after_24hrs": "2026-11-25T00:00:00Z"}))
            one_time = info("RESOURCE_EXHAUSTED_ONE_TIME", _API, **metadata)
            return self._say(
                "refused", *rng.choice(((429, "RESOURCE_EXHAUSTED"), (400, "FAILED_PRECONDITION"))), *one_time
            )
        if job.nature == "cools down":
            job.cools_until = job.cools_until or now + self._cooldown * rng.random()
            if now < job.cools_until:
                return self._cool_down(call, job.cools_until)
        named = self._running_instead(job)
        if named:
            call.named = named
            call.reason = "JOB_NOT_RETRYABLE" if named == job.name else ""
            reason = rng.choice(("ALREADY_EXISTS_ONE_TIME", "ALREADY_EXISTS_TIME_BASED", "X"))
            if named == job.name and rng.random() < 0.3:
                return "refused", 200, {"archiveJobId": named}
            meaning: Meaning = "refused" if named == job.name else "adopted"
            return self._say(meaning, 409, "ALREADY_EXISTS", *info(reason, _API, job_id=named))
        if job.nature == "not retryable" or len(job.retries) >= 3 or (job.retries and self._second_time == "refuses"):
            call.reason = "JOB_NOT_RETRYABLE"
            return self._say("refused", *rng.choice(_NOT_RETRYABLE), *self._of_the_api())
        new = self.add_job(job.credential, parent=job)
        job.retries.append(new.name)
        made.append(new.name)
        call.named = new.name
        self.seen.add(("portability", 200, ""))
        return "made", 200, {"archiveJobId": rng.choice(("", "archiveJobs/")) + new.name}

    def _of_the_api(self) -> tuple[dict[str, Any], ...]:
        return info(self._timeline.rng.choice(("", "", "SOME_REASON")), _API)

    def _our_fault(self) -> tuple[Meaning, int, Any]:
        rng = self._timeline.rng
        roll = rng.random()
        if roll < 0.2:
            return self._say("ours", 403, "PERMISSION_DENIED", {"@type": _TYPE + rng.choice(_OUR_DETAILS)})
        if roll < 0.3:
            said = "Method doesn't allow unregistered callers (callers without established identity)."
            return self._say("ours", 403, "PERMISSION_DENIED", message=said)
        status, code, reason = rng.choice(_OURS)
        return self._say("ours", status, code, *info(reason, "googleapis.com"))

    def _say(
        self, meaning: Meaning, status: int, code: str, *details: dict[str, Any], message: str = "words"
    ) -> tuple[Meaning, int, Any]:
        reasons = [detail.get("reason", detail["@type"].rpartition(".")[2]) for detail in details]
        self.seen |= {("portability", status, said) for said in (code, *reasons)}
        return meaning, status, error(status, code, *details, message=message)

    def _running_instead(self, job: Job) -> str:
        """The job that Google names as running already, where this one makes it do so."""
        if job.nature == "itself":
            return job.name
        if job.nature == "adopts" and not job.retries:
            job.retries.append(self.add_job(job.credential, parent=job).name)
            return job.retries[0]
        return job.retries[-1] if job.retries and self._second_time == "adopts" else ""

    def _cool_down(self, call: _Call, until: float) -> tuple[Meaning, int, Any]:
        """Which of these Google sends is not documented; all have been seen or are in its error model."""
        rng, moment = self._timeline.rng, datetime.fromtimestamp(self._epoch + until, UTC).isoformat()
        left = until - self._timeline.now
        call.until, wait = until, retry_info(left)
        if left > 700 and rng.random() < 0.2:
            return self._say(
                "cooldown", 429, "RESOURCE_EXHAUSTED", *info("RATE_LIMIT_EXCEEDED", "googleapis.com"), wait
            )
        answered = rng.choice(((429, "RESOURCE_EXHAUSTED"), (400, "FAILED_PRECONDITION")))
        reason, message = "RESOURCE_EXHAUSTED_TIME_BASED", "words"
        details: tuple[dict[str, Any], ...] = ()
        metadata: dict[str, Any] = {"previous_job_ids": "job-0"}
        match rng.choice((*["key"] * 6, "another reason", "another key", "message", "RetryInfo", "nothing", "past")):
            case "nothing":
                call.until = self._timeline.now + 86_400.0
            case "key":
                metadata["timestamp_after_24hrs"] = moment
            case "another reason":
                reason, metadata["timestamp_after_24hrs"] = "X", moment
            case "another key":
                metadata["next_export_time"] = moment
            case "message":
                message = f"Exported already. Try again after {moment}."
            case "RetryInfo":
                metadata, details = {}, (wait,)
            case "past":
                metadata["timestamp_after_24hrs"] = "2026-11-01T00:00:00Z"
                return self._say("held back", *answered, *info(reason, _API, **metadata))
        return self._say("cooldown", *answered, *info(reason, _API, **metadata), *details, message=message)

    # --- the world's side ---

    def add_job(self, credential: str, *, parent: Job | None = None) -> Job:
        rng, name = self._timeline.rng, f"job-{len(self.jobs) + 1}"
        nature = rng.choice(self._natures) if rng.random() < self._unlike else "retryable"
        if nature != "retryable" and not self._timeline.happens():
            nature = "retryable"
        consent = self._grants.serial(credential)
        job = Job(
            name=name, credential=credential, root=parent.root if parent else name, nature=nature, consent=consent
        )
        if parent:
            job.parent = parent.name
            job.fails = rng.random() < self._fail_again
        self.jobs[name] = job
        return job
