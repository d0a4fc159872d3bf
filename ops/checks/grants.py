"""The OAuth client, the users' secrets, the API itself, and one user's grant."""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from handlers.domain.outcomes import Cause, Rejection, RetryLater
from handlers.google.google_error import parse_error
from handlers.google.http_client import HttpClient, HttpResponse
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
)
from handlers.google.secret_manager import SecretStore
from ops.checks import Check, CheckResult, failed, not_checked, ok
from ops.cloud import Cloud
from ops.secrets import count_secrets

_TIMEOUT = 15.0  # seconds for one request
_NOBODYS = RefreshToken("1//nobody-has-this-refresh-token", "")
_JOB = "ops-check"  # no job has this id
_SCOPE = re.compile(r"(?<=/auth/)dataportability\.[a-z0-9_.]{1,100}(?=\s|\Z)")
_AGAIN = "Try again; is there a proxy, or no way to this host?"
_CONSENT = "The product asks the user for consent, and stores the new token."


_Resource = Annotated[str, Meta(pattern=r"^[a-z0-9_.]{1,100}\Z")]  # nothing else is shown: it could be the token


class _AccessTypes(Struct, rename="camel"):
    one_time_resources: list[_Resource] = []
    time_based_resources: list[_Resource] = []


class GrantChecks:
    """Each check reads what it needs: an operator may see one secret and not the other."""

    def __init__(self, cloud: Cloud, http: HttpClient) -> None:
        self._settings = cloud.settings
        self._cloud = cloud
        self._http = http
        self._secrets = SecretStore(cloud.clients.secret_manager, cloud.settings.google_cloud_project)

    async def client(self) -> list[CheckResult]:
        """The token endpoint refuses a refresh token that nobody has, if it knows the client: with `invalid_grant`."""
        secret = self._settings.oauth_client_secret
        subject = f"client file {secret}"
        remedy = f"gcloud secrets versions add {secret} --data-file=client_secret.json"
        client = await self._read_client()
        if client is None:
            return [failed(subject, "it is not there, or its latest version is disabled", remedy)]
        answer = await exchange(self._http, client, _NOBODYS)
        if _knows_the_client(answer):
            return [ok(subject, "the token endpoint knows this client")]
        if isinstance(answer, RetryLater):
            return [failed(subject, answer.detail, _AGAIN)]
        said = _unless_granted(answer, "the token endpoint gives tokens for made-up refresh tokens")
        look = "Is it the right client, and in order in the console's Google Auth Platform (Clients, Audience)?"
        return [failed(subject, said, f"{look} A new file: {remedy}")]

    async def secrets(self) -> list[CheckResult]:
        prefix = self._settings.refresh_token_secret_prefix
        subject = f"secrets {prefix}…"
        number = await count_secrets(self._cloud, prefix, self._settings.canary_credential)
        if number:
            return [ok(subject, f"{number} of them")]
        remedy = "Is REFRESH_TOKEN_SECRET_PREFIX the product's? Is it the right project?"
        return [failed(subject, "there is none of a user's: nobody has a refresh token", remedy)]

    async def canary(self) -> list[CheckResult]:
        credential = self._settings.canary_credential
        subject = f"canary {credential}"
        if not isinstance(token := await self._read_token(credential), RefreshToken):
            return [failed(subject, f"its secret has no refresh token ({token})", "Store a made-up one there.")]
        client = await self._read_client()
        if client is None:
            return [not_checked(subject, "there is no client file")]
        answer = await exchange(self._http, client, token)
        if _knows_the_client(answer):
            return [ok(subject)]
        said = _unless_granted(answer, "Google has accepted its refresh token, which has to be a made-up one")
        return [failed(subject, said, "Its token has to be refused as invalid_grant: look at the client file.")]

    async def api(self) -> list[CheckResult]:
        """Without a token, so that nothing can come of it: Google's own API answers 401 in JSON."""
        endpoint = self._settings.data_portability_api_endpoint.rstrip("/")
        subject, remedy = f"API {endpoint}", "Is DATA_PORTABILITY_API_ENDPOINT right? Is there a proxy in between?"
        response = await self._call("GET", f"{endpoint}/v1/archiveJobs/{_JOB}/portabilityArchiveState", {})
        if not isinstance(response, HttpResponse):
            return [failed(subject, f"no answer: {response.detail}", remedy)]
        error = parse_error(response.status, response.body)
        if error.is_googles and error.http_status in (401, 403):
            return [ok(subject, f"reachable (answers {error})")]
        return [failed(subject, f"it answers {error}", remedy)]

    async def user(self, credential: str) -> list[CheckResult]:
        """One user's grant: whether it gives a token, for which scopes, and how often it exports."""
        subject = f"grant {credential}"
        if not isinstance(token := await self._read_token(credential), RefreshToken):
            remedy = ENABLE if token is Cause.SECRET_DISABLED else _CONSENT
            return [failed(subject, f"there is no refresh token ({token})", remedy)]
        client = await self._read_client()
        if client is None:
            return [not_checked(subject, "there is no client file")]
        answer = await exchange(self._http, client, token)
        if isinstance(answer, UnauthorizedClient) and _knows_the_client(await exchange(self._http, client, _NOBODYS)):
            answer = OTHER_CLIENT
        if isinstance(answer, Rejection):
            return [failed(subject, answer.detail, _CONSENT)]
        if isinstance(answer, RetryLater):
            return [failed(subject, answer.detail, _AGAIN)]
        if not isinstance(answer, Granted):
            return [failed(subject, answer.detail, "This is not the user's fault: look at the client file.")]
        scopes = " ".join(sorted(_SCOPE.findall(answer.scope))) or "not told"
        return [ok(subject, f"gives a token; scopes: {scopes}"), await self._access_type(credential, answer)]

    async def _access_type(self, credential: str, answer: Granted) -> CheckResult:
        """https://developers.google.com/data-portability/reference/rest/v1/accessType/check"""
        subject = f"access type {credential}"
        url = f"{self._settings.data_portability_api_endpoint.rstrip('/')}/v1/accessType:check"
        headers = {"Authorization": f"Bearer {answer.access_token}", "Content-Length": "0"}
        response = await self._call("POST", url, headers)
        if not isinstance(response, HttpResponse):
            return not_checked(subject, f"no answer: {response.detail}")
        if response.status != 200:
            error = parse_error(response.status, response.body)
            refused = error.is_googles and error.http_status in (401, 403)
            said = f"the API answers {error}"
            return failed(subject, said, _CONSENT) if refused else not_checked(subject, said)
        try:
            resources = msgspec.json.decode(response.body, type=_AccessTypes)
        except msgspec.MsgspecError:
            return not_checked(subject, "the answer cannot be read")
        kinds = {"one-time": resources.one_time_resources, "time-based": resources.time_based_resources}
        told = [f"{kind}: {' '.join(names)}" for kind, names in kinds.items() if names]
        return ok(subject, "; ".join(told) or "of no resource")

    async def _read_client(self) -> OAuthClient | None:
        secret = self._settings.oauth_client_secret
        found = await self._secrets.read(secret)
        if isinstance(found, Cause):
            return None
        return parse_client(found.payload, f"the client file in {secret}", self._settings.token_host_names)

    async def _read_token(self, credential: str) -> RefreshToken | Cause:
        name = self._settings.refresh_token_secret_prefix + credential
        found = await self._secrets.read(name)
        if isinstance(found, Cause):
            return found
        return parse_refresh_token(found.payload, found.version, name) or Cause.NO_REFRESH_TOKEN

    async def _call(self, method: str, url: str, headers: dict[str, str]) -> Any:
        return await self._http.request(method, url, headers=headers, body=b"", seconds=_TIMEOUT)


def grant_checks(cloud: Cloud, http: HttpClient, user: str) -> list[tuple[str, Check]]:
    checks, settings = GrantChecks(cloud, http), cloud.settings
    listed: list[tuple[str, Check]] = [
        (f"client file {settings.oauth_client_secret}", checks.client),
        (f"secrets {settings.refresh_token_secret_prefix}…", checks.secrets),
        (f"API {settings.data_portability_api_endpoint}", checks.api),
    ]
    if settings.canary_credential:
        listed.append((f"canary {settings.canary_credential}", checks.canary))
    if user:
        listed.append((f"grant {user}", lambda: checks.user(user)))
    return listed


def _knows_the_client(answer: TokenAnswer) -> bool:
    """Whether the token endpoint has refused a made-up token for the token's sake, and not for the client's."""
    return isinstance(answer, Rejection) and answer.cause == Cause.INVALID_GRANT


def _unless_granted(answer: TokenAnswer, granted: str) -> str:
    """What the token endpoint has said to a refresh token that nobody has."""
    if isinstance(answer, Granted) or (isinstance(answer, Rejection) and answer.cause == Cause.NO_SCOPE):
        return granted
    return f"the token endpoint answers {answer.cause}" if isinstance(answer, Rejection) else answer.detail
