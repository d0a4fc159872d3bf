"""Users' consents at the stand-in of Google: refresh tokens, and the access tokens that are made of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from local import google_errors
from local.scripted import Answer

MARK = "made-up-secret"  # in every secret value on this stage, so that a leak can be searched for
SCOPE = "https://www.googleapis.com/auth/dataportability.myactivity.search"
EXPIRES_IN = 3599  # seconds, as Google usually says


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


class Grants:
    """`consents` says of a refresh token that nobody has told of whether it is good."""

    def __init__(self) -> None:
        self.consents: Callable[[str], bool] = lambda _: False
        self._grants: dict[str, Grant] = {}
        self._access_tokens: dict[str, _AccessToken] = {}

    def consent(self, refresh_token: str, scope: str, expires_in: int) -> None:
        """From now on this refresh token is good."""
        self._grants[refresh_token] = Grant(scope, expires_in)

    def revoke(self, refresh_token: str) -> None:
        """Neither this refresh token nor its access tokens are good any more."""
        self._grants.setdefault(refresh_token, Grant()).revoked = True

    def refreshed(self, refresh_token: str) -> Answer:
        """The token endpoint's answer."""
        grant = self._grants.get(refresh_token)
        if grant is None and self.consents(refresh_token):
            grant = self._grants[refresh_token] = Grant()
        if grant is None:
            return oauth_error(400, "invalid_grant", "Bad Request")
        if grant.revoked:
            return oauth_error(400, "invalid_grant", "Token has been expired or revoked.")
        value = f"{MARK}-access-token-{len(self._access_tokens) + 1}"
        self.learn(value, grant)
        content = {"access_token": value, "expires_in": grant.expires_in, "scope": grant.scope, "token_type": "Bearer"}
        return Answer(200, content)

    def learn(self, access_token: str, grant: Grant) -> None:
        """From now on this access token is good."""
        self._access_tokens[access_token] = _AccessToken(grant, time.monotonic() + grant.expires_in)

    def behind(self, authorization: str) -> str:
        """The refresh token that the access token in this header was made of."""
        token = self._access_tokens.get(authorization.removeprefix("Bearer "))
        return next((refresh for refresh, grant in self._grants.items() if token and token.grant is grant), "")

    def refusal(self, authorization: str) -> Answer | None:
        """The API's answer to this header, None where it is good."""
        scheme, _, bearer = authorization.partition(" ")
        if scheme != "Bearer":
            return google_errors.unauthenticated("CREDENTIALS_MISSING")
        token = self._access_tokens.get(bearer)
        if token is None:
            return google_errors.unauthenticated("ACCESS_TOKEN_INVALID")
        if token.grant.revoked or token.ends_at < time.monotonic():
            return google_errors.unauthenticated("ACCESS_TOKEN_EXPIRED")
        return None


def oauth_error(status: int, code: str, description: str = "", **more: str) -> Answer:
    """An error of the token endpoint, RFC 6749, section 5.2; without a description that field is absent."""
    return Answer(status, {"error": code, **({"error_description": description} if description else {}), **more})
