"""What a pusher can reach with the deploy account. Whatever is added to it turns a test red."""

import re
from dataclasses import replace

import pytest

from tests.infra.reach import Right, reach
from tests.infra.rules import NUMBER
from tests.infra.terraform import INFRA, Plan, Resource

# On the project: may be made, changed and deleted, whatever it is called
_MAKES = {
    "cloudfunctions.functions",
    "cloudscheduler.jobs",
    "logging.logMetrics",
    "logging.notificationRules",
    "monitoring.alertPolicies",
    "monitoring.dashboards",
    "monitoring.services",
    "monitoring.slos",
    "pubsub.subscriptions",
}
# permission → why the pipeline needs it on the whole project
_ON_THE_PROJECT = {
    **{
        f"{kind}.{verb}": "infra/ declares it"
        for kind in _MAKES
        for verb in ("create", "delete", "get", "list", "update")
    },
    "cloudbuild.builds.get": "have the tests of this commit passed?",
    "cloudbuild.builds.list": "have the tests of this commit passed?",
    "cloudfunctions.functions.sourceCodeSet": "a new archive",
    "cloudfunctions.operations.get": "is it done?",
    "cloudfunctions.operations.list": "is it done?",
    "cloudscheduler.jobs.enable": "the schedule",
    "cloudscheduler.jobs.fullView": "without it each plan shows the schedule changed",
    "cloudscheduler.jobs.pause": "the schedule",
    "logging.logEntries.create": "the build's log",
    "monitoring.notificationChannels.get": "who is told of alerts",
    "pubsub.schemas.commit": "a new revision of a schema",
    "pubsub.schemas.get": "a new revision of a schema",
    "pubsub.schemas.listRevisions": "a new revision of a schema",
    "run.routes.invoke": "through `invoke`, by a subscription or schedule of its own: any service",
    "run.services.get": "the function's address",
}
# through an account that it can act as, or its own
_TIED_TO_SOMETHING = {
    ("artifactregistry.repositories.downloadArtifacts", "deploy", "repository"),
    ("artifactregistry.repositories.uploadArtifacts", "build", "repository"),
    ("datastore.entities.get", "resume", "the ledger"),
    ("datastore.entities.update", "resume", "the ledger"),
    ("datastore.entities.get", "run", "the ledger"),
    ("datastore.entities.update", "run", "the ledger"),
    ("datastore.entities.get", "watch", "the ledger"),
    ("datastore.entities.update", "watch", "the ledger"),
    ("iam.serviceAccounts.actAs", "deploy", "account"),
    ("pubsub.subscriptions.consume", "deploy", "subscription"),
    (
        "pubsub.subscriptions.consume",
        "deploy",
        "topic",
    ),  # consumes nothing: a topic's role does not reach subscriptions
    ("pubsub.topics.attachSubscription", "deploy", "subscription"),
    ("pubsub.topics.attachSubscription", "deploy", "topic"),
    ("pubsub.topics.publish", "deploy", "topic"),
    ("pubsub.topics.publish", "resume", "topic"),
    ("pubsub.topics.publish", "run", "topic"),
    ("pubsub.topics.publish", "watch", "topic"),
    ("secretmanager.versions.access", "run", "secret"),
    ("secretmanager.versions.access", "run", "the tokens"),
    ("secretmanager.versions.access", "watch", "secret"),
    ("secretmanager.versions.access", "watch", "the tokens"),
    ("storage.objects.get", "build", "sources"),
    ("storage.objects.get", "deploy", "bucket"),
    ("storage.objects.list", "build", "sources"),
    ("storage.objects.list", "deploy", "bucket"),
    ("storage.objects.update", "deploy", "bucket"),
}
_CONDITIONS = {
    'resource.name == "projects/my-portability-project/databases/archive-job-retry"': "the ledger",
    f'resource.name.startsWith("projects/{NUMBER}/secrets/dataportability-refresh-token-")': "the tokens",
    f'resource.name.startsWith("projects/_/buckets/gcf-v2-sources-{NUMBER}-europe-west1") || '
    'resource.name.startsWith("projects/_/buckets/my-portability-project-archive-job-retry-source")': "sources",
}
# Whoever holds one of these can give itself all the others.
_MAKES_ITSELF_MORE = re.compile(
    r"setIamPolicy|^iam\.(roles|serviceAccountKeys)\.|^iam\.serviceAccounts\.(?!actAs$)|^resourcemanager\.|"
    r"^deploymentmanager\.|^cloudbuild\.builds\.create|^orgpolicy\.|^serviceusage\.|\.\*$"
)


def growth(plan: Plan) -> set[Right]:
    """What the deploy account reaches beyond what is written down above."""
    return {
        right
        for right in reach(plan, "deploy")
        if not (
            right.permission in _ON_THE_PROJECT
            if right.target == "project" and not right.condition
            else (right.permission, right.through, _CONDITIONS.get(right.condition, right.target.split()[0]))
            in _TIED_TO_SOMETHING
        )
    }


def test_the_pipeline_reaches_what_is_written_down_and_no_more(watch_plan: Plan) -> None:
    assert set() == growth(watch_plan)


def test_what_is_written_down_is_all_used(watch_plan: Plan) -> None:
    rights = reach(watch_plan, "deploy")
    assert set(_ON_THE_PROJECT) == {
        right.permission for right in rights if right.target == "project" and not right.condition
    }
    tied = {(r.permission, r.through, _CONDITIONS.get(r.condition, r.target.split()[0])) for r in rights}
    assert set() == _TIED_TO_SOMETHING - tied


def test_the_pipeline_can_make_itself_nobody(watch_plan: Plan) -> None:
    assert [] == [right for right in reach(watch_plan, "deploy") if _MAKES_ITSELF_MORE.search(right.permission)]


def test_the_pipeline_itself_reads_no_secret_and_no_ledger_and_no_message_but_its_own(watch_plan: Plan) -> None:
    own = {(r.permission, r.target) for r in reach(watch_plan, "deploy") if r.through == "deploy"}
    assert [] == [held for held, _ in own if held.startswith(("secretmanager.", "datastore."))]
    consumed = {target for held, target in own if held.endswith(".consume") and target.startswith("subscription ")}
    assert {"subscription archive-job-retry-smoke"} == consumed


def test_the_tests_account_can_write_its_log_and_report_and_read_what_was_submitted(plan: Plan) -> None:
    assert {
        ("logging.logEntries.create", "project"),
        ("storage.objects.create", "bucket my-portability-project-archive-job-retry-submitted"),
        ("storage.objects.get", "bucket my-portability-project-archive-job-retry-submitted"),
        ("storage.objects.list", "bucket my-portability-project-archive-job-retry-submitted"),
    } == {(right.permission, right.target) for right in reach(plan, "test")}


def test_the_checks_account_reads_settings_and_no_data_and_changes_nothing(watch_plan: Plan) -> None:
    rights = reach(watch_plan, "check")
    assert {"project"} == {right.target for right in rights}
    held = {right.permission for right in rights} - {"logging.logEntries.create"}
    assert {"get", "list", "validate"} == {permission.rpartition(".")[2] for permission in held}
    assert {
        "cloudbuild.builds",
        "cloudscheduler.jobs",
        "datastore.indexes",
        "iam.serviceAccounts",
        "pubsub.schemas",
        "pubsub.subscriptions",
        "pubsub.topics",
        "serviceusage.services",
    } == {permission.rpartition(".")[0] for permission in held}


def test_infra_grants_nothing_and_makes_nothing_that_holds_data(infra_plan: Plan) -> None:
    kinds = {resource.type for resource in infra_plan.resources}
    assert [] == [kind for kind in kinds if "_iam_" in kind or "service_account" in kind]
    assert [] == [kind for kind in kinds if re.search("bucket|database|secret|topic|key", kind)]


def test_nobody_but_the_pipeline_writes_archives_and_it_cannot_write_its_own_rights(plan: Plan) -> None:
    assert {"deploy"} == {who for target, who, _, _ in plan.grants() if target.endswith("-archive-job-retry-source")}
    assert not [target for target, _, _, _ in plan.grants() if target.endswith("-archive-job-retry-bootstrap")]
    assert "-archive-job-retry-bootstrap" in (INFRA / "bootstrap" / "versions.tf").read_text()


def _granted(plan: Plan, member: str, role: str) -> Plan:
    account = f"archive-job-retry-{member}@my-portability-project.iam.gserviceaccount.com"
    values = {"project": "my-portability-project", "member": f"serviceAccount:{account}", "role": role}
    return plan + Plan((Resource("google_project_iam_member", "more", "more", values),))


def _permitted(plan: Plan, permission: str) -> Plan:
    return Plan(
        tuple(
            replace(resource, values={**resource.values, "permissions": [*resource.values["permissions"], permission]})
            if resource.values.get("role_id") == "archiveJobRetryDeploy"
            else resource
            for resource in plan.resources
        )
    )


@pytest.mark.parametrize(
    "permission", ["run.services.setIamPolicy", "secretmanager.versions.access", "pubsub.topics.delete"]
)
def test_a_permission_that_is_added_is_found(permission: str, plan: Plan) -> None:
    assert {permission} == {right.permission for right in growth(_permitted(plan, permission))}


@pytest.mark.parametrize("member", ["deploy", "invoke", "run"])
def test_a_role_that_is_added_to_it_or_to_whom_it_can_act_as_is_found(member: str, plan: Plan) -> None:
    role = "roles/secretmanager.secretAccessor"
    assert {member} == {right.through for right in growth(_granted(plan, member, role))}


def test_a_role_of_which_nothing_is_known_is_not_passed_over(plan: Plan) -> None:
    with pytest.raises(KeyError):
        growth(_granted(plan, "run", "roles/resourcemanager.projectIamAdmin"))


@pytest.mark.parametrize(
    "permission",
    ["resourcemanager.projects.setIamPolicy", "iam.roles.update", "iam.serviceAccountKeys.create", "run.*"],
)
def test_a_permission_that_leads_to_all_others_is_known(permission: str) -> None:
    assert _MAKES_ITSELF_MORE.search(permission)
