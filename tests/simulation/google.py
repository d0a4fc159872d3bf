"""Google as the program meets it: grants, the token endpoint, and archive jobs that can be retried.

The answers are written down from the documentation, not read from the program's tables:
https://developers.google.com/data-portability/user-guide/troubleshooting, https://google.aip.dev/193, RFC 6749 (5.2),
https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.simulation import weather
from tests.simulation.grants import Grants
from tests.simulation.record import CallAnswered, CallArrived, CallSent, Meaning, Record
from tests.simulation.timeline import Timeline
from tests.simulation.weather import Weather

Answer = tuple[int, bytes]
_INFO = "type.googleapis.com/google.rpc.ErrorInfo"

_HELD_BACK = (
    (429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
    (403, "PERMISSION_DENIED", "RATE_LIMIT_EXCEEDED"),
    (403, "PERMISSION_DENIED", "RESOURCE_QUOTA_EXCEEDED"),
    (429, "RESOURCE_EXHAUSTED", ""),
    (409, "ABORTED", ""),
)
_OURS = (
    "SERVICE_DISABLED",
    "BILLING_DISABLED",
    "CONSUMER_SUSPENDED",
    "CONSUMER_INVALID",
    "USER_PROJECT_DENIED",
    "LOCATION_ORG_POLICY_VIOLATED",
    "ORG_RESTRICTION_VIOLATION",
    "SECURITY_POLICY_VIOLATED",
    "LOCATION_POLICY_VIOLATED",
    "RESOURCE_PROJECT_INVALID",
    "RESOURCE_USAGE_RESTRICTION_VIOLATED",
)
_OUR_REQUEST = (405, 411, 413, 414, 431)  # a front end's, about the request itself
_NOT_RETRYABLE = (
    (400, "INVALID_ARGUMENT", ""),
    (400, "FAILED_PRECONDITION", ""),
    (400, "OUT_OF_RANGE", ""),
    (409, "ALREADY_EXISTS", ""),
    (409, "ALREADY_EXISTS", "ALREADY_EXISTS_ONE_TIME"),
    (410, "", ""),
    (412, "FAILED_PRECONDITION", ""),
)
_BROKEN = (
    (500, "INTERNAL"),
    (501, "UNIMPLEMENTED"),
    (502, None),
    (503, "UNAVAILABLE"),
    (504, "DEADLINE_EXCEEDED"),
    (499, "CANCELLED"),
    (408, None),
    (200, None),
)
_COOL = ("cools down",)
_NATURES = ("denied", "not found", "not retryable", "adopts", "itself", *_COOL * 3)
_HTML = b"<html><title>Error</title>\xff</html>"


def error(status: int, code: str = "", reason: str = "", *details: dict[str, Any], **metadata: Any) -> Answer:
    """An error in the shape of https://google.aip.dev/193."""
    info = [{"@type": _INFO, "reason": reason, "domain": "googleapis.com", "metadata": metadata}]
    content = {"code": status, "status": code, "message": "words", "details": [*details, *(info if reason else ())]}
    return status, json.dumps({"error": content}).encode()


@dataclass(slots=True)
class Job:
    """A failed archive job, as Google knows it, and what will become of it."""

    name: str
    credential: str
    root: str
    parent: str = ""
    used_before: int = 0  # retries that the event itself tells of
    nature: str = "retryable"  # or one of _NATURES
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


class Google:
    """The token endpoint and the Data Portability API."""

    def __init__(
        self,
        timeline: Timeline,
        record: Record,
        weather_: Weather,
        grants: Grants,
        *,
        epoch: int,
        delivery: Callable[[], str],
        defers: bool,
    ) -> None:
        rng = timeline.rng
        self._timeline = timeline
        self._record = record
        self._weather = weather_
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
        if trouble == weather.BROKEN:
            return self._answer("oauth", rng.choice((408, 429, 500, 502, 503)), rng.choice(("", "internal_failure")))
        ours = "invalid_grant"
        if self._weather.wrong("oauth"):
            ours = rng.choice(
                (
                    "invalid_client",
                    "unauthorized_client",
                    "invalid_scope",
                    "invalid_request",
                    "unsupported_grant_type",
                    "x",
                )
            )
        elif not self._grants.knows_client(form["client_id"][0], form["client_secret"][0]):
            ours = "invalid_client"
        if ours != "invalid_grant":
            return self._answer("oauth", 401 if ours == "invalid_client" else 400, ours)
        assert form["grant_type"] == ["refresh_token"]
        refused, answer = self._grants.refresh(form["refresh_token"][0])
        if refused:
            return self._answer("oauth", 400, refused)
        if trouble == weather.BROKEN_AFTER:
            return rng.choice(((200, b"{}"), (200, _HTML), (503, _HTML)))
        return 200, json.dumps(answer).encode()

    def _answer(self, service: str, status: int, code: str) -> Answer:
        self.seen.add((service, status, code))
        return status, json.dumps({"error": code, "error_description": "words"}).encode() if code else _HTML

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
        self._record.add(CallSent(self._timeline.now, call, delivery, job, bearer, self._grants.expired_for(bearer)))
        return call

    def answered(self, call: str) -> None:
        known = self._calls[call]
        self._record.add(CallAnswered(self._timeline.now, call, known.meaning, known.named, known.reason))

    def unanswered(self, call: str, *, sent: bool) -> None:
        self._record.add(CallAnswered(self._timeline.now, call, "unknown" if sent else "not sent", "", ""))

    def retry(self, call: str, trouble: str) -> Answer:
        """The call arrives, and may make a new job."""
        known = self._calls[call]
        made: list[str] = []
        meaning, (status, body) = self._retry(known, trouble, made)
        self._record.add(CallArrived(self._timeline.now, call, known.job, "".join(made)))
        if trouble == weather.BROKEN_AFTER and meaning == "made":
            meaning, (status, body) = self._break()
        known.meaning = meaning
        return status, body

    def _break(self) -> tuple[Meaning, Answer]:
        status, code = self._timeline.rng.choice(_BROKEN)
        self.seen.add(("portability", status, code or ""))
        return "unknown", (error(status, code) if code else (status, _HTML))

    def _retry(self, call: _Call, trouble: str, made: list[str]) -> tuple[Meaning, Answer]:
        rng, now = self._timeline.rng, self._timeline.now
        if trouble == weather.BROKEN:
            return self._break()
        if trouble == weather.UNAUTHORIZED or not self._grants.accepts(call.bearer):
            return "unauthorized", self._refuse(401, "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED")
        if self._weather.wrong("portability"):
            status = rng.choice(_OUR_REQUEST) if rng.random() < 0.3 else 403
            if status != 403:
                return "ours", self._refuse(status, "", "")
            return "ours", self._refuse(403, "PERMISSION_DENIED", rng.choice(_OURS))
        if trouble == weather.HELD_BACK:
            return "held back", self._refuse(*rng.choice(_HELD_BACK))
        job = self.jobs.get(call.job)
        if job is None or job.nature == "not found":
            call.reason = "JOB_NOT_FOUND"
            return "refused", self._refuse(404, "NOT_FOUND", "")
        if job.nature == "denied":
            call.reason = "ACCESS_DENIED"
            debug = {"@type": "type.googleapis.com/google.rpc.DebugInfo", "detail": "not authorized by the OAuth token"}
            return "refused", self._refuse(403, "PERMISSION_DENIED", "", debug)
        if job.nature == "cools down":
            job.cools_until = job.cools_until or now + self._cooldown * rng.random()
            if now < job.cools_until:
                return "cooldown", self._cool_down(job.cools_until)
        named = self._running_instead(job)
        if named:
            call.named = named
            call.meaning = "adopted"
            if named == job.name:
                call.reason = "JOB_NOT_RETRYABLE"
            reason = rng.choice(("", "ALREADY_EXISTS_ONE_TIME", "ALREADY_EXISTS_TIME_BASED"))
            answer = self._refuse(409, "ALREADY_EXISTS", reason or "X", job_id=named)
            return ("refused" if named == job.name else "adopted"), answer
        if job.nature == "not retryable" or len(job.retries) >= 3 or (job.retries and self._second_time == "refuses"):
            call.reason = "JOB_NOT_RETRYABLE"
            return "refused", self._refuse(*rng.choice(_NOT_RETRYABLE))
        new = self.add_job(job.credential, parent=job)
        job.retries.append(new.name)
        made.append(new.name)
        call.named = new.name
        self.seen.add(("portability", 200, ""))
        return "made", (200, json.dumps({"archiveJobId": new.name}).encode())

    def _refuse(self, status: int, code: str, reason: str, *details: dict[str, Any], **metadata: Any) -> Answer:
        self.seen |= {("portability", status, code), ("portability", status, reason)}
        return error(status, code, reason, *details, **metadata)

    def _running_instead(self, job: Job) -> str:
        """The job that Google names as running already, where this one makes it do so."""
        if job.nature == "itself":
            return job.name
        if job.nature == "adopts" and not job.retries:
            job.retries.append(self.add_job(job.credential, parent=job).name)
            return job.retries[0]
        return job.retries[-1] if job.retries and self._second_time == "adopts" else ""

    def _cool_down(self, until: float) -> Answer:
        """Which of these Google sends is not documented; all have been seen or are in its error model."""
        rng, moment = self._timeline.rng, datetime.fromtimestamp(self._epoch + until, UTC)
        left = until - self._timeline.now
        if left > 700 and rng.random() < 0.2:
            info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{left:.3f}s"}
            return self._refuse(429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED", info)
        said = rng.choice((moment.isoformat(), f"{moment.timestamp():.0f}"))
        status, code = rng.choice(((429, "RESOURCE_EXHAUSTED"), (400, "FAILED_PRECONDITION")))
        reason = rng.choice(("RESOURCE_EXHAUSTED_ONE_TIME", "RESOURCE_EXHAUSTED_TIME_BASED"))
        return self._refuse(status, code, reason, timestamp_after_24hrs=said, previous_job_ids="job-0")

    # --- the world's side ---

    def add_job(self, credential: str, *, parent: Job | None = None) -> Job:
        rng, name = self._timeline.rng, f"job-{len(self.jobs) + 1}"
        nature = rng.choice(self._natures) if rng.random() < self._unlike else "retryable"
        job = Job(name=name, credential=credential, root=parent.root if parent else name, nature=nature)
        if parent:
            job.parent = parent.name
            job.fails = rng.random() < self._fail_again
        self.jobs[name] = job
        return job
