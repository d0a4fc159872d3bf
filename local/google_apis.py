"""OAuth's token endpoint and the Data Portability API on one HTTP server, scripted and recording.

They check what Google checks: method, empty body, explicit length, a bearer token that is known and alive, the form of
a token request. What is not scripted succeeds: a retry makes a new job with a fresh id.

    POST /token                      https://developers.google.com/identity/protocols/oauth2/web-server#offline
    POST /v1/archiveJobs/{id}:retry  https://developers.google.com/data-portability/reference/rest/v1/archiveJobs/retry
"""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

from aiohttp import web

from local import google_errors
from local.authority import Authority
from local.http_server import HttpServer, carry_out
from local.scripted import Answer, Scripts, Step

MARK = "made-up-secret"  # in every secret value on this stage, so that a leak can be searched for


class SecretTold(AssertionError):
    """A secret came out where it has no business: the text says where, and not what."""


SCOPE = "https://www.googleapis.com/auth/dataportability.myactivity.search"
EXPIRES_IN = 3599  # seconds, as Google usually says

# Google's front end, where a request does not get as far as the API
_NOT_FOUND = Answer(404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>")
_LENGTH_REQUIRED = Answer(411, b"<!DOCTYPE html><title>Error 411 (Length Required)!!1</title>")
_BODY_NOT_EMPTY = google_errors.error(
    400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "": Cannot find field.'
)
_TOKEN_FIELDS = ("refresh_token", "client_id", "client_secret")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in. `kind` is token, retry or other; `key` the refresh token or the job's id."""

    kind: str
    key: str
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    at: float  # time.monotonic()
    connection: int  # the caller's port: of two that are open, each has its own


@dataclass(slots=True)
class Grant:
    """A user's consent, as a refresh token."""

    scope: str = SCOPE
    expires_in: int = EXPIRES_IN  # seconds that its access tokens live
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class _AccessToken:
    grant: Grant
    ends_at: float  # time.monotonic()


class GoogleApis(AbstractAsyncContextManager["GoogleApis"]):
    """Both services; they serve at `url` while entered.

    `authority` vouches for them; without one they speak in the clear. Each call takes the given latency. `open_to_all`
    accepts any refresh token that bears MARK, for load of many users; `keep_requests=False` keeps the counts alone.
    """

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        token_latency_seconds: float = 0.0,
        retry_latency_seconds: float = 0.0,
        open_to_all: bool = False,
        keep_requests: bool = True,
    ) -> None:
        self.client_id = "stand-in.apps.googleusercontent.com"
        self.client_secret = f"{MARK}-client-secret"
        self.token_uri = ""  # what the client file names; "": where they serve
        self.requests: list[Request] = []
        self.counts: Counter[str] = Counter()  # by kind
        self.new_jobs: dict[str, str] = {}  # every job made: its id → the job it retries
        self._server = HttpServer(self._handle, authority)
        self._latency_seconds = {"token": token_latency_seconds, "retry": retry_latency_seconds, "other": 0.0}
        self._open_to_all = open_to_all
        self._keep_requests = keep_requests
        self._grants: dict[str, Grant] = {}
        self._access_tokens: dict[str, _AccessToken] = {}
        self._scripts: dict[str, Scripts[Step]] = {"token": Scripts(), "retry": Scripts(), "other": Scripts()}

    async def __aenter__(self) -> Self:
        """Serve on a free port of the loopback interface."""
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._server.close()

    @property
    def port(self) -> int:
        """Where they serve, on the loopback interface."""
        return self._server.port

    @property
    def url(self) -> str:
        """The same with its scheme."""
        return self._server.url

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
        self._grants[refresh_token] = Grant(scope, expires_in)

    def revoke(self, refresh_token: str) -> None:
        """The user takes the consent back: neither this refresh token nor its access tokens work any more."""
        self._grants.setdefault(refresh_token, Grant()).revoked = True

    def script_token(self, refresh_token: str, steps: Iterable[Step]) -> None:
        """What the next refreshes with this token meet (ANY: those with no script of their own)."""
        self._scripts["token"].set(refresh_token, steps)

    def script_retry(self, job_id: str, steps: Iterable[Step]) -> None:
        """What the next well-formed retries of this job meet (ANY: those with no script of their own)."""
        self._scripts["retry"].set(job_id, steps)

    def retries(self, job_id: str | None = None) -> list[Request]:
        """The calls to archiveJobs.retry so far, of one job or of all."""
        return self._recorded("retry", job_id)

    def refreshes(self, refresh_token: str | None = None) -> list[Request]:
        """The calls to the token endpoint so far, with one refresh token or with any."""
        return self._recorded("token", refresh_token)

    def _recorded(self, kind: str, key: str | None) -> list[Request]:
        return [request for request in self.requests if request.kind == kind and key in (None, request.key)]

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        request = await self._record(raw)
        if latency := self._latency_seconds[request.kind]:
            await asyncio.sleep(latency)
        step = self._refusal(request) or self._scripts[request.kind].next(request.key) or self._success(request)
        return await carry_out(step, raw)

    async def _record(self, raw: web.BaseRequest) -> Request:
        body = await raw.read()
        kind, key = "other", ""
        if raw.path == "/token":
            kind, key = "token", _form(body).get("refresh_token", "")
        elif raw.path.startswith("/v1/archiveJobs/") and raw.path.endswith(":retry"):
            kind, key = "retry", raw.path.removeprefix("/v1/archiveJobs/").removesuffix(":retry")
        # a caller that was killed meanwhile has no connection any more, or one with nobody at its other end
        caller = raw.transport and raw.transport.get_extra_info("peername")
        connection = caller[1] if caller else 0
        request = Request(kind, key, raw.method, raw.path, dict(raw.headers), body, time.monotonic(), connection)
        self.counts[kind] += 1
        if self._keep_requests:
            self.requests.append(request)
        return request

    def _refusal(self, request: Request) -> Answer | None:
        """What Google says no to before it looks at the job or the grant."""
        if request.kind == "token":
            return self._token_refusal(request)
        if request.kind != "retry" or request.method != "POST" or not request.key or "/" in request.key:
            return _NOT_FOUND
        if "Content-Length" not in request.headers:
            return _LENGTH_REQUIRED
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        token = self._access_tokens.get(bearer)
        if scheme != "Bearer" or token is None:
            return google_errors.unauthenticated(
                "CREDENTIALS_MISSING" if scheme != "Bearer" else "ACCESS_TOKEN_INVALID"
            )
        if token.grant.revoked or token.ends_at < time.monotonic():
            return google_errors.unauthenticated("ACCESS_TOKEN_EXPIRED")
        return _BODY_NOT_EMPTY if request.body else None

    def _token_refusal(self, request: Request) -> Answer | None:
        form = _form(request.body)
        missing = next((name for name in _TOKEN_FIELDS if not form.get(name)), None)
        if request.method != "POST":
            return _NOT_FOUND
        if not request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            return _oauth_error(400, "invalid_request", "The request is not a form.")
        if form.get("grant_type") != "refresh_token":
            return _oauth_error(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        if missing:
            return _oauth_error(400, "invalid_request", f"Missing required parameter: {missing}")
        if (form["client_id"], form["client_secret"]) != (self.client_id, self.client_secret):
            return _oauth_error(401, "invalid_client", "The provided client secret is invalid.")
        if "scope" in form:  # would need every named scope to be granted, so the program must not send it
            return _oauth_error(400, "invalid_scope", "Some requested scopes were not granted.")
        return None

    def _success(self, request: Request) -> Answer:
        if request.kind == "token":
            return self._access_token(request.key)
        new_job_id = str(uuid.uuid4())
        self.new_jobs[new_job_id] = request.key
        return Answer(200, {"archiveJobId": new_job_id})

    def _access_token(self, refresh_token: str) -> Answer:
        grant = self._grants.get(refresh_token)
        if grant is None and self._open_to_all and MARK in refresh_token:
            grant = self._grants[refresh_token] = Grant()
        if grant is None:
            return _oauth_error(400, "invalid_grant", "Bad Request")
        if grant.revoked:
            return _oauth_error(400, "invalid_grant", "Token has been expired or revoked.")
        value = f"{MARK}-access-token-{len(self._access_tokens) + 1}"
        self._access_tokens[value] = _AccessToken(grant, time.monotonic() + grant.expires_in)
        content = {"access_token": value, "expires_in": grant.expires_in, "scope": grant.scope, "token_type": "Bearer"}
        return Answer(200, content)


def _oauth_error(status: int, code: str, description: str) -> Answer:
    """An error of the token endpoint, RFC 6749, section 5.2."""
    return Answer(status, {"error": code, "error_description": description})


def _form(body: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body.decode(errors="replace"), keep_blank_values=True).items()}
