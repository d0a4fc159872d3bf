"""The bootstrap gives the pipeline what it needs, and the means to nothing else."""

import json
import re

from tests.infra import rules
from tests.infra.terraform import Plan

# what a resource type's name begins with → the services behind it
_SERVICES = {
    "artifact_registry": {"artifactregistry"},
    "cloud_run": {"run"},
    "cloud_scheduler": {"cloudscheduler"},
    "cloudbuild": {"cloudbuild"},
    "cloudfunctions2": {"cloudfunctions", "cloudbuild", "run", "artifactregistry"},
    "firestore": {"firestore"},
    "logging": {"logging"},
    "monitoring": {"monitoring"},
    "project_iam": {"cloudresourcemanager", "iam"},
    "project_service": set(),
    "pubsub": {"pubsub"},
    "secret_manager": {"secretmanager"},
    "service_account": {"iam"},
    "storage": {"storage"},
}
_USED_BY_CODE = {"cloudtrace", "dataportability", "logging", "telemetry"}
_WITH_TRACES = {"roles/telemetry.tracesWriter"}  # infra/traces.tf; they are off in the example


def test_it_enables_the_services_that_are_used_and_no_others(plan: Plan, bootstrap_plan: Plan) -> None:
    used = set(_USED_BY_CODE)
    for resource in (*plan.resources, *bootstrap_plan.resources):
        kind = resource.type.removeprefix("google_")
        if kind == "terraform_data":  # Terraform's own
            continue
        used |= next(services for start, services in _SERVICES.items() if kind.startswith(start))
    enabled = {service.values["service"] for service in bootstrap_plan.of("project_service")}
    assert enabled == {f"{service}.googleapis.com" for service in used}


def test_it_has_no_broad_role(bootstrap_plan: Plan) -> None:
    assert list(rules.no_broad_role(bootstrap_plan)) == []


def test_nothing_is_public(bootstrap_plan: Plan) -> None:
    assert not {member for _, member, _, _ in bootstrap_plan.grants()} & {"allUsers", "allAuthenticatedUsers"}
    for bucket in bootstrap_plan.of("storage_bucket"):
        assert bucket.values["public_access_prevention"] == "enforced"
        assert bucket.values["uniform_bucket_level_access"]


def test_the_pipeline_can_read_no_secret_no_ledger_and_no_message(bootstrap_plan: Plan) -> None:
    permissions = bootstrap_plan.one("project_iam_custom_role")["permissions"]
    told = re.compile(r"^secretmanager|^datastore\.entities|\.publish$|\.consume$|actAs|^iam|^resourcemanager.*set")
    assert [permission for permission in permissions if told.search(permission)] == []


# what infra/ makes → what the pipeline may do to it, and to nothing else of these services
_RIGHTS = {
    "logging_metric": "logging.logMetrics",
    "monitoring_alert_policy": "monitoring.alertPolicies",
    "monitoring_custom_service": "monitoring.services",
    "monitoring_dashboard": "monitoring.dashboards",
    "monitoring_slo": "monitoring.slos",
}


def test_the_pipeline_can_make_metrics_alerts_and_dashboards_and_read_no_log(plan: Plan, bootstrap_plan: Plan) -> None:
    made = {resource.type.removeprefix("google_") for resource in plan.resources}
    watching = {kind for kind in made if kind.startswith(("logging_", "monitoring_"))}
    assert any("condition_matched_log" in json.dumps(policy.values) for policy in plan.of("monitoring_alert_policy"))
    kinds = [*(_RIGHTS[kind] for kind in watching), "logging.notificationRules"]
    wanted = {f"{kind}.{verb}" for kind in kinds for verb in ("create", "delete", "get", "list", "update")}
    permissions = bootstrap_plan.one("project_iam_custom_role")["permissions"]
    assert wanted == {right for right in permissions if right.startswith(("logging.", "monitoring."))}


def test_the_pipeline_can_grant_the_roles_that_infra_grants_on_the_project_and_no_others(
    plan: Plan, bootstrap_plan: Plan
) -> None:
    granted = {role for target, _, role, _ in plan.grants() if target == "project"}
    administrators = [grant for grant in bootstrap_plan.grants() if grant[2] == "roles/resourcemanager.projectIamAdmin"]
    assert [member for _, member, _, _ in administrators] == ["deploy"]
    condition = administrators[0][3]
    assert condition.startswith('api.getAttribute("iam.googleapis.com/modifiedGrantsByRole", []).hasOnly([')
    assert set(re.findall(r'"(roles/[^"]+)"', condition)) == granted | _WITH_TRACES


def test_the_pipeline_can_act_as_the_accounts_that_infra_uses_and_no_others(bootstrap_plan: Plan) -> None:
    acts_as = {target for target, member, role, _ in bootstrap_plan.grants() if role == "roles/iam.serviceAccountUser"}
    assert acts_as == {"account build", "account invoke", "account resume", "account run"}


def test_the_function_can_read_the_oauth_client(bootstrap_plan: Plan) -> None:
    readers = {grant for grant in bootstrap_plan.grants() if grant[0].startswith("secret ")}
    assert readers == {("secret dataportability-oauth-client", "run", "roles/secretmanager.secretAccessor", "")}
    assert bootstrap_plan.one("secret_manager_secret")["deletion_protection"]


def test_what_builds_the_image_can_write_images_and_logs_and_read_sources(bootstrap_plan: Plan) -> None:
    rights = {(target, role) for target, member, role, _ in bootstrap_plan.grants() if member == "build"}
    assert rights == {
        ("project", "roles/logging.logWriter"),
        ("project", "roles/storage.objectViewer"),
        ("repository archive-job-retry", "roles/artifactregistry.writer"),
    }
