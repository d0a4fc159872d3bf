"""The checks name what is broken, and what to do; they ask for no retry."""

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.auth.credentials import Credentials
from google.cloud.firestore_admin_v1.types import Field, GetFieldRequest
from google.cloud.firestore_v1.types import CommitRequest
from google.pubsub_v1 import SchemaServiceAsyncClient, types
from google.pubsub_v1.services.schema_service.transports.grpc_asyncio import SchemaServiceGrpcAsyncIOTransport
from msgspec.structs import replace

from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import Transient
from handlers.google.account import Account
from handlers.google.http_client import HttpClient
from handlers.google.oauth import OTHER_CLIENT
from handlers.settings import from_environment
from local.google_apis import MARK
from local.grpc_service import service, serving
from local.http_server import HttpServer
from local.oauth_answers import UNAUTHORIZED_CLIENT
from local.scripted import ANY, Answer
from local.secrets import Fault
from local.secrets import State as SecretState
from local.stage import OAUTH_CLIENT, REFRESH_TOKEN_PREFIX, Stage
from local.topics import DEAD, FAILED, REJECTED, RETRIED
from local.topics import connected as pubsub
from ops.checks import CheckResult, State
from ops.checks.all import run_all
from ops.checks.rest import authorised_get
from ops.cloud import Cloud, connected
from tests.ops.api import Api
from tests.ops.running import here, ops

NOW = datetime.now(UTC)
SCHEMAS = Path(__file__).parents[2] / "infra" / "schemas"
PUSH = f"{FAILED}-1"
HTML = Answer(404, b"<!DOCTYPE html><title>Error 404</title>")
SECONDS = 10.0


@asynccontextmanager
async def stage_and_api(google_cloud: Any, **settings: str) -> AsyncIterator[tuple[Stage, Api]]:
    """A stage with nothing to complain of: a user, and an API that answers as Google's does."""
    async with Api() as api, Stage(**google_cloud, tls=False, settings=api.settings | settings) as stage:
        stage.add_user("alice")
        yield stage, api
        assert 0 == stage.google.counts["retry"]
        assert [] == [path for path in api.asked if path.endswith(":retry")]


@asynccontextmanager
async def cloud_of(stage: Stage, **settings: str) -> AsyncIterator[Cloud]:
    async with connected(from_environment(stage.environment | settings)) as cloud:
        yield cloud


async def lines_of(stage: Stage, settings: dict[str, str] | None = None, **how: Any) -> list[CheckResult]:
    async with cloud_of(stage, **(settings or {})) as cloud:
        return await run_all(cloud, NOW, **how)


def failures(lines: list[CheckResult]) -> dict[str, str]:
    return {line.subject: f"{line.detail} → {line.remedy}" for line in lines if line.state is State.FAILED}


async def test_sound_project_has_no_complaint(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud, CANARY_CREDENTIAL="canary") as (stage, api):
        stage.add_user("canary", consents=False)
        lines = await lines_of(stage, user="alice")
    assert {} == failures(lines)
    told = {line.subject: line.detail for line in lines if line.state is State.OK}
    assert "the token endpoint knows this client" == told[f"client file {OAUTH_CLIENT}"]
    assert "1 of them" == told[f"secrets {REFRESH_TOKEN_PREFIX}…"]
    assert "gives a token; scopes: dataportability.myactivity.search" == told["grant alice"]
    assert "time-based: myactivity.search" == told["access type alice"]
    assert "reachable (answers 401 UNAUTHENTICATED CREDENTIALS_MISSING" in told[f"API {api.url}"]
    assert {"canary canary", f"topic {FAILED}", f"subscription {PUSH}", "due entries", "indexes for ops"} <= set(told)


# Pub/Sub


Break = Callable[["Admin"], Awaitable[object]]


class Admin:
    """What breaks a project's topics and subscriptions."""

    def __init__(self, project: str, publisher: Any, subscriber: Any) -> None:
        self._project = f"projects/{project}"
        self._publisher, self._subscriber = publisher, subscriber

    async def delete_topic(self, name: str) -> None:
        await self._publisher.delete_topic(topic=f"{self._project}/topics/{name}", timeout=SECONDS)

    async def make_topic(self, name: str) -> None:
        await self._publisher.create_topic(name=f"{self._project}/topics/{name}", timeout=SECONDS)

    async def delete_subscription(self, name: str) -> None:
        await self._subscriber.delete_subscription(
            subscription=f"{self._project}/subscriptions/{name}", timeout=SECONDS
        )

    async def push_again(self, endpoint: str, account: str = "", **settings: Any) -> None:
        await self.delete_subscription(PUSH)
        await self.push(PUSH, FAILED, endpoint, account, **settings)

    async def push(self, name: str, topic: str, endpoint: str, account: str = "", **settings: Any) -> None:
        names = {"name": f"{self._project}/subscriptions/{name}", "topic": f"{self._project}/topics/{topic}"}
        oidc = types.PushConfig.OidcToken(service_account_email=account) if account else None
        push = types.PushConfig(push_endpoint=endpoint, oidc_token=oidc)
        request = types.Subscription(**names, push_config=push, **settings)
        await self._subscriber.create_subscription(request=request, timeout=SECONDS)

    async def give_schema(self, topic: str, definition: str, *, gone: bool = False) -> None:
        """To a topic that is made anew for it, with its subscription."""
        transport = SchemaServiceGrpcAsyncIOTransport(channel=self._publisher.transport.grpc_channel)
        schemas, name = SchemaServiceAsyncClient(transport=transport), f"{self._project}/schemas/{topic}"
        schema = types.Schema(type_=types.Schema.Type.AVRO, definition=definition)
        await schemas.create_schema(parent=self._project, schema=schema, schema_id=topic, timeout=SECONDS)
        await self.delete_topic(topic)
        await self.delete_subscription(topic)
        settings = types.SchemaSettings(schema=name, encoding=types.Encoding.JSON)
        request = types.Topic(name=f"{self._project}/topics/{topic}", schema_settings=settings)
        await self._publisher.create_topic(request=request, timeout=SECONDS)
        subscription = types.Subscription(name=f"{self._project}/subscriptions/{topic}", topic=request.name)
        await self._subscriber.create_subscription(request=subscription, timeout=SECONDS)
        if gone:
            await schemas.delete_schema(name=name, timeout=SECONDS)


REJECTED_SCHEMA = (SCHEMAS / "archive_job_retry_rejected.avsc").read_text()
RETRIED_SCHEMA = (SCHEMAS / "archive_job_retried.avsc").read_text()


@asynccontextmanager
async def admin_of(stage: Stage) -> AsyncIterator[Admin]:
    async with pubsub(stage.environment["PUBSUB_EMULATOR_HOST"]) as (publisher, subscriber):
        yield Admin(stage.project, publisher, subscriber)


@pytest.mark.parametrize(
    ("broken", "subject", "said"),
    [
        (
            lambda admin: admin.delete_topic(RETRIED),
            f"topic {RETRIED}",
            "it is not there → Apply infra/bootstrap again",
        ),
        (lambda admin: admin.delete_topic(DEAD), f"topic {DEAD}", "dead letters go nowhere"),
        (
            lambda admin: admin.delete_subscription(PUSH),
            f"push from {FAILED}",
            "no subscription pushes it to the function → Deploy again",
        ),
        (lambda admin: admin.delete_subscription(REJECTED), f"subscriptions of {REJECTED}", "there is none"),
        (lambda admin: admin.push_again("https://run.invalid/"), f"subscription {PUSH}", "without an account"),
        (lambda admin: admin.push_again("http://127.0.0.1:9/"), f"subscription {PUSH}", "no dead-letter topic"),
        (
            lambda admin: admin.give_schema(RETRIED, RETRIED_SCHEMA.replace("retriedAt", "when")),
            f"topic {RETRIED}",
            "refuses the function's messages: Could not parse",
        ),
        (
            lambda admin: admin.give_schema(RETRIED, RETRIED_SCHEMA, gone=True),
            f"topic {RETRIED}",
            "Pub/Sub takes no message",
        ),
    ],
    ids=["topic", "dead topic", "push", "nobody listens", "push account", "dead letters", "schema", "no schema"],
)
async def test_broken_topic_or_subscription_is_named(google_cloud: Any, broken: Break, subject: str, said: str) -> None:
    async with stage_and_api(google_cloud) as (stage, _), admin_of(stage) as admin:
        await broken(admin)
        found = failures(await lines_of(stage))
    assert [subject] == list(found)
    assert said in found[subject]


async def test_subscription_in_another_project_is_named_and_not_read(google_cloud: Any) -> None:
    """A product's own, whose settings an operator may not see: this one would be a complaint."""
    async with (
        stage_and_api(google_cloud) as (stage, _),
        pubsub(stage.environment["PUBSUB_EMULATOR_HOST"]) as (_, subscriber),
    ):
        for topic in (FAILED, RETRIED):
            theirs = types.Subscription(
                name=f"projects/the-product/subscriptions/theirs-{topic}",
                topic=f"projects/{stage.project}/topics/{topic}",
                push_config=types.PushConfig(push_endpoint="http://127.0.0.1:9/"),
            )
            await subscriber.create_subscription(request=theirs, timeout=SECONDS)
        lines = await lines_of(stage)
    assert {} == failures(lines)
    [heard] = [line for line in lines if line.subject == f"subscriptions of {RETRIED}"]
    assert f"theirs-{RETRIED}" in heard.detail


async def test_watch_that_nobody_is_told_of_is_named(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, api), admin_of(stage) as admin:
        started, ended = api.settings["STARTED_TOPIC"], api.settings["ENDED_TOPIC"]
        await admin.make_topic(started)
        await admin.make_topic(ended)
        assert {f"push from {started}", f"subscriptions of {ended}"} == set(failures(await lines_of(stage)))
        dead = types.DeadLetterPolicy(dead_letter_topic=f"projects/{stage.project}/topics/{DEAD}")
        await admin.push("watch", started, "http://127.0.0.1:9/", dead_letter_policy=dead)
        await admin.push("others", RETRIED, "http://127.0.0.1:8/")
        assert {f"push from {RETRIED} to the watch", f"subscriptions of {ended}"} == set(
            failures(await lines_of(stage))
        )
        await admin.push("follow-ups", RETRIED, "http://127.0.0.1:9/")
        assert {"subscription follow-ups", f"subscriptions of {ended}"} == set(failures(await lines_of(stage)))


async def test_schemas_of_the_functions_own_fields_fit(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, _), admin_of(stage) as admin:
        await admin.give_schema(RETRIED, RETRIED_SCHEMA)
        await admin.give_schema(REJECTED, REJECTED_SCHEMA)
        assert {} == failures(await lines_of(stage))


async def test_pubsub_that_does_not_answer_is_named_and_hides_nothing_else(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, _):
        lines = await lines_of(stage, {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1"})
    assert "UNAVAILABLE" in failures(lines)[f"topic {FAILED}"]
    assert f"client file {OAUTH_CLIENT}" in {line.subject for line in lines if line.state is State.OK}


# the ledger


async def test_overdue_entry_tells_that_the_schedule_does_not_run(google_cloud: Any) -> None:
    due = NOW - timedelta(hours=3)
    times: Any = {"not_before": due, "updated_at": due, "expire_at": NOW + timedelta(days=1), "event": b"an event"}
    deferred = LedgerEntry(job_id="job", root_job_id="job", retries_before=0, state="deferred", **times)
    now = datetime.now(UTC) + timedelta(hours=3)  # by the store's clock, which tells when an entry was written
    async with stage_and_api(google_cloud) as (stage, _), cloud_of(stage, DOUBT_PAUSE_SECONDS="120") as cloud:
        written = await cloud.ledger().write(replace(deferred, state="open", calls_made=2), None)
        assert {} == failures(await run_all(cloud, now - timedelta(minutes=90)))  # an hour's pause, and one of patience
        await cloud.ledger().write(deferred, written.version)
        found = failures(await run_all(cloud, now))
        await cloud.ledger("Watch").write(replace(deferred, job_id="watched"), None)
        with_look = failures(await run_all(cloud, now))
        async with cloud_of(stage, WATCH="off") as without_watch:
            assert ["due entries"] == list(failures(await run_all(without_watch, now)))
        await cloud.ledger("Watch").write(replace(deferred, job_id="edited", event=b""), None)
        assert "edited cannot be read (it is due, and has no event)" in str(failures(await run_all(cloud, NOW)))
    assert (["due entries"], ["due entries", "due looks"]) == (list(found), list(with_look))
    assert "Is the watch switched off?" in with_look["due looks"]
    assert "1 wait to be put back, the oldest for 3 h → Look at the schedule's job" in found["due entries"]


@pytest.mark.parametrize(
    ("without", "state", "said"),
    [
        ("nothing", State.OK, "entries are deleted"),
        ("archiveJobRetries", State.FAILED, "entries are kept for ever → Apply infra/bootstrap again"),
        ("archiveJobRetriesWatch", State.FAILED, "for archiveJobRetriesWatch: entries are kept for ever"),
    ],
)
async def test_expiry_that_is_missing_is_named(google_cloud: Any, without: str, state: State, said: str) -> None:
    def get_field(request: GetFieldRequest) -> Any:
        is_kept = f"/collectionGroups/{without}/" in request.name
        return Field.pb(Field(ttl_config=None if is_kept else Field.TtlConfig(state=Field.TtlConfig.State.ACTIVE)))

    admin = service("google.firestore.admin.v1.FirestoreAdmin", {"GetField": (GetFieldRequest, get_field)})
    async with stage_and_api(google_cloud) as (stage, _), serving(admin) as address:
        lines = {line.subject: line for line in await lines_of(stage, {"FIRESTORE_EMULATOR_HOST": address})}
    expiry = lines["ledger's expiry"]
    assert state is expiry.state
    assert said in f"{expiry.detail} → {expiry.remedy}"


async def test_broken_entry_is_named(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, _), cloud_of(stage) as cloud:
        database = f"projects/{stage.project}/databases/(default)"
        name = f"{database}/documents/archiveJobRetries/broken"
        fields = {"notBefore": {"timestamp_value": NOW - timedelta(minutes=1)}, "state": {"string_value": "odd"}}
        request = CommitRequest(database=database, writes=[{"update": {"name": name, "fields": fields}}])
        await (await cloud.clients.firestore()).commit(request)
        found = failures(await run_all(cloud, NOW))
    assert "ledger entry 'broken' cannot be read" in found["due entries"]
    assert "Do not delete this entry" in found["due entries"]


# OAuth client, secrets, API


BREAK_CLIENT_FILE: dict[str, Callable[[Stage], object]] = {
    "127.0.0.1 answered 404, with a body that is not Google": lambda stage: stage.google.script_token(ANY, [HTML]),
    "has no web or installed client": lambda stage: stage.secrets.add_version(OAUTH_CLIENT, "{}"),
    "answered 401 invalid_client → Is it the right client": lambda stage: stage.secrets.add_version(
        OAUTH_CLIENT, stage.google.client_file().replace(b"stand-in.apps", b"deleted.apps")
    ),
    "is disabled": lambda stage: stage.secrets.set_state(OAUTH_CLIENT, SecretState.DISABLED),
}


async def test_broken_client_file_is_named(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, _):
        for said, broken in BREAK_CLIENT_FILE.items():
            broken(stage)
            found = failures(await lines_of(stage))
            assert [f"client file {OAUTH_CLIENT}"] == list(found), said
            assert said in found[f"client file {OAUTH_CLIENT}"]


@pytest.mark.parametrize("canary", ["", "canary"])
async def test_wrong_prefix_is_named(google_cloud: Any, canary: str) -> None:
    async with stage_and_api(google_cloud, REFRESH_TOKEN_SECRET_PREFIX="other-", CANARY_CREDENTIAL=canary) as (
        stage,
        _,
    ):
        if canary:
            stage.secrets.add_version(f"other-{canary}", f"{MARK}-made-up")
        found = failures(await lines_of(stage))
    assert ["secrets other-…"] == list(found)
    assert "REFRESH_TOKEN_SECRET_PREFIX" in found["secrets other-…"]


async def test_canary_that_is_not_there_or_is_no_canary_is_named(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud, CANARY_CREDENTIAL="canary") as (stage, _):
        assert "NO_SECRET" in failures(await lines_of(stage))["canary canary"]
        stage.add_user("canary")
        assert "Google has accepted its refresh token" in failures(await lines_of(stage))["canary canary"]


async def test_endpoint_that_is_not_googles_or_does_not_answer_is_named(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, api):
        for api.answer in (HTML, Answer(403, b"<html>proxy</html>"), Answer(200, b"hello")):
            found = failures(await lines_of(stage))
            assert [f"API {api.url}"] == list(found), api.answer
            assert f"it answers {api.answer.status} by " in found[f"API {api.url}"]
            assert "with a body that is not Google's" in found[f"API {api.url}"], api.answer
        found = failures(await lines_of(stage, {"DATA_PORTABILITY_API_ENDPOINT": "http://127.0.0.1:1"}))
    assert "no answer: ClientConnectorError" in found["API http://127.0.0.1:1"]


BOBS = f"{REFRESH_TOKEN_PREFIX}bob"
BREAK_BOBS_GRANT: dict[str, Callable[[Stage], object]] = {
    "NO_SECRET": lambda stage: None,
    "INVALID_GRANT": lambda stage: stage.add_user("bob", consents=False),
    "NO_SCOPE": lambda stage: stage.add_user("bob", scope="openid"),
    "NO_REFRESH_TOKEN": lambda stage: stage.secrets.add_version(BOBS, ""),
    "without quotes": lambda stage: stage.secrets.add_version(BOBS, "'quoted'"),
    "SECRET_DISABLED) → Was it disabled by mistake? Enable it.": lambda stage: stage.secrets.set_state(
        BOBS, SecretState.DISABLED
    ),
}


async def test_users_grant_that_gives_no_token_is_named(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, _):
        for said, broken in BREAK_BOBS_GRANT.items():
            broken(stage)
            found = failures(await lines_of(stage, user="bob"))
            assert ["grant bob"] == list(found), said
            assert said in found["grant bob"]


@pytest.mark.parametrize(("client", "told"), [("of another token", OTHER_CLIENT.detail), ("broken", "client file")])
async def test_unauthorized_client_is_the_grants_fault_where_google_knows_the_client(
    google_cloud: Any, client: str, told: str
) -> None:
    async with stage_and_api(google_cloud) as (stage, _):
        token = stage.add_user("bob")
        refused = token if client == "of another token" else ANY
        stage.google.script_token(refused, itertools.repeat(UNAUTHORIZED_CLIENT))
        if client == "broken":
            stage.google.script_token(token, itertools.repeat(UNAUTHORIZED_CLIENT))
        found = failures(await lines_of(stage, user="bob"))
    assert told in found["grant bob"]


# by REST


ENABLED = {"state": "ENABLED"}


BY_REST: list[tuple[str, tuple[int, Any], str, State, str]] = [
    ("serviceusage", (200, ENABLED), "API enabled", State.OK, ""),
    ("serviceusage", (200, {"state": "DISABLED"}), "API enabled", State.FAILED, "gcloud services enable"),
    ("serviceusage", (403, {}), "API enabled", State.NOT_CHECKED, "roles/serviceusage"),
    ("cloudscheduler", (200, ENABLED), "schedule", State.OK, ""),
    ("cloudscheduler", (200, {"state": "PAUSED"}), "schedule", State.FAILED, "gcloud scheduler jobs resume"),
    ("cloudscheduler", (200, ENABLED | {"status": {"code": 7}}), "schedule", State.FAILED, "code 7"),
    ("cloudscheduler", (404, {}), "schedule", State.FAILED, "there is no job archive-job-retry-resume in here"),
    ("cloudscheduler", (403, {}), "schedule", State.NOT_CHECKED, "roles/cloudscheduler"),
    ("iam", (404, {}), f"subscription {PUSH}", State.FAILED, "push@example.invalid, which is not there"),
    ("iam", (200, {"disabled": True}), f"subscription {PUSH}", State.FAILED, "which is disabled"),
    ("iam", (403, {}), f"subscription {PUSH}", State.OK, "pushes as push@example.invalid"),
]


async def test_what_google_says_by_rest_is_told(google_cloud: Any) -> None:
    dead = types.DeadLetterPolicy(dead_letter_topic=f"projects/{google_cloud['project']}/topics/{DEAD}")
    async with stage_and_api(google_cloud) as (stage, _), admin_of(stage) as admin:
        await admin.push_again("https://run.invalid/", "push@example.invalid", dead_letter_policy=dead)
        for service, answer, subject, state, said in BY_REST:

            async def get(url: str, service: str = service, answer: tuple[int, Any] = answer) -> tuple[int, Any]:
                return answer if url.startswith(f"https://{service}.googleapis.com/") else (200, ENABLED)

            lines = {line.subject: line for line in await lines_of(stage, get=get, region="here")}
            assert state == lines[subject].state, (service, answer)
            assert said in f"{lines[subject].detail} {lines[subject].remedy}"


class Signed(Credentials):
    """Credentials that are always good for a token."""

    quota_project_id = "quota"

    def refresh(self, request: Any) -> None:
        self.token = f"{MARK}-operators-token"


async def test_rest_call_bears_the_operators_token_and_never_tells_it() -> None:
    bearers, bodies = [], {"/json": b'{"state": "ENABLED"}', "/html": b"<html>", "/list": b"[]"}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        bearers.append((request.headers["Authorization"], request.headers["x-goog-user-project"]))
        return web.Response(body=bodies[request.path])

    credentials, http = Signed(), HttpClient()  # type: ignore[no-untyped-call]
    get = authorised_get(Account(lambda **_: (credentials, "")), http)
    server = HttpServer(handle)
    await server.start()
    assert (200, ENABLED) == await get(f"{server.url}/json")
    told = []
    for path in ("html", "list"):
        with pytest.raises(Transient, match="did not answer with a JSON object") as odd:
            await get(f"{server.url}/{path}")
        told.append(odd.value)
    await server.close()
    with pytest.raises(Transient, match="did not answer: ClientConnectorError") as gone:
        await get(f"{server.url}/json")
    await http.close()
    assert bearers == [(f"Bearer {MARK}-operators-token", "quota")] * 3
    assert MARK not in f"{told}{gone.value}"


# what cannot be looked at


class Refusing(grpc.GenericRpcHandler):
    """Every service of Google's, each call of which is refused."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.refusal = code, message

    def service(self, handler_call_details: Any) -> Any:
        async def refuse(request: Any, context: Any) -> None:
            await context.abort(*self.refusal)

        return grpc.unary_unary_rpc_method_handler(refuse)


def refusing(code: grpc.StatusCode, message: str) -> AbstractAsyncContextManager[str]:
    return serving(Refusing(code, message))


async def test_missing_index_is_named(google_cloud: Any) -> None:
    index = (grpc.StatusCode.FAILED_PRECONDITION, "The query requires an index. Create it here: https://x.invalid")
    async with stage_and_api(google_cloud) as (stage, _), refusing(*index) as firestore:
        found = failures(await lines_of(stage, {"FIRESTORE_EMULATOR_HOST": firestore}))
    assert "index is missing, or still being built: apply infra/bootstrap again" in found["due entries"]
    assert "none for state, userId, reason, callsCounted" in found["indexes for ops"]


SWITCHED_OFF = [
    ("PUBSUB_EMULATOR_HOST", "pubsub", f"topic {FAILED}"),
    ("FIRESTORE_EMULATOR_HOST", "firestore", "due entries"),
    ("SECRET_MANAGER_EMULATOR_HOST", "secretmanager", f"client file {OAUTH_CLIENT}"),
]


async def test_api_that_is_switched_off_is_named(google_cloud: Any) -> None:
    off = (grpc.StatusCode.PERMISSION_DENIED, "This API has not been used in project 4711 before or it is disabled.")
    async with stage_and_api(google_cloud) as (stage, _), refusing(*off) as address:
        for host, api, subject in SWITCHED_OFF:
            found = failures(await lines_of(stage, {host: address}))
            assert f"gcloud services enable {api}.googleapis.com --project=4711; or" in found[subject]
            assert f"set-quota-project {stage.project}" in found[subject]


async def test_key_of_secrets_that_is_disabled_is_named(google_cloud: Any) -> None:
    key = Fault(grpc.StatusCode.FAILED_PRECONDITION, "Cloud KMS CryptoKeyVersion k is not enabled.")
    async with stage_and_api(google_cloud) as (stage, _):
        stage.secrets.script(ANY, itertools.repeat(key))
        found = failures(await lines_of(stage))
    assert [f"client file {OAUTH_CLIENT}"] == list(found)
    assert "enable the key's version again" in found[f"client file {OAUTH_CLIENT}"]


async def test_key_of_topics_that_is_disabled_is_named(google_cloud: Any) -> None:
    key = (grpc.StatusCode.FAILED_PRECONDITION, "Cloud KMS key k is disabled.")
    async with stage_and_api(google_cloud) as (stage, _), refusing(*key) as address:
        found = failures(await lines_of(stage, {"PUBSUB_EMULATOR_HOST": address}))
    assert "enable the key's version again" in found[f"topic {FAILED}"]


async def test_perimeter_is_named_and_no_complaint(google_cloud: Any) -> None:
    perimeter = (grpc.StatusCode.PERMISSION_DENIED, "Request is prohibited by organization's policy.")
    async with stage_and_api(google_cloud) as (stage, _), refusing(*perimeter) as address:
        lines = await lines_of(stage, {"SECRET_MANAGER_EMULATOR_HOST": address})
    assert {} == failures(lines)
    assert "VPC Service Controls" in next(line.detail for line in lines if line.subject.startswith("client file"))


async def test_missing_right_of_the_operator_is_no_complaint(google_cloud: Any) -> None:
    """A deployment's account may look at little, and its smoke test is to pass."""
    denied = (grpc.StatusCode.PERMISSION_DENIED, "no")
    hosts = ("PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST", "SECRET_MANAGER_EMULATOR_HOST")
    async with stage_and_api(google_cloud) as (stage, _), refusing(*denied) as address:
        lines = await lines_of(stage, dict.fromkeys(hosts, address))
    assert {} == failures(lines)
    unseen = {line.subject: line.detail for line in lines if line.state is State.NOT_CHECKED}
    assert "Your account lacks roles/pubsub.editor" in unseen[f"topic {FAILED}"]
    assert "Your account lacks roles/secretmanager" in unseen[f"client file {OAUTH_CLIENT}"]


async def test_command_shows_a_mark_and_a_remedy_and_fails(google_cloud: Any) -> None:
    async with stage_and_api(google_cloud) as (stage, _):
        stage.secrets.add_version(OAUTH_CLIENT, "{}")
        ran = await ops("check", **stage.environment)
    assert 1 == ran.code
    assert (
        f"\n✗ client file {OAUTH_CLIENT}: the client file in {OAUTH_CLIENT} has no web or installed client" in ran.out
    )
    assert f"✓ topic {FAILED}\n" in ran.out
    assert "\n? schedule: emulators are used\n" in ran.out


def test_missing_credentials_are_the_only_complaint(tmp_path: Path) -> None:
    ran = here("check", "--json", "--project", "p", GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "none.json"))
    assert [("credentials", "failed")] == [(line["check"], line["state"]) for line in json.loads(ran.out)]
    assert 1 == ran.code
