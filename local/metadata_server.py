"""The metadata server: who the program is, and its access tokens. Scripted.

What google-auth asks it, in the order of a start (`google.auth.compute_engine._metadata`):

    ping      GET /                                                                is there one?
    account   GET /computeMetadata/v1/instance/service-accounts/default/           with recursive=true
    token     GET /computeMetadata/v1/instance/service-accounts/{account}/token
    universe  GET /computeMetadata/v1/universe/universe-domain                     404: googleapis.com

https://cloud.google.com/compute/docs/metadata/querying-metadata
"""

import re
import time
from collections.abc import Iterable

from aiohttp import web

from local.grants import MARK
from local.http_server import HttpServer, HttpService, carry_out
from local.scripted import Answer, Scripts, Step

_FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
_TEXT = {"Content-Type": "application/text", **_FLAVOR}
_ACCOUNT = re.compile(r"/computeMetadata/v1/instance/service-accounts/(?P<account>[^/]+)/(?P<what>token)?")
_OTHERS = {
    "/": "ping",
    "/computeMetadata/v1/universe/universe-domain": "universe",
    "/computeMetadata/v1/project/project-id": "project",
}
_NOT_FOUND = Answer(404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", _FLAVOR)


class MetadataServer(HttpService):
    """It serves at `address` (`host:port`) while entered. Its access tokens live `expires_in` seconds."""

    def __init__(self, project: str, *, expires_in: float = 3599) -> None:
        self.account = f"run@{project}.iam.gserviceaccount.com"
        self.expires_in = expires_in
        self._project = project
        self._server = HttpServer(self._handle)
        self._scripts: Scripts[Step] = Scripts()
        self._ends_at: dict[str, float] = {}  # of each token, time.monotonic()

    @property
    def address(self) -> str:
        """Where it serves."""
        return f"127.0.0.1:{self._server.port}"

    def script(self, kind: str, steps: Iterable[Step]) -> None:
        """What the next requests of this kind meet (ANY: those with no script of their own)."""
        self._scripts.set(kind, steps)

    def vouches_for(self, authorization: str) -> bool:
        """Whether this header holds a token that was given out here and lives."""
        scheme, _, token = authorization.partition(" ")
        return scheme == "Bearer" and self._ends_at.get(token, 0.0) > time.monotonic()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        of_account = _ACCOUNT.fullmatch(request.path)
        kind = (of_account["what"] or "account") if of_account else _OTHERS.get(request.path, "other")
        if kind != "ping" and (
            request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers
        ):
            return await carry_out(Answer(403, b"Missing Metadata-Flavor:Google header.", _FLAVOR), request)
        known = of_account is None or of_account["account"] in ("default", self.account)
        return await carry_out(self._scripts.next(kind) or (self._answer(kind) if known else _NOT_FOUND), request)

    def _answer(self, kind: str) -> Answer:
        match kind:
            case "ping":
                return Answer(200, b"computeMetadata/\n", _TEXT)
            case "account":
                scopes = ["https://www.googleapis.com/auth/cloud-platform"]
                return Answer(200, {"aliases": ["default"], "email": self.account, "scopes": scopes}, _FLAVOR)
            case "token":
                token = f"{MARK}-own-token-{len(self._ends_at) + 1}"
                self._ends_at[token] = time.monotonic() + self.expires_in
                content = {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"}
                return Answer(200, content, _FLAVOR)
            case "project":
                return Answer(200, self._project.encode(), _TEXT)
        return _NOT_FOUND
