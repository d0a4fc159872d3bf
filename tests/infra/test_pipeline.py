"""Both builds fit Cloud Build's schema, and their steps are what the project and the bootstrap have."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.delivery import deploy, programs
from tests.infra.terraform import INFRA, ROOT, Plan

_TOOLS = ROOT / ".venv-tools" / "bin"
_DEPLOYS = ROOT / "cloudbuild.yaml"
_TESTS = INFRA / "delivery" / "test.yaml"
_CHECKS = INFRA / "delivery" / "check.yaml"
_TO_JSON = (
    "import json, sys, ruamel.yaml as y; print(json.dumps(y.YAML(typ='safe', pure=True).load(open(sys.argv[1]))))"
)


Build = dict[str, Any]


def _read(path: Path) -> Build:
    done = subprocess.run([_TOOLS / "python", "-c", _TO_JSON, path], capture_output=True, text=True, check=True)
    parsed: Build = json.loads(done.stdout)
    return parsed


@pytest.fixture(scope="module")
def deploys() -> Build:
    return _read(_DEPLOYS)


@pytest.fixture(scope="module")
def tests() -> Build:
    return _read(_TESTS)


@pytest.fixture(scope="module")
def checks() -> Build:
    return _read(_CHECKS)


@pytest.fixture(params=["deploys", "tests", "checks"])
def build(request: pytest.FixtureRequest) -> Build:
    found: Build = request.getfixturevalue(request.param)
    return found


def _seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def _targets(step: dict[str, Any]) -> list[str]:
    """The make targets of a step."""
    return list(step["args"][1:]) if step["args"][0] == "infra/delivery/pipeline.sh" else []


def test_they_fit_cloud_builds_schema_and_a_broken_one_does_not(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(_DEPLOYS.read_text().replace("entrypoint: sh", "entry-point: sh", 1))
    line = [str(_TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.cloudbuild", "--output-format", "json"]
    done = subprocess.run(
        [*line, *map(str, (_DEPLOYS, _TESTS, _CHECKS, broken))], capture_output=True, text=True, check=False
    )
    wrong = {Path(error["filename"]).name for error in json.loads(done.stdout)["errors"]}
    assert wrong == {"broken.yaml"}


def test_it_deploys_what_has_been_tested_and_audited_and_checks_it(deploys: Build, tests: Build, checks: Build) -> None:
    assert [target for step in tests["steps"] for target in _targets(step)] == ["test", "sbom", "audit"]
    order = [target for step in deploys["steps"] for target in _targets(step)]
    assert order == ["tested", "package", "plan", "deploy"]
    assert [target for step in checks["steps"] for target in _targets(step)] == ["deployed", "checked"]
    steps = [*deploys["steps"], *tests["steps"], *checks["steps"]]
    assert not any(step.get("allowFailure") or step.get("allowExitCodes") for step in steps)


def test_what_runs_with_rights_in_the_cloud_needs_no_package_of_others() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("package", "tested", "deployed", "plan", "deploy", "smoke", "rollback"):
        rule = re.search(rf"^{target}:(.*)\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        assert rule, target
        assert "$(READY)" not in rule[1]
        assert rule[2].startswith("\t@$(PYTHON) infra/delivery/")
    for name in ("package", "deploy", "programs", "smoke"):
        code = (INFRA / "delivery" / f"{name}.py").read_text()
        imported = set(re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE))
        assert {
            module.partition(".")[0] for module in imported - {"infra.delivery.programs"}
        } <= sys.stdlib_module_names


def test_each_step_is_a_make_target_that_exists(build: Build) -> None:
    for target in (target for step in build["steps"] for target in _targets(step)):
        listed = subprocess.run(
            ["make", "--question", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert "No rule" not in listed.stderr, listed.stderr


def test_the_steps_of_a_deployment_run_one_after_the_other(tmp_path: Path) -> None:
    """With `make -j`, too, which may come from MAKEFLAGS."""
    python = tmp_path / "python"
    one = f"set -e\nmkdir {tmp_path}/busy\n{sys.executable} -c pass\nrmdir {tmp_path}/busy\n"
    python.write_text(f'#!/bin/sh\n{one}echo "$@" >>{tmp_path}/done\n')
    python.chmod(0o755)
    line = ["make", "-j4", f"PYTHON={python}", "package", "plan", "deploy"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scripts = ["package.py", "deploy.py plan", "deploy.py apply"]
    assert (tmp_path / "done").read_text().splitlines() == [f"infra/delivery/{script}" for script in scripts]


def test_the_script_of_the_steps_runs_here_too() -> None:
    done = subprocess.run(
        ["sh", INFRA / "delivery" / "pipeline.sh", "help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rollback" in done.stdout


def test_every_image_is_pinned_to_an_exact_version(build: Build) -> None:
    for step in build["steps"]:
        assert re.search(r":\d+\.\d+\.\d+(-[a-z-]+)?(@sha256:[0-9a-f]{64})?$", step["name"]), step["name"]


def test_the_builds_use_one_version_of_the_cloud_cli(deploys: Build, tests: Build, checks: Build) -> None:
    builds = [
        [step["name"] for step in build["steps"] if "cloud-cli" in step["name"]] for build in (deploys, tests, checks)
    ]
    assert all(builds)
    assert len({image for images in builds for image in images}) == 1


def test_uv_is_installed_as_it_is_pinned_with_its_hashes(build: Build) -> None:
    script = (INFRA / "delivery" / "python.sh").read_text()
    assert any(step["args"] == ["infra/delivery/python.sh"] for step in build["steps"])
    command = re.search(r"^(sed .*?) >", script, re.MULTILINE)
    assert command
    taken = subprocess.run(["sh", "-c", command[1]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line for line in taken.splitlines() if not line.lstrip().startswith("#")]
    assert re.fullmatch(r"uv==[0-9.]+ \\", lines[0])
    assert len(lines) > 5
    assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines[1:])
    assert "--require-hashes" in script


def test_no_image_is_asked_of_the_cache_of_docker_hub_alone(build: Build) -> None:
    """It keeps no image for sure. Cloud Build looks there first, and then at Docker Hub.

    https://cloud.google.com/artifact-registry/docs/pull-cached-dockerhub-images
    """
    assert [] == [step["name"] for step in build["steps"] if step["name"].startswith("mirror.gcr.io/")]


def test_everything_has_a_time_limit_and_the_deployment_enough_of_it_to_be_put_back(
    build: Build, deploys: Build, tests: Build, checks: Build
) -> None:
    assert sum(_seconds(step["timeout"]) for step in build["steps"]) <= _seconds(build["timeout"]) <= 86_400
    steps = {step["id"]: _seconds(step["timeout"]) for step in deploys["steps"]}
    once = deploy._TERRAFORM_SECONDS + programs.LAST_WORDS_SECONDS + deploy._SMOKE_SECONDS
    schemas = len(list((INFRA / "schemas").glob("*.avsc")))
    plan_back = deploy._TERRAFORM_SECONDS + programs.LAST_WORDS_SECONDS
    looks = 2 * (deploy._LOOKS_SECONDS + programs.LOOK_SECONDS)
    runs = 2 * (deploy._LOOKS_SECONDS + 4 * programs.LOOK_SECONDS)  # Terraform's state, and three functions
    init = deploy._TERRAFORM_SECONDS + programs.LAST_WORDS_SECONDS
    in_all = init + 2 * once + plan_back + looks + runs + schemas * deploy._PROBE_SECONDS
    assert in_all < steps["deploy"]
    assert _seconds(tests["timeout"]) <= deploy._TESTS_SECONDS < steps["tested"]
    [waits] = [_seconds(step["timeout"]) for step in checks["steps"] if _targets(step) == ["deployed"]]
    assert _seconds(deploys["timeout"]) <= deploy._DEPLOYMENT_SECONDS < waits
    smoke = re.search(r'"--seconds", type=float, default=(\d+)', deploy.SMOKE.read_text())
    assert smoke
    assert int(smoke[1]) + 60 < deploy._SMOKE_SECONDS


def test_their_defaults_are_what_the_bootstrap_makes(
    deploys: Build, tests: Build, checks: Build, bootstrap_plan: Plan
) -> None:
    project = "my-portability-project"
    all_ = {**deploys["substitutions"], **tests["substitutions"], **checks["substitutions"]}
    given = {name: value.replace("${PROJECT_ID}", project) for name, value in all_.items()}
    buckets = {bucket.values["name"] for bucket in bootstrap_plan.of("storage_bucket")}
    assert {given["_SOURCE_BUCKET"], given["_STATE_BUCKET"], given["_SUBMITTED_BUCKET"]} == buckets
    accounts = {account.values["account_id"] for account in bootstrap_plan.of("service_account")}
    for name, build, path in (("deploy", deploys, _DEPLOYS), ("test", tests, _TESTS), ("check", checks, _CHECKS)):
        assert given[f"_{name.upper()}_ACCOUNT"] in accounts
        trigger = bootstrap_plan.one("cloudbuild_trigger", f"archive-job-retry-{name}")
        assert trigger["filename"] == path.relative_to(ROOT).as_posix()
        assert set(trigger["substitutions"] or {}) <= {*build["substitutions"], "_REGION"}
        assert f"/archive-job-retry-{name}@" in trigger["service_account"]
        account = f"${{_{name.upper()}_ACCOUNT}}@$PROJECT_ID.iam.gserviceaccount.com"
        assert build["serviceAccount"] == f"projects/$PROJECT_ID/serviceAccounts/{account}"
    assert given["_LEDGER_DATABASE"] == bootstrap_plan.one("firestore_database")["name"]
    assert len({build["serviceAccount"] for build in (deploys, tests, checks)}) == 3
    assert "TRIGGER_NAME=archive-job-retry-{trigger}" in (INFRA / "delivery" / "deploy.py").read_text()


def test_every_substitution_is_used_and_has_a_default_but_the_region(build: Build) -> None:
    """A region that is forgotten would have every function deleted, and made in the default one."""
    used = set(re.findall(r"\$\{?(_[A-Z_]+)", json.dumps({k: v for k, v in build.items() if k != "substitutions"})))
    assert used - {"_REGION"} == set(build["substitutions"])


def test_the_triggers_give_the_region_where_a_build_takes_one(bootstrap_plan: Plan) -> None:
    for name, path in (("deploy", _DEPLOYS), ("test", _TESTS), ("check", _CHECKS)):
        given = bootstrap_plan.one("cloudbuild_trigger", f"archive-job-retry-{name}")["substitutions"] or {}
        assert ("_REGION" in given) == ("${_REGION}" in path.read_text())


def test_it_logs_to_cloud_logging_which_an_account_of_its_own_needs(build: Build) -> None:
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
