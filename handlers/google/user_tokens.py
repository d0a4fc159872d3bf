"""Users' access tokens: fetched once for all who need one at the same time, then cached while they live.

A refresh token is read from its secret whenever an access token is needed, and remembered nowhere: a secret that is
disabled or replaced counts at the latest when the access token is over.
"""

import asyncio

from cachetools import LRUCache

from handlers.domain.outcomes import Cause, Fault, Misconfigured, Rejection, RetryLater, Transient
from handlers.google.http_client import Http
from handlers.google.oauth import (
    ENABLE,
    OTHER_CLIENT,
    Granted,
    OAuthClient,
    RefreshToken,
    TokenAnswer,
    UnauthorizedClient,
    exchange,
    parse_client,
    parse_refresh_token,
    reauthorize,
)
from handlers.google.secret_manager import SecretStore
from handlers.google.single_flight import SingleFlight
from handlers.ports import AccessToken
from handlers.settings import Settings
from handlers.telemetry.logging import log

MAX_CACHED_TOKENS = 10_000  # about 2 KB each


class UserTokens:
    """Access tokens by credential."""

    def __init__(self, secrets: SecretStore, http: Http, settings: Settings) -> None:
        self._secrets = secrets
        self._http = http
        self._settings = settings
        self._client: OAuthClient | None = None
        self._proven: OAuthClient | None = None  # a client that has got a token for somebody
        self._cache: LRUCache[str, AccessToken] = LRUCache(MAX_CACHED_TOKENS)
        self._flights = SingleFlight()

    def cached(self, credential_id: str) -> AccessToken | None:
        token: AccessToken | None = self._cache.get(credential_id)
        return token if token and token.expires_at > asyncio.get_running_loop().time() else None

    async def get(self, credential_id: str) -> AccessToken | Rejection:
        return self.cached(credential_id) or await self._fetch_shared(credential_id)

    async def replace(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection:
        if self._cache.get(credential_id) == used:
            del self._cache[credential_id]
        return await self.get(credential_id)

    async def replace_if_newer(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection | None:
        token = await self._refresh_token(credential_id)
        if isinstance(token, RefreshToken) and token.version == used.secret_version:
            return None
        for _ in range(2):  # the first may join a fetch that began before the newer version; the second cannot
            cached = self._cache.get(credential_id)
            if cached and cached.secret_version == used.secret_version:
                del self._cache[credential_id]
            other = await self.get(credential_id)
            if not isinstance(other, AccessToken) or other.secret_version != used.secret_version:
                break
        return other

    async def _fetch_shared(self, credential_id: str) -> AccessToken | Rejection:
        """Share another delivery's success, but its rejection only after a look of our own: consent may be newer than
        its look at the secret. (Without the second look, 2 of 6,000 simulated runs rejected a user wrongly.)
        """
        other = self._flights.running(credential_id)
        result: AccessToken | Rejection
        result = await asyncio.shield(self._flights.join(credential_id, lambda: self._fetch(credential_id)))
        if other and isinstance(result, Rejection):
            result = await asyncio.shield(self._flights.join(credential_id, lambda: self._fetch(credential_id)))
        return result

    async def _fetch(self, credential_id: str) -> AccessToken | Rejection:
        begun = asyncio.get_running_loop().time()
        if self._client is None:
            self._flights.join("", self._read_client)  # while the refresh token is read
        token = await self._refresh_token(credential_id)
        if isinstance(token, Rejection):
            return token
        client, answer = await self._exchange(token)
        match answer:
            case Rejection():
                return answer
            case UnauthorizedClient(detail):
                return await self._whose_fault(client, detail)
            case RetryLater(detail):
                raise Transient(detail)
            case Fault(detail):
                raise Misconfigured(detail)
        if answer.new_refresh_token and answer.new_refresh_token != token.value:
            log.warning("the token endpoint gave a new refresh token, which is not stored")
        lifetime = max(answer.lifetime - self._settings.token_margin, answer.lifetime / 2)
        access = AccessToken(answer.access_token, token.version, begun + lifetime)
        self._cache[credential_id] = access
        return access

    async def _exchange(self, token: RefreshToken) -> tuple[OAuthClient, TokenAnswer]:
        """Before anybody is told that the answer is an error, a cached client file is read anew."""
        cached = self._client
        client = cached or await self._current_client()
        answer = await exchange(self._http, client, token)
        if not isinstance(answer, Granted):
            self._client = None
        if cached and not isinstance(answer, Granted | RetryLater):
            client = await self._current_client()
            if client != cached:
                answer = await exchange(self._http, client, token)
        if isinstance(answer, Granted):
            self._proven = client
        return client, answer

    async def _whose_fault(self, client: OAuthClient, said: str) -> Rejection:
        """`unauthorized_client`: the refresh token was issued to another client, if this one is good for others.

        The canary's made-up token proves a client: Google knows it where that is answered with `invalid_grant`.
        """
        if not self._settings.canary_credential:
            if client == self._proven:
                return OTHER_CLIENT
            raise Misconfigured(f"{said}: either the OAuth client is not Google's, or this token another's")
        token = await self._refresh_token(self._settings.canary_credential)
        if isinstance(token, Rejection):
            raise Misconfigured(f"{said}, and the canary has no refresh token ({token.cause})")
        canary = await exchange(self._http, client, token)
        if isinstance(canary, Rejection) and canary.cause == Cause.INVALID_GRANT:
            return OTHER_CLIENT
        if isinstance(canary, RetryLater):
            raise Transient(canary.detail)
        raise Misconfigured(f"{said}, for the canary too")

    async def _current_client(self) -> OAuthClient:
        client: OAuthClient = await asyncio.shield(self._flights.join("", self._read_client))
        return client

    async def _read_client(self) -> OAuthClient:
        where = f"the OAuth client file in secret {self._settings.oauth_client_secret}"
        secret = await self._secrets.read(self._settings.oauth_client_secret)
        if isinstance(secret, Cause):
            raise Misconfigured(f"{where} is {_WORDS[secret]}")
        self._client = parse_client(secret.payload, where, self._settings.token_host_names)
        return self._client

    async def _refresh_token(self, credential_id: str) -> RefreshToken | Rejection:
        prefix, canary = self._settings.refresh_token_secret_prefix, self._settings.canary_credential
        name = prefix + credential_id
        secret = await self._secrets.read(name)
        if isinstance(secret, Cause):
            if secret is Cause.SECRET_DISABLED:
                said = f"The latest version of secret {name} is {_WORDS[secret]}"
                return reauthorize(Cause.SECRET_DISABLED, said, ENABLE)
            if canary and await self._secrets.read(prefix + canary) is Cause.NO_SECRET:
                raise Misconfigured(
                    f"neither secret {name} nor the canary's is there: is REFRESH_TOKEN_SECRET_PREFIX wrong?"
                )
            return reauthorize(Cause.NO_SECRET, f"There is no secret {name}")
        token = parse_refresh_token(secret.payload, secret.version, name)
        return token or reauthorize(Cause.NO_REFRESH_TOKEN, f"Secret {name} holds no refresh token")


_WORDS = {Cause.NO_SECRET: "not there", Cause.SECRET_DISABLED: "disabled or destroyed"}
