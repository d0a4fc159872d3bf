"""The rules that the infrastructure keeps. Each takes a whole plan and says in sentences what breaks it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infra.delivery.smoke import CANARY
from ops.messages import WATCHED
from tests.infra import code
from tests.infra.terraform import ROOT, Plan

Problems = Iterator[str]
NUMBER = "123456789012"  # the example project's
PUBSUB_AGENT = f"service-{NUMBER}@gcp-sa-pubsub"
PRODUCT, OPERATORS = "product", "group:portability-team@example.com"  # the example's
_SEVEN_DAYS = "604800s"
_ASKED_BY_OPERATORS = {"callsCounted", "reason", "state", "userId"}  # ops list and ops forget, one at a time
_ONLY_WITH_WATCH = {"ENDED_TOPIC", "STARTED_TOPIC", "WATCH_INTERVAL_SECONDS"}
_ONLY_IF_ASKED_FOR = {"HTTPS_PROXY", "NO_PROXY", "TOKEN_HOSTS"}


def watches(plan: Plan) -> bool:
    return any(resource.values["name"] == "archive-job-retry-watch" for resource in plan.of("cloudfunctions2_function"))


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _pushes(plan: Plan) -> list[Mapping[str, Any]]:
    return [found.values for found in plan.of("pubsub_subscription") if found.values["push_config"]]


def times_are_ordered(plan: Plan) -> Problems:
    """call < handler deadline < function timeout <= lease <= ack deadline, in the code's numbers and in these."""
    settings, calls = code.settings_of(plan.function()["environment_variables"]), dict(code.timeouts())
    deadline, lease = settings.handler_deadline_seconds, settings.claim_lease_seconds
    if not calls:
        yield "No deadline of a network call was found in handlers/: has the rule lost sight of them?"
    for name, seconds in calls.items():
        if not seconds < deadline:
            yield f"{name} ({seconds:g} s) is not below the handler deadline ({deadline:g} s)."
    for function in plan.of("cloudfunctions2_function"):
        timeout = function.values["service_config"][0]["timeout_seconds"]
        if not deadline < timeout:
            yield f"The handler deadline ({deadline:g} s) is not below the function's timeout ({timeout} s)."
        if not timeout <= lease:
            yield f"The function's timeout ({timeout} s) is above the claim's lease ({lease:g} s)."
        if not (margin := settings.token_margin) >= timeout:
            yield f"A token may run out within a delivery ({timeout} s): its margin is {margin:g} s."
    for push in _pushes(plan):
        if not lease <= push["ack_deadline_seconds"]:
            yield f"The claim's lease ({lease:g} s) is above the ack deadline ({push['ack_deadline_seconds']} s)."


def environment_is_the_settings(plan: Plan) -> Problems:
    """Each environment variable is a setting, and each setting is set, but for what is for tests or not asked for."""
    environments = [f.values["service_config"][0]["environment_variables"] for f in plan.of("cloudfunctions2_function")]
    if any(environment != environments[0] for environment in environments):
        yield "The functions have different settings."
    given, known = set(environments[0]), code.setting_names()
    emulators = {name for name in known if name.endswith("_EMULATOR_HOST")}
    left_out = emulators | {name for name in known if name.startswith("OTEL_")} | _ONLY_IF_ASKED_FOR
    left_out |= set() if watches(plan) else _ONLY_WITH_WATCH
    yield from (f"{name} is no setting of the code." for name in sorted(given - known))
    yield from (f"{name} is a setting that the function is not given." for name in sorted(known - left_out - given))
    yield from (f"{name} is set, and nobody asked for it." for name in sorted(given & (left_out - emulators)))
    yield from (f"{name} is set: that is for tests." for name in sorted(given & emulators))
    try:
        code.settings_of(environments[0])
    except code.WrongSettings as wrong:
        yield str(wrong)


def settings_name_what_is_made(plan: Plan) -> Problems:
    """The topics, the database and the secrets that the functions are told of are the ones that are made."""
    given = plan.function()["environment_variables"]
    topics = {topic.values["name"] for topic in plan.of("pubsub_topic")}
    for name, topic in given.items():
        if name.endswith("_TOPIC") and topic not in topics:
            yield f"The function uses the topic {topic}, which is not made."
    if given["FIRESTORE_DATABASE"] != plan.one("firestore_database")["name"]:
        yield f"The function uses the database {given['FIRESTORE_DATABASE']}, which is not made."
    if given["RETRY_LEDGER"] != "firestore":
        yield "The ledger is not kept: with several instances, or after a restart, jobs would be retried twice."
    secrets = {secret.values["secret_id"] for secret in plan.of("secret_manager_secret")}
    for secret in (given["OAUTH_CLIENT_SECRET"], given["REFRESH_TOKEN_SECRET_PREFIX"] + given["CANARY_CREDENTIAL"]):
        if secret not in secrets:
            yield f"The function reads the secret {secret}, which is not made."
    canary = plan.one("secret_manager_secret_version")
    if not canary["secret"].endswith(given["REFRESH_TOKEN_SECRET_PREFIX"] + given["CANARY_CREDENTIAL"]):
        yield "The canary's secret is empty."


def attached_to_topics_that_are_made(plan: Plan) -> Problems:
    """Each subscription, dead-letter policy and function is of something that is made, in one module or the other."""
    topics = {topic.values["name"] for topic in plan.of("pubsub_topic")}
    accounts = {account.values["account_id"] for account in plan.of("service_account")}
    named = {found.values["topic"] for found in plan.of("pubsub_subscription")}
    named |= {
        push["dead_letter_policy"][0]["dead_letter_topic"].rpartition("/")[2]
        for push in _pushes(plan)
        if push["dead_letter_policy"]
    }
    yield from (f"There is no topic {topic}." for topic in sorted(named - topics))
    for function in plan.of("cloudfunctions2_function"):
        build, service = function.values["build_config"][0], function.values["service_config"][0]
        for account in (build["service_account"].rpartition("/")[2], service["service_account_email"]):
            if account.partition("@")[0] not in accounts:
                yield f"{function.address} uses the account {account}, which is not made."
        archive = build["source"][0]["storage_source"][0]["object"]
        told = [one["environment_variables"].get("SOURCE_OBJECT") for one in (build, service)]
        if told != [archive, archive]:  # with either, the other has to be sent
            yield f"{function.address} does not name its archive in its build and in its service."
        images = plan.one("artifact_registry_repository")
        if build["docker_repository"].rpartition("/")[2] != images["repository_id"]:
            yield f"{function.address} has its image in a repository that is not made."


def nothing_is_lost(plan: Plan) -> Problems:
    """Events are kept, backed off, dead-lettered late, and nothing lands where nobody can look."""
    for push in _pushes(plan):
        dead = push["dead_letter_policy"] or [{"dead_letter_topic": None, "max_delivery_attempts": 0}]
        wanted = "archive-job-dead" if push["name"] == "archive-job-failed-push" else "archive-job-watch-dead"
        if not str(dead[0]["dead_letter_topic"]).endswith(f"/topics/{wanted}"):
            yield f"What {push['name']} cannot deliver has no dead-letter topic of its own."
        if dead[0]["max_delivery_attempts"] < 10:
            yield "Dead letters come too soon: a delivery that meets another one's claim counts as an attempt."
        if plan.one("pubsub_topic", push["topic"])["message_retention_duration"] != _SEVEN_DAYS:
            yield f"What {push['topic']} has taken cannot be delivered again where {push['name']} is made anew."
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
        filters = {s.values["filter"] or "" for s in plan.of("pubsub_subscription") if s.values["topic"] == name}
        if not filters & {"", f'NOT attributes.userId = "{CANARY}"'}:
            yield f"What is published to {name} can land nowhere."


def data_stays_in_its_regions(plan: Plan) -> Problems:
    """Messages, secrets and the ledger rest in the region, unless others are named."""
    region = "europe-west1"
    for topic in plan.of("pubsub_topic"):
        policy = topic.values["message_storage_policy"] or [{"allowed_persistence_regions": []}]
        if policy[0]["allowed_persistence_regions"] != [region]:
            yield f"Messages of {topic.values['name']} may rest anywhere."
    for secret in plan.of("secret_manager_secret"):
        managed = secret.values["replication"][0]["user_managed"] or [{"replicas": []}]
        if [replica["location"] for replica in managed[0]["replicas"]] != [region]:
            yield f"The secret {secret.values['secret_id']} may rest anywhere."
    for kind in ("storage_bucket", "artifact_registry_repository"):
        yield from (f"{found.address} is elsewhere." for found in plan.of(kind) if found.values["location"] != region)
    if plan.one("firestore_database")["location_id"] != region:
        yield "The ledger is elsewhere."


def dead_letters_of_the_watch_are_known(plan: Plan) -> Problems:
    """`ops redrive` tells them by their subscriptions, and would take others for failed events."""
    watched = {push["name"] for push in _pushes(plan) if "archive-job-watch-dead" in str(push["dead_letter_policy"])}
    if watches(plan) and watched != set(WATCHED):
        yield f"ops redrive knows {WATCHED} as the watch's, and not {sorted(watched)}."


def what_is_old_is_deleted(plan: Plan) -> Problems:
    """Images and what was submitted do not grow for ever. Archives stay: the last verified one may be years old."""
    for bucket in plan.of("storage_bucket"):
        rules = [
            rule["condition"][0] for rule in bucket.values["lifecycle_rule"] if rule["action"][0]["type"] == "Delete"
        ]
        if not any(rule["days_since_noncurrent_time"] for rule in rules):
            yield f"{bucket.values['name']} keeps what was replaced for ever."
        if not any(rule["age"] for rule in rules) and not bucket.values["name"].endswith(("-state", "-source")):
            yield f"{bucket.values['name']} grows for ever."
    policies = plan.one("artifact_registry_repository")["cleanup_policies"]
    if {policy["action"] for policy in policies} != {"DELETE", "KEEP"}:
        yield "Images grow for ever, or the one that runs may be deleted."


def private(plan: Plan) -> Problems:
    """Only Pub/Sub and Cloud Scheduler reach the functions, with a token for them."""
    job = plan.one("cloud_scheduler_job")["http_target"][0]
    for function in plan.of("cloudfunctions2_function"):
        if function.values["service_config"][0]["ingress_settings"] != "ALLOW_INTERNAL_ONLY":
            yield f"{function.address} can be reached from the internet."
    callers = [
        ("Pub/Sub", p["push_config"][0]["push_endpoint"], p["push_config"][0]["oidc_token"]) for p in _pushes(plan)
    ]
    for caller, address, shown in (*callers, ("Cloud Scheduler", job["uri"], job["oidc_token"])):
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


# Roles on the project without a condition, and why: there is nothing narrower that IAM could tie them to.
UNCONDITIONAL = {
    ("build", "roles/logging.logWriter"): "Cloud Logging has no resource below the project to write to",
    ("deploy", "roles/logging.logWriter"): "as above",
    ("test", "roles/logging.logWriter"): "as above",
    ("check", "roles/logging.logWriter"): "as above",
    ("check", "projects/my-portability-project/roles/archiveJobRetryCheck"): "what it looks for may not be there",
    ("deploy", "projects/my-portability-project/roles/archiveJobRetryDeploy"): "what it is for does not exist yet",
    ("invoke", "roles/run.invoker"): "IAM conditions do not know Cloud Run's services, which do not exist yet",
    (PUBSUB_AGENT, "roles/pubsub.serviceAgent"): "Google's own account, with the role that Google gives it",
    (PUBSUB_AGENT, "roles/pubsub.subscriber"): "Google's own account; IAM conditions do not know subscriptions",
    (
        OPERATORS,
        "projects/my-portability-project/roles/archiveJobRetryCheck",
    ): "they run ops check, too: what it looks for may not be there",
    (OPERATORS, "roles/logging.viewer"): "people who are named; Cloud Logging has no resource for these lines",
    (OPERATORS, "roles/monitoring.viewer"): "people who are named; metrics are the project's",
    (
        PRODUCT,
        "projects/my-portability-project/roles/archiveJobRetryMakeSecrets",
    ): "a secret yet to be made has no name",
}


def nothing_on_the_whole_project_without_a_reason(plan: Plan) -> Problems:
    """A role on the project has a condition, or stands in the list with its reason."""
    found = {
        (member, role) for target, member, role, condition in plan.grants() if target == "project" and not condition
    }
    yield from (f"{member} has {role} on the whole project." for member, role in sorted(found - set(UNCONDITIONAL)))
    yield from (f"{member} has no {role} any more." for member, role in sorted(set(UNCONDITIONAL) - found))


def grants_are_what_is_used(plan: Plan) -> Problems:
    """Every account may do what its work needs, and nothing more."""
    given = plan.function()["environment_variables"]
    tokens = f'resource.name.startsWith("projects/{NUMBER}/secrets/{given["REFRESH_TOKEN_SECRET_PREFIX"]}")'
    ledger = f'resource.name == "projects/{given["GOOGLE_CLOUD_PROJECT"]}/databases/{given["FIRESTORE_DATABASE"]}"'
    buckets = {found.values["name"].rpartition("-")[2]: found.values["name"] for found in plan.of("storage_bucket")}
    reports = f'resource.name.startsWith("projects/_/buckets/{buckets["submitted"]}/objects/reports/")'
    sources = (
        f'resource.name.startsWith("projects/_/buckets/gcf-v2-sources-{NUMBER}-europe-west1") || '
        f'resource.name.startsWith("projects/_/buckets/{buckets["source"]}")'
    )
    topics: dict[str, dict[str, list[str]]] = {  # role → who → on which
        "publisher": {
            "deploy": ["archive-job-failed", "archive-job-retried", "archive-job-retry-rejected"],
            "resume": ["archive-job-failed"],
            "run": ["archive-job-retried", "archive-job-retry-rejected"],
            OPERATORS: ["archive-job-failed"],
            PRODUCT: ["archive-job-failed"],
            PUBSUB_AGENT: ["archive-job-dead"],
        },
        "subscriber": {
            "deploy": ["archive-job-failed"],
            PRODUCT: ["archive-job-retried", "archive-job-retry-rejected"],
        },
    }
    subscriptions = {
        "deploy": ["archive-job-retry-smoke"],
        OPERATORS: ["archive-job-dead", "archive-job-retry-rejected"],
        PRODUCT: ["archive-job-retried", "archive-job-retry-rejected"],
    }
    functions = ["resume", "run"]
    if watches(plan):
        functions.append("watch")
        topics["publisher"]["deploy"].append("archive-job-ended")
        topics["publisher"]["resume"].append("archive-job-started")
        topics["publisher"]["watch"] = ["archive-job-ended", "archive-job-failed", "archive-job-retry-rejected"]
        topics["publisher"][PRODUCT].append("archive-job-started")
        topics["publisher"][PUBSUB_AGENT].append("archive-job-watch-dead")
        topics["subscriber"]["deploy"] += ["archive-job-started", "archive-job-retried"]
        topics["subscriber"][PRODUCT].append("archive-job-ended")
        subscriptions[OPERATORS].append("archive-job-watch-dead")
        subscriptions[PRODUCT].append("archive-job-ended")
    readers = [name for name in functions if name != "resume"]
    wanted = {
        *(("project", member, role, "") for member, role in UNCONDITIONAL),
        *(("project", name, "roles/datastore.user", ledger) for name in (*functions, OPERATORS)),
        *(("project", name, "roles/secretmanager.secretAccessor", tokens) for name in readers),
        *(
            (f"secret {given['OAUTH_CLIENT_SECRET']}", name, "roles/secretmanager.secretAccessor", "")
            for name in readers
        ),
        ("project", PRODUCT, "roles/secretmanager.secretVersionManager", tokens),
        ("project", "build", "roles/storage.objectViewer", sources),
        ("repository archive-job-retry", "build", "roles/artifactregistry.writer", ""),
        ("repository archive-job-retry", "deploy", "roles/artifactregistry.reader", ""),
        *((f"bucket {buckets[name]}", "deploy", "roles/storage.objectUser", "") for name in ("source", "state")),
        *((f"bucket {buckets['submitted']}", name, "roles/storage.objectViewer", "") for name in ("deploy", "test")),
        (f"bucket {buckets['submitted']}", "test", "roles/storage.objectCreator", reports),
        *(
            (f"account {name}", "deploy", "roles/iam.serviceAccountUser", "")
            for name in ("build", "invoke", *functions)
        ),
        *(
            (f"topic {t}", who, f"roles/pubsub.{r}", "")
            for r, all_ in topics.items()
            for who, ts in all_.items()
            for t in ts
        ),
        *(
            (f"subscription {s}", who, "roles/pubsub.subscriber", "")
            for who, all_ in subscriptions.items()
            for s in all_
        ),
    }
    yield from (f"Missing: {grant}" for grant in sorted(wanted - plan.grants()))
    yield from (f"Too much: {grant}" for grant in sorted(plan.grants() - wanted))


def schemas_are_enforced(plan: Plan) -> Problems:
    """What the functions publish has to fit its schema in infra/schemas/, in any of its revisions."""
    wanted = {"archive-job-retried", "archive-job-retry-rejected"} | ({"archive-job-ended"} if watches(plan) else set())
    for topic in sorted(wanted):
        schema, enforced = plan.one("pubsub_schema", topic), plan.one("pubsub_topic", topic)["schema_settings"]
        if not enforced or not enforced[0]["schema"].endswith(f"/schemas/{topic}"):
            yield f"{topic} takes messages of any form."
        elif (schema["type"], enforced[0]["encoding"]) != ("AVRO", "JSON"):
            yield f"{topic} does not take JSON by an Avro schema."
        elif enforced[0].get("first_revision_id") or enforced[0].get("last_revision_id"):
            yield f"{topic} refuses what another version of a function publishes: no putting back."
        if json.loads(schema["definition"]) != json.loads(SCHEMAS[topic.replace("-", "_")].read_text()):
            yield f"{topic} has a schema that is not its own in infra/schemas/."


def the_ledger_is_kept_and_forgotten(plan: Plan) -> Problems:
    """The database is protected and can be restored, entries expire, and nothing is indexed that is not asked for."""
    database, given = plan.one("firestore_database"), plan.function()["environment_variables"]
    if database["delete_protection_state"] != "DELETE_PROTECTION_ENABLED":
        yield "The ledger can be deleted by mistake."
    if database["point_in_time_recovery_enablement"] != "POINT_IN_TIME_RECOVERY_ENABLED":
        yield "The ledger cannot be read as it was."
    if plan.one("firestore_backup_schedule")["retention"] != _SEVEN_DAYS:
        yield "The ledger is not backed up."
    collection = given["RETRY_LEDGER_COLLECTION"]
    collections = {collection, f"{collection}Watch"}  # with the watch off, too: its entries have to expire then
    fields = {(field.values["collection"], field.values["field"]): field.values for field in plan.of("firestore_field")}
    queried = code.queried_fields()
    if len(queried) > 1:
        yield f"The ledger asks for {queried} at once: that needs an index of these fields together."
    asked_for = queried | _ASKED_BY_OPERATORS
    wanted = {(name, field) for name in collections for field in ("*", "expireAt", *asked_for)}
    yield from (f"The ledger's {field} has no setting in {name}." for name, field in sorted(wanted - set(fields)))
    yield from (f"The ledger does not use {field} in {name}." for name, field in sorted(set(fields) - wanted))
    for (_, name), field in fields.items():
        indexes = (
            [index["order"] for index in field["index_config"][0]["indexes"]] if field["index_config"] else ["all"]
        )
        if name in asked_for and indexes != ["ASCENDING"]:
            yield f"The ledger asks for {name}, which is not indexed."
        if name not in asked_for and indexes:
            yield f"The ledger's field {name} is indexed, and never asked for."
        if bool(field["ttl_config"]) is not (name == "expireAt"):
            yield "Entries do not expire by expireAt, and by nothing else."
        if not field["skip_wait"]:
            yield f"The first deployment waits for {name}, which takes minutes."


def small_enough_and_big_enough(plan: Plan) -> Problems:
    """One CPU (more than one request at a time needs it whole), and a bound on what it can cost."""
    for function in plan.of("cloudfunctions2_function"):
        service = function.values["service_config"][0]
        if service["available_cpu"] != "1":
            yield f"{function.address} does not have one CPU."
        if not 1 <= service["max_instance_count"] <= 100:
            yield f"The number of instances of {function.address} is not bounded."


RULES: tuple[Callable[[Plan], Problems], ...] = (
    attached_to_topics_that_are_made,
    data_stays_in_its_regions,
    dead_letters_of_the_watch_are_known,
    environment_is_the_settings,
    grants_are_what_is_used,
    nothing_is_lost,
    nothing_on_the_whole_project_without_a_reason,
    private,
    schemas_are_enforced,
    settings_name_what_is_made,
    small_enough_and_big_enough,
    the_ledger_is_kept_and_forgotten,
    times_are_ordered,
    what_is_old_is_deleted,
)

SCHEMAS = {path.stem: path for path in (ROOT / "infra" / "schemas").glob("*.avsc")}
