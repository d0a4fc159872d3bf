"""A user's refresh token becomes an access token.

The facts are from RFC 6749, sections 5 and 6, https://developers.google.com/identity/protocols/oauth2#expiration and
https://developers.google.com/data-portability/user-guide/time-based.
"""

import asyncio
import codecs
import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
from cachetools import LRUCache
from msgspec import Struct

from handlers.outcomes import Fault, Misconfigured, Reason, Refused, Unavailable
from handlers.ports import AccessToken, Http, NoAnswer, NotSent, Secretive
from handlers.secret_store import NoSecret
from handlers.settings import SAFE_URL
from handlers.telemetry import log

_SCOPE = "https://www.googleapis.com/auth/dataportability."
_REMEMBERED = 10_000  # credentials; about 2 KB each
_MARGIN = 120.0  # seconds before its end at which a token counts as expired: longer than a delivery usually may take
_LIFETIME = 3599.0  # seconds, where the answer does not say
_REFRESH_TIMEOUT = 15.0  # seconds

_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry

_CONSENT = "ask the user for consent again, and store the new refresh token"
_reauthorize = partial(Refused, Reason.REAUTHORIZATION_REQUIRED)

# error of the token endpoint → whose fault it is; any other one passes on 408, 429 and 5xx, and is ours on the rest
TABLE: dict[str, Callable[[], Fault]] = {
    "invalid_grant": partial(_reauthorize, f"The refresh token is expired or revoked (invalid_grant): {_CONSENT}."),
    "admin_policy_enforced": partial(
        _reauthorize,
        f"The user's administrator does not allow this access (admin_policy_enforced): once it is allowed, {_CONSENT}.",
    ),
    "invalid_client": partial(Misconfigured, "the OAuth client was refused: invalid_client"),
    "unauthorized_client": partial(Misconfigured, "the OAuth client was refused: unauthorized_client"),
    "invalid_scope": partial(Misconfigured, "the token request was refused: invalid_scope"),
    "invalid_request": partial(Misconfigured, "the token request was refused: invalid_request"),
    "unsupported_grant_type": partial(Misconfigured, "the token request was refused: unsupported_grant_type"),
}
_PASSING = ["internal_failure", "rate_limit_exceeded", "server_error", "temporarily_unavailable"]  # whatever the status


class Secrets(Protocol):
    async def read(self, secret_id: str) -> bytes: ...


class OAuthClient(Secretive, Struct, frozen=True):
    client_id: str
    client_secret: str
    token_uri: str


class _ClientFile(Struct):
    web: OAuthClient | None = None
    installed: OAuthClient | None = None


class _RefreshTokenFile(Secretive, Struct):
    refresh_token: str | None = None


class _TokenAnswer(Secretive, Struct):
    access_token: str | None = None
    expires_in: float | None = None
    scope: str | None = None
    refresh_token: str | None = None
    error: Any = ""


def _fault_in(answer: _TokenAnswer) -> Fault | None:
    if answer.error:
        return TABLE[answer.error]()
    if answer.scope is not None and not any(scope.startswith(_SCOPE) for scope in answer.scope.split()):
        return _reauthorize(f"The grant has no Data Portability scope: {_CONSENT}.")
    return None


class SingleFlight:
    """Whoever asks for what is being fetched already waits for the same result."""

    def __init__(self) -> None:
        self._flights: dict[str, asyncio.Task[Any]] = {}

    def join(self, key: str, fetch: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """The task that fetches it. It is shared: await it under asyncio.shield."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _seen(asyncio.create_task(fetch()))
            flight.add_done_callback(lambda _: self._flights.pop(key))
        return flight

    def has(self, key: str) -> bool:
        """Whether it is being fetched just now."""
        return key in self._flights


def _seen(task: asyncio.Task[Any]) -> asyncio.Task[Any]:
    """What it raises counts as seen, even if nobody waits for it any more."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class UserCredentials:
    """Access tokens by credential: fetched once for all who need one at the same time, then kept while they live."""

    def __init__(self, secrets: Secrets, http: Http, *, secret_prefix: str, client_secret_id: str) -> None:
        self._secrets = secrets
        self._http = http
        self._secret_prefix = secret_prefix
        self._client_secret_id = client_secret_id
        self._client: OAuthClient | None = None
        self._tokens: LRUCache[str, AccessToken] = LRUCache(_REMEMBERED)
        self._flights = SingleFlight()

    def begin(
        self, credential_id: str, refused: AccessToken | None = None, *, anew: bool = False
    ) -> asyncio.Future[AccessToken]:
        """Start to get an access token, or join those who wait for it: await the result under asyncio.shield.

        `refused` is a token that Google did not accept: it is not handed out again. `anew`: whatever is remembered, the
        secret is read. The result raises Refused, Unavailable or Misconfigured.
        """
        loop = asyncio.get_running_loop()
        if anew:
            return self._flights.join(f"{credential_id} anew", lambda: self._fetch(credential_id, None))
        known: AccessToken | None = self._tokens.get(credential_id)
        if known and known == refused:
            del self._tokens[credential_id]  # or the next delivery would get it, should the refresh fail
        elif known and known.expires_at > loop.time():
            ready = loop.create_future()
            ready.set_result(known)
            return ready
        joins = self._flights.has(credential_id)
        flight = self._flights.join(credential_id, lambda: self._fetch(credential_id, known))
        return _seen(loop.create_task(self._join(credential_id, flight))) if joins else flight

    async def _join(self, credential_id: str, flight: asyncio.Task[AccessToken]) -> AccessToken:
        """Share another's success, but its refusal only after a look of our own: consent may be newer than its look."""
        try:
            return await asyncio.shield(flight)
        except Refused:
            again = self._flights.join(credential_id, lambda: self._fetch(credential_id, None))
            token: AccessToken = await asyncio.shield(again)
            return token

    async def _fetch(self, credential_id: str, known: AccessToken | None) -> AccessToken:
        now = asyncio.get_running_loop().time
        remembered, read_at = (known.refresh_token, known.read_at) if known else ("", now())
        knew_client = self._client is not None
        client, refresh_token = await self._secrets_for(credential_id, remembered)
        asked_at = now()
        answer = await self._exchange(client, refresh_token)
        if _fault_in(answer) and (remembered or knew_client):
            # perhaps only what we remember is out of date (a refresh token that another client got is an invalid_grant
            # too): that is read again before anyone is told
            self._client = None if knew_client else client
            read_at = now() if remembered else read_at
            renewed = await self._secrets_for(credential_id, "" if remembered else refresh_token)
            if renewed != (client, refresh_token):
                client, refresh_token = renewed
                asked_at = now()
                answer = await self._exchange(client, refresh_token)
        if fault := _fault_in(answer):
            raise fault
        if answer.refresh_token and answer.refresh_token != refresh_token:
            log.warning("the token endpoint gave a new refresh token, which is not stored")
        expires_in = _LIFETIME if answer.expires_in is None else answer.expires_in
        lifetime = max(expires_in - _MARGIN, expires_in / 2)
        token = AccessToken(answer.access_token or "", refresh_token, read_at, asked_at + lifetime)
        self._tokens[credential_id] = token
        return token

    async def _exchange(self, client: OAuthClient, refresh_token: str) -> _TokenAnswer:
        """Ask the token endpoint. Returns a token, or an error that stands in TABLE; raises for any other."""
        try:
            return await self._ask(client, refresh_token)
        except (Unavailable, Misconfigured):
            self._client = None  # it may be out of date, its endpoint too: the next one reads it again
            raise

    async def _ask(self, client: OAuthClient, refresh_token: str) -> _TokenAnswer:
        form = {
            "grant_type": "refresh_token",
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "refresh_token": refresh_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            status, body = await self._http.post(
                client.token_uri, headers=headers, body=urlencode(form).encode(), seconds=_REFRESH_TIMEOUT
            )
        except (NotSent, NoAnswer) as error:
            raise Unavailable(f"the token endpoint did not answer: {error}") from None
        try:
            answer = msgspec.json.decode(body, type=_TokenAnswer, strict=False)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Unavailable(f"the token endpoint answered {status} without JSON") from None
        passes = status in (408, 429) or status >= 500 or answer.error in _PASSING
        if passes or (status == 200 and not _TOKEN.fullmatch(answer.access_token or "")):
            raise Unavailable(f"the token endpoint failed: {status}")
        if status == 200:
            answer.error = ""
        elif status < 400 or not isinstance(answer.error, str) or answer.error not in TABLE:
            raise Misconfigured(f"the token endpoint refused the request: {status}")
        return answer

    async def _secrets_for(self, credential_id: str, remembered: str = "") -> tuple[OAuthClient, str]:
        if self._client:
            return self._client, await self._refresh_token(credential_id, remembered)
        both = await asyncio.gather(self._oauth_client(), self._refresh_token(credential_id, remembered))
        return both[0], both[1]

    async def _oauth_client(self) -> OAuthClient:
        client: OAuthClient = await asyncio.shield(self._flights.join("", self._read_client))
        self._client = client
        return client

    async def _read_client(self) -> OAuthClient:
        where = f"the OAuth client file in secret {self._client_secret_id}"
        try:
            payload = (await self._secrets.read(self._client_secret_id)).removeprefix(codecs.BOM_UTF8)
            file = msgspec.json.decode(payload, type=_ClientFile)
        except NoSecret as error:
            raise Misconfigured(f"{where} is {error}") from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Misconfigured(f"{where} is not what Google's console downloads") from None
        client = file.web or file.installed
        if client is None or not re.match(SAFE_URL, client.token_uri):
            raise Misconfigured(f"{where} has no web or installed client with an https token_uri")
        return client

    async def _refresh_token(self, credential_id: str, remembered: str = "") -> str:
        if remembered:
            return remembered
        secret_id = self._secret_prefix + credential_id
        try:
            payload = (await self._secrets.read(secret_id)).decode("utf-8-sig").strip()
            if payload.startswith("{"):
                payload = (msgspec.json.decode(payload, type=_RefreshTokenFile).refresh_token or "").strip()
        except NoSecret as error:
            raise _reauthorize(f"The refresh token of credential {credential_id} is {error}: {_CONSENT}.") from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Misconfigured(f"secret {secret_id} holds neither a refresh token nor JSON with one") from None
        if not payload:
            raise _reauthorize(f"Credential {credential_id} has no refresh token: {_CONSENT}.")
        return payload
