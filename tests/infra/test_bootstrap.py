"""The bootstrap turns on the services that are used, lets nobody in, and has the same inputs as infra/."""

import re

import pytest

from tests.infra.terraform import INFRA, Plan

# what a resource type's name begins with → the services behind it
_SERVICES = {
    "artifact_registry": {"artifactregistry"},
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
_USED_BY_PEOPLE = {"iamcredentials"}  # infra/README.md: to act as the product


def test_it_enables_the_services_that_are_used_and_no_others(plan: Plan) -> None:
    used = _USED_BY_CODE | _USED_BY_PEOPLE
    for resource in plan.resources:
        kind = resource.type.removeprefix("google_")
        if kind == "terraform_data":  # Terraform's own
            continue
        used |= next(services for start, services in _SERVICES.items() if kind.startswith(start))
    enabled = {service.values["service"] for service in plan.of("project_service")}
    assert enabled == {f"{service}.googleapis.com" for service in used}


def test_no_bucket_is_public(bootstrap_plan: Plan) -> None:
    for bucket in bootstrap_plan.of("storage_bucket"):
        assert bucket.values["public_access_prevention"] == "enforced"
        assert bucket.values["uniform_bucket_level_access"]
        assert bucket.values["versioning"][0]["enabled"]


def test_the_oauth_clients_secret_is_protected_and_accesses_to_secrets_are_logged(bootstrap_plan: Plan) -> None:
    protected = {
        s.values["secret_id"]: s.values["deletion_protection"] for s in bootstrap_plan.of("secret_manager_secret")
    }
    assert protected["dataportability-oauth-client"]
    logged = bootstrap_plan.one("project_iam_audit_config")
    assert logged["service"] == "secretmanager.googleapis.com"
    assert {"DATA_READ", "DATA_WRITE"} < {log["log_type"] for log in logged["audit_log_config"]}


def test_whatever_needs_a_service_waits_for_it() -> None:
    """On an empty project, what is made beside the enabling of its service is refused."""
    waiting = re.compile(r"depends_on += \[[^\]]*google_project_service\.this")
    first = {
        "artifact_registry_repository",
        "firestore_database",
        "project_iam_audit_config",
        "project_iam_custom_role",
        "pubsub_schema",
        "pubsub_topic",
        "secret_manager_secret",
        "service_account",
        "storage_bucket",
    }
    seen = set()
    for path in (INFRA / "bootstrap").glob("*.tf"):
        for kind, body in re.findall(
            r'^resource "google_(\w+)" .*?\n(.*?)^}', path.read_text(), re.DOTALL | re.MULTILINE
        ):
            seen.add(kind)
            assert kind not in first or waiting.search(body), f"{path.name}: {kind}"
    assert first <= seen


def _variables(folder: str) -> dict[str, str]:
    text = (INFRA / folder / "variables.tf").read_text()
    return dict(re.findall(r'^variable "(\w+)" (\{.*?^\})', text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("name", sorted(_variables(".").keys() & _variables("bootstrap").keys()))
def test_an_input_of_both_modules_is_the_same_in_both(name: str) -> None:
    assert _variables(".")[name] == _variables("bootstrap")[name]
