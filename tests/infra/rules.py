"""The rules that the infrastructure keeps. Each takes what the example makes and says in sentences what breaks it."""

import asyncio
import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from handlers.entries import Entry
from handlers.firestore import FirestoreStore

import handlers
from handlers import settings, user_credentials
from tests.infra.terraform import ROOT, Plan

Problems = Iterator[str]
NUMBER = "123456789012"  # the example project's
PUBSUB_AGENT = f"service-{NUMBER}@gcp-sa-pubsub"
_SEVEN_DAYS = "604800s"


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _code_settings(plan: Plan) -> settings.Settings:
    """The function's settings, as the code itself reads them from the environment that it will have."""
    return settings.from_environment(plan.function()["environment_variables"])


def _push(plan: Plan) -> Mapping[str, Any]:
    return plan.one("pubsub_subscription", "archive-job-failed-push")


def _code_timeouts() -> Iterator[tuple[str, float]]:
    """Every deadline of a network call that the code has: module constants with TIMEOUT in their names."""
    for found in pkgutil.iter_modules(handlers.__path__):
        module = importlib.import_module(f"handlers.{found.name}")
        for name, value in vars(module).items():
            if "TIMEOUT" in name and isinstance(value, int | float):
                yield f"{found.name}.{name}", value


def times_are_ordered(plan: Plan) -> Problems:
    """call < handler deadline < function timeout <= lease <= ack deadline, in the code's numbers and in these."""
    code, function, push = _code_settings(plan), plan.function(), _push(plan)
    calls = dict(_code_timeouts())
    deadline, timeout = code.handler_deadline_seconds, function["timeout_seconds"]
    lease, ack = code.claim_lease_seconds, push["ack_deadline_seconds"]
    if not calls:
        yield "No deadline of a network call was found in handlers/: has the rule lost sight of them?"
    for name, seconds in calls.items():
        if not seconds < deadline:
            yield f"{name} ({seconds:g} s) is not below the handler deadline ({deadline:g} s)."
    if not deadline < timeout:
        yield f"The handler deadline ({deadline:g} s) is not below the function's timeout ({timeout} s)."
    if not timeout <= lease:
        yield f"The function's timeout ({timeout} s) is above the claim's lease ({lease:g} s)."
    if not lease <= ack:
        yield f"The claim's lease ({lease:g} s) is above the ack deadline ({ack} s)."
    if not user_credentials._MARGIN >= timeout:
        yield f"A token may run out within a delivery ({timeout} s): its margin is {user_credentials._MARGIN:g} s."


def environment_is_the_settings(plan: Plan) -> Problems:
    """Each environment variable is a setting, and each setting but the emulators' and the traces' is set."""
    given = set(plan.function()["environment_variables"])
    if plan.function()["environment_variables"] != plan.function("archive-job-retry-resume")["environment_variables"]:
        yield "The two functions have different settings."
    known = {field.encode_name for field in msgspec.structs.fields(settings.Settings)}
    emulators = {name for name in known if name.endswith("_EMULATOR_HOST")}
    traces = {name for name in known if name.startswith("OTEL_")}  # off, unless they are set
    yield from (f"{name} is no setting of the code." for name in sorted(given - known))
    yield from (
        f"{name} is a setting that the function is not given." for name in sorted(known - emulators - traces - given)
    )
    yield from (f"{name} is set: that is for tests." for name in sorted(given & emulators))
    try:
        _code_settings(plan)
    except settings.WrongSettings as wrong:
        yield str(wrong)


def settings_name_what_is_made(plan: Plan) -> Problems:
    """The topics and the database that the function is told of are the ones that are made."""
    code = _code_settings(plan)
    topics = {topic.values["name"] for topic in plan.of("pubsub_topic")}
    for topic in (code.failed_topic, code.retried_topic, code.rejected_topic):
        if topic not in topics:
            yield f"The function uses the topic {topic}, which is not made."
    if code.firestore_database != plan.one("firestore_database")["name"]:
        yield f"The function uses the database {code.firestore_database}, which is not made."
    if code.retry_ledger != "firestore":
        yield "The ledger is not kept: with several instances, or after a restart, jobs would be retried twice."


def nothing_is_lost(plan: Plan) -> Problems:
    """Events are kept, backed off, dead-lettered late, and nothing lands where nobody can look."""
    push = _push(plan)
    dead = push["dead_letter_policy"] or [{"dead_letter_topic": None, "max_delivery_attempts": 0}]
    if not str(dead[0]["dead_letter_topic"]).endswith("/topics/archive-job-dead"):
        yield "Events that cannot be delivered have no dead-letter topic."
    if dead[0]["max_delivery_attempts"] < 10:
        yield "Dead letters come too soon: a delivery that meets another one's claim counts as an attempt."
    back_off = (push["retry_policy"] or [{"minimum_backoff": "0s", "maximum_backoff": "0s"}])[0]
    if (_seconds(back_off["minimum_backoff"]), _seconds(back_off["maximum_backoff"])) != (10, 600):
        yield "Deliveries are not backed off from 10 to 600 seconds."
    for subscription in plan.of("pubsub_subscription"):
        if subscription.values["message_retention_duration"] != _SEVEN_DAYS:
            yield f"{subscription.address} does not keep messages for seven days."
        if (subscription.values["expiration_policy"] or [{"ttl": "31 days"}])[0]["ttl"] != "":
            yield f"{subscription.address} expires."
    for topic in plan.of("pubsub_topic"):
        name = topic.values["name"]
        reading = [s.values for s in plan.of("pubsub_subscription") if s.values["topic"] == name]
        filters = {subscription["filter"] or "" for subscription in reading}
        if not ("" in filters or any(f"NOT {kept}" in filters for kept in filters)):
            yield f"What is published to {name} can land nowhere."


def private(plan: Plan) -> Problems:
    """Only Pub/Sub reaches the function, with a token for it."""
    push, job = _push(plan)["push_config"][0], plan.one("cloud_scheduler_job")["http_target"][0]
    for function in plan.of("cloudfunctions2_function"):
        if function.values["service_config"][0]["ingress_settings"] != "ALLOW_INTERNAL_ONLY":
            yield f"{function.address} can be reached from the internet."
    for caller, address, shown in (
        ("Pub/Sub", push["push_endpoint"], push["oidc_token"]),
        ("Cloud Scheduler", job["uri"], job["oidc_token"]),
    ):
        if not re.fullmatch(r"https://[a-z0-9.-]+\.run\.app", address):
            yield f"Cloud Run takes {caller} for internal at a run.app address only."
        token = (shown or [{"service_account_email": "", "audience": ""}])[0]
        if not token["service_account_email"].startswith("archive-job-retry-invoke@"):
            yield f"{caller} shows no token of the invoker's account."
        if token["audience"] != address:
            yield f"{caller}'s token is not for the function alone."
    for target, member, role, _ in plan.grants():
        if member in ("allUsers", "allAuthenticatedUsers"):
            yield f"{target}: {role} is granted to the public."


def no_broad_role(plan: Plan) -> Problems:
    """No primitive role, no administrator's role without a condition, no unconditional right to read secrets."""
    for target, member, role, condition in plan.grants():
        if role in ("roles/owner", "roles/editor", "roles/viewer"):
            yield f"{member} has the primitive role {role} on {target}."
        if (
            target == "project"
            and not condition
            and re.search("secret|admin|owner|datastore|pubsub|storage", role, re.IGNORECASE)
        ):
            yield f"{member} has {role} on the whole project, without a condition."


def grants_are_what_is_used(plan: Plan) -> Problems:
    """Every topic, secret and database that the code uses is granted, and nothing more."""
    code = _code_settings(plan)
    prefix = f"projects/{NUMBER}/secrets/{code.refresh_token_secret_prefix}"
    database = f"projects/{code.google_cloud_project}/databases/{code.firestore_database}"
    wanted = {
        ("project", "resume", "roles/datastore.user", f'resource.name == "{database}"'),
        ("project", "run", "roles/datastore.user", f'resource.name == "{database}"'),
        ("project", "run", "roles/secretmanager.secretAccessor", f'resource.name.startsWith("{prefix}")'),
        ("service archive-job-retry", "invoke", "roles/run.invoker", ""),
        ("service archive-job-retry-resume", "invoke", "roles/run.invoker", ""),
        ("subscription archive-job-failed-push", PUBSUB_AGENT, "roles/pubsub.subscriber", ""),
        ("subscription archive-job-retry-smoke", "deploy", "roles/pubsub.subscriber", ""),
        ("topic archive-job-dead", PUBSUB_AGENT, "roles/pubsub.publisher", ""),
        (f"topic {code.failed_topic}", "deploy", "roles/pubsub.publisher", ""),
        (f"topic {code.failed_topic}", "resume", "roles/pubsub.publisher", ""),
        (f"topic {code.rejected_topic}", "run", "roles/pubsub.publisher", ""),
        (f"topic {code.retried_topic}", "run", "roles/pubsub.publisher", ""),
    }
    yield from (f"Missing: {grant}" for grant in sorted(wanted - plan.grants()))
    yield from (f"Too much: {grant}" for grant in sorted(plan.grants() - wanted))


def schemas_are_enforced(plan: Plan) -> Problems:
    """Both outgoing topics refuse what does not fit the schema in infra/schemas/."""
    for topic in ("archive-job-retried", "archive-job-retry-rejected"):
        schema = plan.one("pubsub_schema", topic)
        settings_of_topic = plan.one("pubsub_topic", topic)["schema_settings"]
        if not settings_of_topic or not settings_of_topic[0]["schema"].endswith(f"/schemas/{topic}"):
            yield f"{topic} takes messages of any form."
        elif (schema["type"], settings_of_topic[0]["encoding"]) != ("AVRO", "JSON"):
            yield f"{topic} does not take JSON by an Avro schema."
        if json.loads(schema["definition"]) not in [json.loads(p.read_text()) for p in SCHEMAS.values()]:
            yield f"{topic} has a schema that is not in infra/schemas/."


def the_ledger_is_kept_and_forgotten(plan: Plan) -> Problems:
    """The database is protected, entries expire, and nothing is indexed that is not asked for."""
    database = plan.one("firestore_database")
    collection = _code_settings(plan).retry_ledger_collection
    if database["delete_protection_state"] != "DELETE_PROTECTION_ENABLED":
        yield "The ledger can be deleted by mistake."
    fields = {field.values["field"]: field.values for field in plan.of("firestore_field")}
    written = {field.encode_name for field in msgspec.structs.fields(Entry)}
    yield from (f"The ledger's field {name} is indexed, and never asked for." for name in sorted(written - set(fields)))
    yield from (f"The ledger has no field {name}." for name in sorted(set(fields) - written))
    if [name for name, field in fields.items() if field["ttl_config"]] != ["expireAt"]:
        yield "Entries do not expire by expireAt, and by nothing else."
    asked_for = _asked_for()
    if len(asked_for) > 1:
        yield f"The ledger asks for {asked_for} at once: that needs an index of these fields together."
    for name, field in fields.items():
        if (field["collection"], field["database"]) != (collection, database["name"]):
            yield f"The field {name} is not configured in the ledger's collection."
        indexes = (
            [index["order"] for index in field["index_config"][0]["indexes"]] if field["index_config"] else ["all"]
        )
        if name in asked_for and indexes != ["ASCENDING"]:
            yield f"The ledger asks for {name}, which is not indexed."
        if name not in asked_for and indexes:
            yield f"The ledger's field {name} is indexed, and never asked for."


def _asked_for() -> set[str]:
    """The fields that the ledger's query filters and orders by, from the request that it really makes."""
    requests: list[Any] = []

    class Recorder:
        async def query(self, request: Any) -> AsyncIterator[Any]:
            requests.append(request)
            return
            yield

    store = FirestoreStore(Recorder(), project="p", database="d", collection="c")  # type: ignore[arg-type]
    asyncio.run(store.due(datetime.now(UTC), 1))
    query = requests[0].structured_query
    filtered = query.where.composite_filter.filters or [query.where]
    return {part.field_filter.field.field_path for part in filtered} | {o.field.field_path for o in query.order_by}


def small_enough_and_big_enough(plan: Plan) -> Problems:
    """One CPU (more than one request at a time needs it whole), and a bound on what it can cost."""
    function = plan.function()
    if function["available_cpu"] != "1":
        yield "The function does not have one CPU."
    if not 1 <= function["max_instance_count"] <= 100:
        yield "The number of instances is not bounded."


RULES: tuple[Callable[[Plan], Problems], ...] = (
    environment_is_the_settings,
    grants_are_what_is_used,
    no_broad_role,
    nothing_is_lost,
    private,
    schemas_are_enforced,
    settings_name_what_is_made,
    small_enough_and_big_enough,
    the_ledger_is_kept_and_forgotten,
    times_are_ordered,
)

SCHEMAS = {path.stem: path for path in (ROOT / "infra" / "schemas").glob("*.avsc")}
