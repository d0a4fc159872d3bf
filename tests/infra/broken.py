"""The function on a stage that is broken in one way, in this process: what it logs, and what is expected of it."""

import base64
import contextlib
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.api_core import exceptions
from google.auth.exceptions import RefreshError, TransportError
from google.cloud.firestore_v1.types import BatchGetDocumentsResponse
from google.pubsub_v1.types.pubsub import PublishRequest
from starlette.requests import Request

from infra.delivery.smoke import CANARY
from local import google_errors
from local.foreign_answers import bodies
from local.grants import MARK, oauth_error
from local.grpc_service import Refused, service, serving
from local.scripted import ANY, Answer, Step
from local.secrets import Fault, State
from local.stage import OAUTH_CLIENT, REFRESH_TOKEN_PREFIX, Stage
from tests.infra.code import (
    Account,
    Clients,
    Container,
    Endpoints,
    GoogleClients,
    LedgerEntry,
    MemoryStore,
    configure_logs,
    log,
    settings_of,
)

_Breaks = Callable[[Stage], object]


@dataclass(frozen=True, slots=True)
class Broken:
    """`breaks` the stage. `said`: words of the line that stand in the runbook's row for it.

    `one`: a single job or user is hit, and all others are not. `fires`: the alerts that its lines make fire, of a large
    product and of a small one.
    """

    what: str
    outcome: str
    step: str
    said: str
    fires: frozenset[str] = frozenset()
    breaks: _Breaks = lambda stage: None
    settings: Mapping[str, str] = field(default_factory=dict)
    one: bool = False
    tls: bool = False  # speak it, by an authority that the function does not trust
    ahead: timedelta = timedelta(0)  # of the function's clock
    pubsub: Refused | None = None  # what Pub/Sub answers
    firestore: Exception | None = None  # what Firestore answers; AlreadyExists: with an entry edited by hand
    account: Exception | None = None  # what the function meets when it asks for credentials of its own
    target: str = "retry_failed_archive_job"
    ledger: Callable[[datetime], LedgerEntry] | None = None  # what the ledger holds of the job
    event: Mapping[str, Any] = field(default_factory=dict)


class Firestore:
    """Firestore, as its client sees it where every call fails, or where the entry was edited by hand."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def run_query(self, request: Any, **_: Any) -> Any:
        raise self._error

    async def commit(self, request: Any, **_: Any) -> Any:
        raise self._error

    async def batch_get_documents(self, request: Any, **_: Any) -> Any:
        if not isinstance(self._error, exceptions.AlreadyExists):
            raise self._error
        now = datetime.now(UTC)
        document = {"name": request.documents[0], "fields": {"attempt": {"string_value": "three"}}, "update_time": now}
        return _stream(BatchGetDocumentsResponse(found=document, read_time=now))


async def _stream(*answers: Any) -> AsyncIterator[Any]:
    for answer in answers:
        yield answer


class OtherFirestore:
    """Google's clients, but for Firestore's."""

    def __init__(self, clients: Clients, error: Exception) -> None:
        self.publisher, self.secret_manager = clients.publisher, clients.secret_manager
        self._firestore = Firestore(error)

    async def firestore(self) -> Any:
        return self._firestore


class Running:
    """The function on a stage. `now` is the store's clock."""

    def __init__(self, stage: Stage, broken: Broken, environment: Mapping[str, str]) -> None:
        self.now = datetime.now(UTC)
        self._stream = io.StringIO()
        configure_logs("INFO", self._stream)
        ledger = "firestore" if broken.firestore else "memory"
        settings = settings_of({**stage.environment, "RETRY_LEDGER": ledger, **environment})

        def lookup(**_: Any) -> Any:
            raise broken.account or AssertionError("Emulators need no credentials.")

        clients: Clients = GoogleClients(Account(lookup), settings)
        if broken.firestore:
            clients = OtherFirestore(clients, broken.firestore)
        self.store = MemoryStore(lambda: self.now)
        self.container = Container(
            settings,
            clients=clients,
            store=None if broken.firestore else self.store,
            now=lambda: self.now + broken.ahead,
            max_latency=0.0,
        )
        self._endpoints = Endpoints(settings, self.container)
        self._target = getattr(self._endpoints, broken.target)

    async def deliver(
        self, event: Mapping[str, Any], attempt: int = 1, published: datetime | None = None
    ) -> Mapping[str, Any]:
        """One delivery; gives the line that tells how it ended."""
        message = {
            "data": base64.b64encode(json.dumps(event).encode()).decode(),
            "messageId": f"message-{event.get('archiveJobId')}",
            "publishTime": (published or self.now).isoformat(),
        }
        body = json.dumps({"message": message, "deliveryAttempt": attempt}).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        await self.post(receive)
        return self.lines[-1]

    async def post(self, receive: Callable[[], Awaitable[dict[str, Any]]], **headers: str) -> str:
        """One request, whatever it brings; gives the last thing that is said."""
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": sent}
        await self._target(Request(scope, receive))
        return str(self.said[-1]["message"])

    def later(self, **time: float) -> None:
        """So much later, by the store's clock and by its own."""
        self.now += timedelta(**time)

    async def close(self) -> None:
        """Close its connections."""
        await self.container.http.close()  # type: ignore[attr-defined]

    async def resume(self) -> Mapping[str, Any]:
        """One run of the schedule; gives its line."""
        await self._endpoints.resume_deferred_retries(Request({"type": "http", "method": "POST", "headers": []}))
        return self.lines[-1]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines that tell how deliveries and runs ended."""
        return [line for line in self.said if "outcome" in line]

    @property
    def said(self) -> list[dict[str, Any]]:
        """All lines."""
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


def refusing_pubsub(refusal: Refused) -> contextlib.AbstractAsyncContextManager[str]:
    """Where Pub/Sub refuses to take a message: no emulator knows permissions or schemas."""

    def refuse(_: Any) -> Any:
        raise refusal

    return serving(service("google.pubsub.v1.Publisher", {"Publish": (PublishRequest, refuse)}))


@contextlib.asynccontextmanager
async def running(broken: Broken) -> AsyncIterator[tuple[Stage, Running]]:
    """The function on its broken stage, where a user and the canary have secrets."""
    handlers = log.handlers[:]
    async with contextlib.AsyncExitStack() as stack:
        environment = {"CANARY_CREDENTIAL": CANARY, **broken.settings}
        if broken.account:
            environment["SECRET_MANAGER_EMULATOR_HOST"] = ""
        if broken.pubsub:
            environment["PUBSUB_EMULATOR_HOST"] = await stack.enter_async_context(refusing_pubsub(broken.pubsub))
        stage = await stack.enter_async_context(Stage(tls=broken.tls))
        stage.add_user("user")
        stage.add_user(CANARY, consents=False)
        broken.breaks(stage)
        function = Running(stage, broken, environment)
        if broken.ledger:
            await function.store.write(broken.ledger(function.now), None)
            function.later(hours=3)
        try:
            yield stage, function
        finally:
            log.handlers[:] = handlers
            await function.close()


EVENT = {"archiveJobId": "job", "userId": "user"}


async def line_of(broken: Broken) -> Mapping[str, Any]:
    """What the function writes of one delivery, or one run, on the broken stage."""
    async with running(broken) as (_, function):
        if broken.target == "resume_deferred_retries":
            return await function.resume()
        return await function.deliver({**EVENT, **broken.event}, attempt=2)


# What is broken, in groups by what the lines make fire: of a large product, of a small one

_STOPS = frozenset({"faults", "stalled", "oldest-event", "dead-letters"})
_WAITS = frozenset({"stalled", "oldest-event", "dead-letters"})
_ONE_STOPS = frozenset({"faults", "oldest-event", "dead-letters"})
_CONSENT = frozenset({"reauthorization", "last-five"})
_REJECTS = frozenset({"rejections", "last-five"})


def _error(kind: Any, message: str) -> Exception:
    error: Exception = kind(message)
    return error


def _client_file(content: bytes) -> _Breaks:
    return lambda stage: stage.secrets.add_version(OAUTH_CLIENT, content)


def _token_answer(answer: Answer) -> _Breaks:
    return lambda stage: stage.google.script_token(ANY, itertools.repeat(answer))


def _retry_answer(step: Step) -> _Breaks:
    return lambda stage: stage.google.script_retry(ANY, itertools.repeat(step))


def _user_secret(payload: str) -> _Breaks:
    return lambda stage: stage.secrets.add_version(f"{REFRESH_TOKEN_PREFIX}user", payload)


def _user_state(state: State) -> _Breaks:
    return lambda stage: stage.secrets.set_state(f"{REFRESH_TOKEN_PREFIX}user", state)


def _wrong_client(stage: Stage) -> None:
    client = stage.google.client_file().replace(stage.google.client_secret.encode(), b"last-years-secret")
    stage.secrets.add_version(OAUTH_CLIENT, client)


def _revoke(stage: Stage) -> None:
    stage.add_user("user", consents=False)


def _secrets_refuse(code: grpc.StatusCode, message: str) -> _Breaks:
    return lambda stage: stage.secrets.script(ANY, itertools.repeat(Fault(code, message)))


def _pubsub_refuses(message: str) -> Refused:
    return Refused(grpc.StatusCode.PERMISSION_DENIED, message)


def _entry(now: datetime, **fields: Any) -> LedgerEntry:
    known: dict[str, Any] = {"job_id": "job", "root_job_id": "job", "retries_before": 0, "user_id": "user"}
    times: dict[str, Any] = {"updated_at": now, "expire_at": now + timedelta(days=45)}
    return LedgerEntry(**known, credential_id="user", **times, **fields)


def claimed(calls: int) -> Callable[[datetime], LedgerEntry]:
    """An instance died in its claim, after calls in doubt."""
    return lambda now: _entry(now, state="claimed", lease_owner="dead", lease_seconds=150, calls_made=calls)


def _proxied(status: int) -> Broken:
    said = "DATA_PORTABILITY_API_ENDPOINT"
    return Broken(f"a proxy answers {status}", "fault", "retry", said, _STOPS, _retry_answer(bodies(status)["html"]))


def _stored(what: str, payload: str) -> Broken:
    return Broken(f"tokens stored {what}", "fault", "token", "refresh token", _STOPS, _user_secret(payload))


class _NotFound:
    """The metadata server's answer for an account that is gone."""

    status = 404


_WRONG_PREFIX = {"REFRESH_TOKEN_SECRET_PREFIX": "another-prefix-"}
# https://cloud.google.com/vpc-service-controls/docs/troubleshooting
_PERIMETER = "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: 7e3b"
_KMS = "Cloud KMS CryptoKeyVersion projects/p/…/cryptoKeyVersions/1 is not enabled, current state is: DISABLED."
_HTML = Answer(200, b"<html>Sign in</html>")
_KEY = json.dumps({"type": "service_account", "private_key": MARK, "token_uri": "https://oauth2.googleapis.com/token"})

# Words of the line → words of the remedy in the runbook's row
REMEDIES: Mapping[str, str] = {
    "": "wait",
    "REFRESH_TOKEN_SECRET_PREFIX": "`refresh_token_secret_prefix`",
    "nor the canary's": "deploy `infra/bootstrap` again, it makes the canary's",
    "FAILED_PRECONDITION": "enable the key's version",
    "KMS": "enable the key's version",
    "encryption key": "enable the key's version",
    "prohibited by organization's policy": "VPC Service Controls",
    "has not been used in project": "gcloud services enable",
    "ClientConnector": "DNS, firewall and NAT",
    "own credentials could not": "wait",
    "no such service account": "gcloud iam service-accounts list",
    "NO_SECRET": "gcloud secrets list",
    "the OAuth client file": f"gcloud secrets versions add {OAUTH_CLIENT}",
    "invalid_client": f"gcloud secrets versions add {OAUTH_CLIENT}",
    "not Google's": "`token_uri`",
    "deleted_client": "restored",
    "org_internal": "*Audience*",
    "DATA_PORTABILITY_API_ENDPOINT": "`HTTPS_PROXY`",
    "without a job's id": "`HTTPS_PROXY`",
    "SERVICE_DISABLED": "gcloud services enable",
    "SECRET_DISABLED": "gcloud secrets versions enable",
    "NOT_FOUND": "it makes the topic",
    "INVALID_ARGUMENT": "commits the schema",
    "publishing to": "topics get-iam-policy",
    "requires an index": "indexes fields describe",
    "cannot be read": "put the named field right",
    "unexpected": "make rollback",
    "RESOURCE_EXHAUSTED": "Quotas",
    "PERMISSION_DENIED": "`infra/bootstrap`",
    "held back": "wait",
    "was answered": "wait",
    "Certificate": "`SSL_CERT_FILE`",
    "RETRY_BUDGET_EXHAUSTED": "redrive",
    "OUTCOME_UNKNOWN": "the product starts the export",
    "INVALID_GRANT": "asks the user",
    "the ledger": "gcloud firestore databases describe",
    "refresh token": "stores the bare token",
    "MALFORMED_EVENT": "the producer",
}

STAGES: tuple[Broken, ...] = (
    Broken("wrong prefix", "fault", "token", "REFRESH_TOKEN_SECRET_PREFIX", _STOPS, settings=_WRONG_PREFIX),
    Broken(
        "wrong prefix, and no canary",
        "rejected",
        "",
        "NO_SECRET",
        _CONSENT,
        settings={**_WRONG_PREFIX, "CANARY_CREDENTIAL": ""},
    ),
    Broken(
        "the canary's secret deleted, and one user has none",
        "fault",
        "token",
        "nor the canary's",
        _ONE_STOPS,
        one=True,
        settings={"CANARY_CREDENTIAL": "deleted"},
        event={"credentialId": "other"},
    ),
    Broken("service account's key", "fault", "token", "the OAuth client file", _STOPS, _client_file(_KEY.encode())),
    Broken("token_uri answers HTML", "fault", "token", "not Google's", _STOPS, _token_answer(_HTML)),
    Broken("token_uri answers 404", "fault", "token", "not Google's", _STOPS, _token_answer(bodies(404)["html"])),
    Broken("wrong client secret", "fault", "token", "invalid_client", _STOPS, _wrong_client),
    Broken(
        "OAuth client deleted",
        "fault",
        "token",
        "deleted_client",
        _STOPS,
        _token_answer(oauth_error(401, "deleted_client")),
    ),
    Broken(
        "audience internal", "fault", "token", "org_internal", _STOPS, _token_answer(oauth_error(403, "org_internal"))
    ),
    *map(_proxied, (403, 404, 400, 407, 302)),
    Broken(
        "a proxy answers 200",
        "fault",
        "retry",
        "without a job's id",
        _STOPS | {"unknown-calls"},
        _retry_answer(bodies(200)["html"]),
    ),
    Broken(
        "API disabled",
        "fault",
        "retry",
        "SERVICE_DISABLED",
        _STOPS,
        _retry_answer(google_errors.project_refused("SERVICE_DISABLED")),
    ),
    Broken(
        "a perimeter around secrets",
        "fault",
        "token",
        "prohibited by organization's policy",
        _STOPS,
        _secrets_refuse(grpc.StatusCode.PERMISSION_DENIED, _PERIMETER),
    ),
    Broken(
        "a perimeter around topics",
        "fault",
        "publish",
        "prohibited by organization's policy",
        _STOPS,
        pubsub=_pubsub_refuses(_PERIMETER),
    ),
    Broken(
        "Secret Manager disabled",
        "fault",
        "token",
        "has not been used in project",
        _STOPS,
        _secrets_refuse(
            grpc.StatusCode.PERMISSION_DENIED,
            "Secret Manager API has not been used in project 1 before or it is disabled. Enable it by visiting https://x",
        ),
    ),
    Broken(
        "the secrets' key disabled",
        "fault",
        "token",
        "FAILED_PRECONDITION",
        _STOPS,
        _secrets_refuse(grpc.StatusCode.FAILED_PRECONDITION, _KMS),
    ),
    Broken(
        "the topics' key disabled",
        "fault",
        "publish",
        "KMS",
        _STOPS,
        pubsub=Refused(grpc.StatusCode.FAILED_PRECONDITION, _KMS),
    ),
    Broken(
        "the ledger's key disabled",
        "fault",
        "look",
        "encryption key",
        _STOPS,
        firestore=_error(
            exceptions.FailedPrecondition,
            "The customer-managed encryption key required by the requested resource is not accessible.",
        ),
    ),
    Broken(
        "the metadata server does not answer",
        "not_now",
        "token",
        "own credentials could not",
        _WAITS,
        account=TransportError("no answer", retryable=True),  # type: ignore[no-untyped-call]
    ),
    Broken(
        "the function's account deleted",
        "fault",
        "token",
        "no such service account",
        _STOPS,
        account=RefreshError("Not Found", _NotFound()),  # type: ignore[no-untyped-call]
    ),
    Broken("one token disabled", "rejected", "", "SECRET_DISABLED", breaks=_user_state(State.DISABLED), one=True),
    Broken("all tokens destroyed", "rejected", "", "SECRET_DISABLED", _CONSENT, _user_state(State.DESTROYED)),
    Broken(
        "all tokens disabled",
        "rejected",
        "",
        "SECRET_DISABLED",
        _CONSENT,
        _user_state(State.DISABLED),
    ),
    Broken(
        "rejected topic deleted",
        "fault",
        "publish",
        "NOT_FOUND",
        _STOPS,
        _revoke,
        pubsub=Refused(grpc.StatusCode.NOT_FOUND, "Resource not found (resource=archive-job-retry-rejected)."),
    ),
    Broken(
        "schema refuses the follow-up",
        "fault",
        "publish",
        "INVALID_ARGUMENT",
        _STOPS,
        pubsub=Refused(grpc.StatusCode.INVALID_ARGUMENT, "Invalid data in message: Message failed schema validation."),
    ),
    Broken(
        "topic permission missing",
        "fault",
        "publish",
        "publishing to",
        _STOPS,
        pubsub=_pubsub_refuses("User not authorized to perform this action."),
    ),
    Broken(
        "the schedule's index is missing",
        "fault",
        "due",
        "requires an index",
        frozenset({"faults", "schedule"}),
        firestore=_error(
            exceptions.FailedPrecondition, "The query requires an index. You can create it here: https://x.example"
        ),
        target="resume_deferred_retries",
    ),
    Broken(
        "a ledger entry edited by hand",
        "fault",
        "look",
        "cannot be read",
        _ONE_STOPS,
        one=True,
        firestore=_error(exceptions.AlreadyExists, "Document already exists"),
    ),
    Broken("a bug for one job", "fault", "look", "unexpected", _ONE_STOPS, one=True, firestore=KeyError("a bug")),
    Broken(
        "secrets' quota used up",
        "not_now",
        "token",
        "RESOURCE_EXHAUSTED",
        _WAITS,
        _secrets_refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded."),
    ),
    Broken(
        "no right on secrets",
        "fault",
        "token",
        "PERMISSION_DENIED",
        _STOPS,
        _secrets_refuse(grpc.StatusCode.PERMISSION_DENIED, "Permission 'secretmanager.versions.access' denied."),
    ),
    Broken("API answers 429", "not_now", "retry", "held back", _WAITS, _retry_answer(google_errors.rate_limited())),
    Broken(
        "API answers 503",
        "not_now",
        "retry",
        "was answered",
        _WAITS | {"unknown-calls"},
        _retry_answer(google_errors.unavailable()),
    ),
    Broken(
        "the API's name is not resolved",
        "not_now",
        "retry",
        "ClientConnector",
        _WAITS,
        settings={"DATA_PORTABILITY_API_ENDPOINT": "https://dataportability.invalid"},
    ),
    Broken(
        "no way to the API",
        "not_now",
        "retry",
        "ClientConnector",
        _WAITS,
        settings={"DATA_PORTABILITY_API_ENDPOINT": "https://127.0.0.1:9"},
    ),
    Broken("token endpoint answers 503", "not_now", "token", "", _WAITS, _token_answer(bodies(503)["html"])),
    Broken("certificate not trusted", "not_now", "token", "Certificate", _WAITS, tls=True),
    Broken("instances die in each call", "retried", "", "", frozenset({"unknown-calls"}), ledger=claimed(0)),
    Broken(
        "outages used the chains up",
        "rejected",
        "",
        "RETRY_BUDGET_EXHAUSTED",
        _REJECTS | {"unknown-calls"},
        ledger=claimed(2),
    ),
    Broken(
        "a call without an answer is parked",
        "rejected",
        "",
        "OUTCOME_UNKNOWN",
        frozenset({"unknown-calls"}),
        _retry_answer(google_errors.unavailable()),
        one=True,
        settings={"AMBIGUOUS_RETRY": "park"},
    ),
    Broken("one of two credentials revoked", "rejected", "", "INVALID_GRANT", one=True, breaks=_revoke),
    Broken("consent of all revoked", "rejected", "", "INVALID_GRANT", _CONSENT, _revoke),
    Broken(
        "database missing",
        "fault",
        "look",
        "the ledger",
        _STOPS,
        firestore=_error(exceptions.NotFound, "The database archive-job-retry does not exist for project p."),
    ),
    Broken(
        "database in Datastore mode",
        "fault",
        "look",
        "the ledger",
        _STOPS,
        firestore=_error(
            exceptions.FailedPrecondition,
            "The Cloud Firestore API is not available for Firestore in Datastore Mode database projects/p/databases/d.",
        ),
    ),
    Broken(
        "Firestore does not answer",
        "not_now",
        "look",
        "",
        _WAITS,
        settings={"HANDLER_DEADLINE_SECONDS": "0.6"},
        firestore=_error(exceptions.ServiceUnavailable, "unavailable"),
    ),
    _stored("in quotes", f'"{MARK}-refresh-token"'),
    _stored("as camelCase", json.dumps({"refreshToken": MARK})),
    _stored("as a list", json.dumps([MARK])),
    Broken(
        "one user's secret is rubbish",
        "fault",
        "token",
        "refresh token",
        _ONE_STOPS,
        _user_secret(f"user@example.com,{MARK}"),
        one=True,
    ),
    Broken("events that nobody can read", "rejected", "", "MALFORMED_EVENT", _REJECTS, event={"archiveJobId": 7}),
    Broken("a clock ahead by 20 minutes", "retried", "", "", ahead=timedelta(minutes=20)),
)
