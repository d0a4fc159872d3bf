"""OAuth's token endpoint and the Data Portability API on one HTTP server, scripted and recording.

They check what Google checks: method, empty body, explicit length, a bearer token that is known and alive, the form of
a token request. What is not scripted succeeds: a retry makes a new job with a fresh id.

    POST /token                      https://developers.google.com/identity/protocols/oauth2/web-server#offline
    POST /v1/archiveJobs/{id}:retry  https://developers.google.com/data-portability/reference/rest/v1/archiveJobs/retry
    GET  /v1/archiveJobs/{id}/portabilityArchiveState                         …/archiveJobs/getPortabilityArchiveState
"""

import asyncio
import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from aiohttp import web

from local import google_errors
from local.authority import Authority
from local.grants import EXPIRES_IN, MARK, SCOPE, Grant, Grants, oauth_error
from local.http_server import HttpServer, HttpService, carry_out
from local.scripted import Answer, Scripts, Step

__all__ = ["MARK", "SCOPE", "GoogleApis", "Request", "SecretTold"]


class SecretTold(AssertionError):
    """A secret came out where it has no business: the text says where, and not what."""


# Google's front end, where a request does not get as far as the API
_NOT_FOUND = Answer(404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>")
_LENGTH_REQUIRED = Answer(411, b"<!DOCTYPE html><title>Error 411 (Length Required)!!1</title>")
_BODY_NOT_EMPTY = google_errors.error(
    400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "": Cannot find field.'
)
_TOKEN_FIELDS = ("refresh_token", "client_id", "client_secret")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in. `kind` is token, retry, state or other; `key` the refresh token or the job's id."""

    kind: str
    key: str
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    at: float  # time.monotonic()


class GoogleApis(HttpService):
    """Both services; they serve at `url` while entered.

    `authority` vouches for them; without one they speak in the clear. Each call takes the given latency.
    """

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        token_latency_seconds: float = 0.0,
        retry_latency_seconds: float = 0.0,
    ) -> None:
        self.client_id = "stand-in.apps.googleusercontent.com"
        self.client_secret = f"{MARK}-client-secret"
        self.token_uri = ""  # what the client file names; "": where they serve
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()  # by kind
        self.new_jobs: dict[str, str] = {}  # every job made: its id → the job it retries
        self.states = defaultdict[str, str](lambda: "IN_PROGRESS")  # of jobs, by id
        self._server = HttpServer(self._handle, authority)
        self._latency_seconds = {"token": token_latency_seconds, "retry": retry_latency_seconds}
        self.grants = Grants()
        self._scripts: defaultdict[str, Scripts[Step]] = defaultdict(Scripts)

    def client_file(self) -> bytes:
        """The OAuth client as Google's console downloads it."""
        client = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "token_uri": self.token_uri or f"{self.url}/token",
        }
        return json.dumps({"web": {**client, "project_id": "stand-in", "redirect_uris": []}}).encode()

    def consent(self, refresh_token: str, *, scope: str = SCOPE, expires_in: int = EXPIRES_IN) -> None:
        """From now on the token endpoint accepts this refresh token."""
        self.grants.consent(refresh_token, scope, expires_in)

    def revoke(self, refresh_token: str) -> None:
        """The user takes the consent back: neither this refresh token nor its access tokens work any more."""
        self.grants.revoke(refresh_token)

    def script_token(self, refresh_token: str, steps: Iterable[Step]) -> None:
        """What the next refreshes with this token meet (ANY: those with no script of their own)."""
        self._scripts["token"].set(refresh_token, steps)

    def script_retry(self, job_id: str, steps: Iterable[Step]) -> None:
        """What the next well-formed retries of this job meet (ANY: those with no script of their own)."""
        self._scripts["retry"].set(job_id, steps)

    def script_state(self, job_id: str, steps: Iterable[Step]) -> None:
        """What the next looks at this job meet (ANY: those with no script of their own)."""
        self._scripts["state"].set(job_id, steps)

    def retries(self, job_id: str | None = None) -> list[Request]:
        """The calls to archiveJobs.retry so far, of one job or of all."""
        return self._recorded("retry", job_id)

    def refreshes(self, refresh_token: str | None = None) -> list[Request]:
        """The calls to the token endpoint so far, with one refresh token or with any."""
        return self._recorded("token", refresh_token)

    def looks(self, job_id: str | None = None) -> list[Request]:
        """The questions for a job's state so far, of one job or of all."""
        return self._recorded("state", job_id)

    def behind(self, request: Request) -> str:
        """The refresh token that this call's access token was made of."""
        return self.grants.behind(request.headers.get("Authorization", ""))

    def _recorded(self, kind: str, key: str | None) -> list[Request]:
        return [request for request in self.requests if request.kind == kind and key in (None, request.key)]

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        request = await self._record(raw)
        if latency := self._latency_seconds.get(request.kind):
            await asyncio.sleep(latency)
        step = self._refusal(request) or self._scripted(request) or self._success(request)
        return await carry_out(step, raw)

    async def _record(self, raw: web.BaseRequest) -> Request:
        body = await raw.read()
        kind, key = _asked(raw.path)
        if kind == "token":
            key = _form(body).get("refresh_token", "")
        request = Request(kind, key, raw.method, raw.path, dict(raw.headers), body, time.monotonic())
        self.counts[kind] += 1
        self.requests.append(request)
        return request

    def _scripted(self, request: Request) -> Step | None:
        step = self._scripts[request.kind].next(request.key)
        if request.kind == "token" and isinstance(step, Answer) and isinstance(step.body, dict):
            self.grants.learn(str(step.body.get("access_token")), Grant())  # what a script gives out is good
        return step

    def _refusal(self, request: Request) -> Answer | None:
        """What Google says no to before it looks at the job or the grant."""
        if request.kind == "token":
            return self._token_refusal(request)
        method = {"retry": "POST", "state": "GET"}.get(request.kind)
        if request.method != method or not request.key or "/" in request.key:
            return _NOT_FOUND
        if request.kind == "retry" and "Content-Length" not in request.headers:
            return _LENGTH_REQUIRED
        refusal = self.grants.refusal(request.headers.get("Authorization", ""))
        return refusal or (_BODY_NOT_EMPTY if request.body else None)

    def _token_refusal(self, request: Request) -> Answer | None:
        form = _form(request.body)
        missing = next((name for name in _TOKEN_FIELDS if not form.get(name)), None)
        if request.method != "POST":
            return _NOT_FOUND
        if not request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            return oauth_error(400, "invalid_request", "The request is not a form.")
        if form.get("grant_type") != "refresh_token":
            return oauth_error(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        if missing:
            return oauth_error(400, "invalid_request", f"Missing required parameter: {missing}")
        if (form["client_id"], form["client_secret"]) != (self.client_id, self.client_secret):
            return oauth_error(401, "invalid_client", "The provided client secret is invalid.")
        if "scope" in form:  # would need every named scope to be granted, so the program must not send it
            return oauth_error(400, "invalid_scope", "Some requested scopes were not granted.")
        return None

    def _success(self, request: Request) -> Answer:
        if request.kind == "token":
            return self.grants.refreshed(request.key)
        if request.kind == "state":
            name = f"archiveJobs/{request.key}/portabilityArchiveState"
            return Answer(200, {"name": name, "state": self.states[request.key]})
        new_job_id = str(uuid.uuid4())
        self.new_jobs[new_job_id] = request.key
        return Answer(200, {"archiveJobId": new_job_id})


def _asked(path: str) -> tuple[str, str]:
    """The kind of a request, and its job."""
    if path == "/token":
        return "token", ""
    if path.startswith("/v1/archiveJobs/"):
        for kind, ending in (("retry", ":retry"), ("state", "/portabilityArchiveState")):
            if path.endswith(ending):
                return kind, path.removeprefix("/v1/archiveJobs/").removesuffix(ending)
    return "other", ""


def _form(body: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body.decode(errors="replace"), keep_blank_values=True).items()}
