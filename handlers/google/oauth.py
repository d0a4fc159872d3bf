"""The OAuth client's file, a refresh token's secret, and the one table of what the token endpoint answers.

Sources: RFC 6749, sections 5 and 6; https://developers.google.com/identity/protocols/oauth2#expiration;
https://developers.google.com/data-portability/user-guide/time-based.
"""

import codecs
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from handlers.domain.outcomes import Cause, Fault, Misconfigured, Reason, RedactedRepr, Rejection, RetryLater
from handlers.google.google_error import json_of
from handlers.google.http_client import Http, HttpResponse
from handlers.telemetry.tracing import span

_SCOPE = "https://www.googleapis.com/auth/dataportability."
_TIMEOUT = 15.0  # seconds for a refresh
_LIFETIME = 3599.0  # seconds: where the answer does not say, and at most
_ACCESS_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")  # what a header can carry; Google's have about 220 characters
_REFRESH_TOKEN = re.compile(
    r"(?!null\Z)(?![\w.-]+=[^=])"  # NAME=value
    r"(?!ya29\.)"  # an access token
    r"(?!4/|4%2[Ff])"  # an authorization code
    r"(?!.*%2[Ff])"  # percent-encoded
    r"[A-Za-z0-9!#$%&*+./:=?@^_|~-]{1,2048}"  # visible ASCII without quotes, brackets and separators
)

_BLANKS = " \t\r\n"
# Of Google's own token endpoints. Elsewhere on its hosts anybody can store what is sent: Cloud Storage takes uploads by
# POST (https://cloud.google.com/storage/docs/uploading-objects).
_TOKEN_PATHS = ("/token", "/oauth2/v3/token", "/oauth2/v4/token", "/o/oauth2/token")

CONSENT = "Ask the user for consent again, and store the new refresh token."
ENABLE = f"Was it disabled by mistake? Enable it. Else: {CONSENT}"


def reauthorize(cause: Cause, said: str, remedy: str = CONSENT) -> Rejection:
    return Rejection(Reason.REAUTHORIZATION_REQUIRED, f"{said} ({cause}). {remedy}", cause)


class OAuthClient(RedactedRepr, Struct, frozen=True):
    client_id: str
    client_secret: str
    token_uri: str


class _ClientFile(RedactedRepr, Struct):
    web: OAuthClient | None = None
    installed: OAuthClient | None = None


def parse_client(payload: bytes, where: str, token_hosts: frozenset[str]) -> OAuthClient:
    """The file as Google's console downloads it. Raises Misconfigured, which names `where` it was read."""
    try:
        file = msgspec.json.decode(payload.removeprefix(codecs.BOM_UTF8), type=_ClientFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Misconfigured(f"{where} is not what Google's console downloads") from None
    client = file.web or file.installed
    if client is None:
        raise Misconfigured(f"{where} has no web or installed client")
    if not _is_token_host(client.token_uri, token_hosts):
        raise Misconfigured(
            f"{where} has a token_uri that is no token endpoint of Google's: TOKEN_HOSTS lists further hosts"
        )
    return client


def _is_token_host(uri: str, token_hosts: frozenset[str]) -> bool:
    """Where a refresh token may be sent: whoever can write the client file must not choose it freely."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if parts.username is not None or re.search(r"[\s\\]", uri):
        return False
    if host in ("localhost", "127.0.0.1", "::1"):
        return parts.scheme in ("http", "https")
    googles = host.endswith(".googleapis.com") or host == "accounts.google.com"
    known = host in token_hosts or (googles and parts.path in _TOKEN_PATHS and not parts.query)
    return parts.scheme == "https" and known


class RefreshToken(RedactedRepr, Struct, frozen=True):
    """`version` is that of the secret that it stands in."""

    value: str
    version: str


class _RefreshTokenFile(RedactedRepr, Struct):
    refresh_token: str | None


def parse_refresh_token(payload: bytes, version: str, secret: str) -> RefreshToken | None:
    """The bare token, or the `refresh_token` of a JSON object; None where it is empty.

    Raises Misconfigured for what can be no refresh token: whoever wrote the secret made a mistake, and no user.
    """
    try:
        text = payload.decode("utf-8-sig").strip(_BLANKS)
        if text.startswith("{"):
            text = (msgspec.json.decode(text, type=_RefreshTokenFile).refresh_token or "").strip(_BLANKS)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Misconfigured(f"secret {secret} holds neither a refresh token nor JSON with one") from None
    if text and not _REFRESH_TOKEN.fullmatch(text):
        raise Misconfigured(f"secret {secret} holds something that is no refresh token: one line, without quotes")
    return RefreshToken(text, version) if text else None


class Granted(RedactedRepr, Struct, frozen=True):
    """`lifetime` is in seconds; `scope` has spaces in between."""

    access_token: str
    lifetime: float
    new_refresh_token: str
    scope: str


class UnauthorizedClient(Struct, frozen=True):
    """Whose fault it is has to be found out."""

    detail: str


TokenAnswer = Granted | Rejection | RetryLater | Fault | UnauthorizedClient
_TRANSIENT = ("internal_failure", "rate_limit_exceeded", "server_error", "temporarily_unavailable")

# The `error` of a 4xx → why the user is asked for consent again
ERRORS: Mapping[str, Rejection] = {
    "invalid_grant": reauthorize(Cause.INVALID_GRANT, "The refresh token is expired or revoked"),
    "admin_policy_enforced": reauthorize(Cause.ADMIN_POLICY, "The user's administrator does not allow this access"),
}
OTHER_CLIENT = reauthorize(Cause.OTHER_CLIENT, "The refresh token was issued to another OAuth client")
_NO_SCOPE = reauthorize(Cause.NO_SCOPE, "The grant has no Data Portability scope")


async def exchange(http: Http, client: OAuthClient, token: RefreshToken) -> TokenAnswer:
    """Ask the token endpoint for an access token. `scope` is not sent: all named scopes would have to be granted."""
    form = {
        "grant_type": "refresh_token",
        "client_id": client.client_id,
        "client_secret": client.client_secret,
        "refresh_token": token.value,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with span("refresh") as current:
        response = await http.request(
            "POST", client.token_uri, headers=headers, body=urlencode(form).encode(), seconds=_TIMEOUT
        )
        host = urlsplit(client.token_uri).hostname
        if not isinstance(response, HttpResponse):
            return RetryLater(f"the token endpoint {host} did not answer: {response.detail}")
        current.set_attribute("http.response.status_code", response.status)
        return judge(response.status, response.body, f"the token endpoint {host} answered {response.status}")


def judge(status: int, body: bytes, said: str) -> TokenAnswer:
    """What an answer means: the first row that fits. `said` is where it came from, and its status."""
    content = json_of(body)
    content = content if isinstance(content, dict) else {}
    error = content.get("error")
    code = error if isinstance(error, str) and re.fullmatch(r"[a-z0-9_]{1,64}", error) else ""
    said = f"{said} {code}".rstrip()
    access_token = content.get("access_token")
    if status == 200 and not error and isinstance(access_token, str) and _ACCESS_TOKEN.fullmatch(access_token):
        scope, new = (_text(content.get(name)) for name in ("scope", "refresh_token"))
        if scope and not any(one.startswith(_SCOPE) for one in scope.split()):
            return _NO_SCOPE
        return Granted(access_token, _lifetime(content.get("expires_in")), new, scope)
    if status in (408, 429) or status >= 500 or error in _TRANSIENT or content.get("error_description") in _TRANSIENT:
        return RetryLater(said)
    if 400 <= status < 500 and code == "unauthorized_client":
        return UnauthorizedClient(said)
    if 400 <= status < 500 and code in ERRORS:
        return ERRORS[code]
    return Fault(said if code else f"{said}, with a body that is not Google's")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _lifetime(expires_in: Any) -> float:
    """Seconds. Whatever the answer says, a token is not used for more than an hour."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError, OverflowError):
        return _LIFETIME
    return min(max(seconds, 0.0), _LIFETIME) if math.isfinite(seconds) else _LIFETIME
