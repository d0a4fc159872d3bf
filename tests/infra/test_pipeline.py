"""cloudbuild.yaml fits Cloud Build's schema, and its steps are what the project and the bootstrap have."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.delivery import deploy
from tests.infra.terraform import INFRA, ROOT, Plan

_TOOLS = ROOT / ".venv-tools" / "bin"
_BUILD = ROOT / "cloudbuild.yaml"
_TO_JSON = (
    "import json, sys, ruamel.yaml as y; print(json.dumps(y.YAML(typ='safe', pure=True).load(open(sys.argv[1]))))"
)


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    done = subprocess.run([_TOOLS / "python", "-c", _TO_JSON, _BUILD], capture_output=True, text=True, check=True)
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def _seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def _targets(step: dict[str, Any]) -> list[str]:
    """The make targets of a step."""
    return list(step["args"][1:]) if step["args"][0] == "infra/delivery/pipeline.sh" else []


def test_it_fits_cloud_builds_schema_and_a_broken_one_does_not(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(_BUILD.read_text().replace("entrypoint: sh", "entry-point: sh", 1))
    line = [str(_TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.cloudbuild", "--output-format", "json"]
    done = subprocess.run([*line, str(_BUILD), str(broken)], capture_output=True, text=True, check=False)
    wrong = {Path(error["filename"]).name for error in json.loads(done.stdout)["errors"]}
    assert wrong == {"broken.yaml"}


def test_it_tests_before_it_packages_and_audits_before_it_deploys(build: dict[str, Any]) -> None:
    order = [target for step in build["steps"] for target in _targets(step)]
    assert order == ["test", "package", "sbom", "audit", "plan", "deploy"]
    assert not any(step.get("allowFailure") or step.get("allowExitCodes") for step in build["steps"])


def test_each_step_is_a_make_target_that_exists(build: dict[str, Any]) -> None:
    for target in (target for step in build["steps"] for target in _targets(step)):
        listed = subprocess.run(
            ["make", "--question", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert "No rule" not in listed.stderr, listed.stderr


def test_the_script_of_the_steps_runs_here_too() -> None:
    done = subprocess.run(
        ["sh", INFRA / "delivery" / "pipeline.sh", "help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rollback" in done.stdout


def test_every_image_is_pinned_to_an_exact_version(build: dict[str, Any]) -> None:
    for step in build["steps"]:
        assert re.search(r":\d+\.\d+\.\d+(-[a-z-]+)?(@sha256:[0-9a-f]{64})?$", step["name"]), step["name"]


def test_its_tools_are_the_projects_own_versions(build: dict[str, Any]) -> None:
    installed = re.search(r"uv==([0-9.]+)", str(build["steps"]))
    pinned = re.search(r"^uv==([0-9.]+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert installed
    assert pinned
    assert installed[1] == pinned[1]


def test_everything_has_a_time_limit_and_the_deployment_enough_of_it_to_be_put_back(build: dict[str, Any]) -> None:
    steps = {step["id"]: _seconds(step["timeout"]) for step in build["steps"]}
    assert sum(steps.values()) <= _seconds(build["timeout"]) <= 86_400
    once = deploy._TERRAFORM_SECONDS + deploy._SMOKE_SECONDS
    assert 2 * once < steps["deploy"]
    smoke = re.search(r'"--seconds", type=float, default=(\d+)', deploy.SMOKE.read_text())
    assert smoke
    assert int(smoke[1]) + 60 < deploy._SMOKE_SECONDS


def test_its_defaults_are_what_the_bootstrap_makes(build: dict[str, Any], bootstrap_plan: Plan) -> None:
    project = "my-portability-project"
    given = {name: value.replace("${PROJECT_ID}", project) for name, value in build["substitutions"].items()}
    buckets = {bucket.values["name"] for bucket in bootstrap_plan.of("storage_bucket")}
    assert {given["_SOURCE_BUCKET"], given["_STATE_BUCKET"]} == buckets
    accounts = {account.values["account_id"] for account in bootstrap_plan.of("service_account")}
    assert given["_DEPLOY_ACCOUNT"] in accounts
    trigger = bootstrap_plan.one("cloudbuild_trigger")
    assert trigger["filename"] == _BUILD.name
    assert set(trigger["substitutions"]) <= set(given)
    assert "/archive-job-retry-deploy@" in trigger["service_account"]
    assert build["serviceAccount"] == (
        "projects/$PROJECT_ID/serviceAccounts/${_DEPLOY_ACCOUNT}@$PROJECT_ID.iam.gserviceaccount.com"
    )


def test_every_substitution_is_declared_and_used(build: dict[str, Any]) -> None:
    used = set(re.findall(r"\$\{?(_[A-Z_]+)", json.dumps({k: v for k, v in build.items() if k != "substitutions"})))
    assert used == set(build["substitutions"])


def test_it_logs_to_cloud_logging_which_an_account_of_its_own_needs(build: dict[str, Any]) -> None:
    assert build["options"]["logging"] == "CLOUD_LOGGING_ONLY"


def test_the_sbom_lists_what_the_function_is_made_of_and_nothing_of_this_machine() -> None:
    quick = "SBOM_FLAGS=--no-validate"  # the tool's look at its own work takes a quarter of a minute
    done = subprocess.run(["make", "sbom", quick], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "build" / "sbom.json").read_text()
    sbom = json.loads(text)
    components = {component["purl"].rpartition("/")[2].replace("_", "-").lower() for component in sbom["components"]}
    pinned = set(
        re.findall(r"^([A-Za-z0-9._-]+==[^ ]+) \\", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )  # those without a marker
    missing = {name for name in pinned if name.replace("==", "@").replace("_", "-").lower() not in components}
    assert sbom["bomFormat"] == "CycloneDX"
    assert missing == set()
    assert str(ROOT) not in text
