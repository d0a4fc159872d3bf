"""Terraform on a copy of infra/: by the stand-in provider where it lies beside the project, else by the genuine one."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
STANDIN = ROOT.parent / "shared" / "terraform-google-standin"
_STANDIN_PYTHON = ROOT / ".venv-standin" / "bin" / "python"
_PROJECT = "my-portability-project"  # the example's


@dataclass(frozen=True, slots=True)
class Module:
    """A copy of infra/ that `terraform init` has been run in, bootstrap/ included."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, within: str = ".") -> subprocess.CompletedProcess[str]:
        """Run terraform in the copy, or in a folder within it."""
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder / within,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,  # the genuine provider is large, and takes its time to start
            check=False,
        )

    def copy(self, folder: Path) -> "Module":
        """Another copy, for a mistake to be made in."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Module(folder, self.environment)

    def replace(self, file: str, old: str, new: str) -> None:
        """Make a mistake: `old` has to be there, exactly once."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is in {file} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def plan(self, within: str = ".", test: str = "example") -> "Plan":
        """The plan of a test, with a mocked provider that makes up what is known after apply only."""
        line = ("-json", "-verbose", "-var-file=terraform.tfvars.example", f"-filter=tests/{test}.tftest.hcl")
        done = self.run("test", *line, within=within)
        messages = [json.loads(line) for line in done.stdout.splitlines()]
        plan = next((message["test_plan"] for message in messages if message["type"] == "test_plan"), None)
        assert plan, "\n".join(message["@message"] for message in messages) + done.stderr
        return Plan(tuple(_resources(plan["resource_changes"])))

    def whole_plan(self, test: str = "example") -> "Plan":
        """What bootstrap/ and infra/ make together."""
        return self.plan(".", test) + self.plan("bootstrap", test)


@dataclass(frozen=True, slots=True)
class Resource:
    type: str
    name: str
    address: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The resources (not the data sources) that are to be made."""

    resources: tuple[Resource, ...]

    def __add__(self, other: "Plan") -> "Plan":
        return Plan(self.resources + other.resources)

    def of(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type == f"google_{kind}"]

    def one(self, kind: str, name: str | None = None) -> Mapping[str, Any]:
        """The values of the only resource of this type (and this name, as Google Cloud knows it)."""
        found = [resource for resource in self.of(kind) if name is None or resource.values["name"] == name]
        assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
        return found[0].values

    def function(self, name: str = "archive-job-retry") -> Mapping[str, Any]:
        """The `service_config` of a function."""
        return dict(self.one("cloudfunctions2_function", name)["service_config"][0])

    def grants(self) -> set[tuple[str, str, str, str]]:
        """Every grant: on what, to whom, which role, under which condition ("" for none)."""
        return {
            (_target(resource), _short(resource.values["member"]), resource.values["role"], _condition(resource))
            for resource in self.resources
            if "_iam_" in resource.type and "role" in resource.values
        }


def _resources(found: list[dict[str, Any]]) -> Iterator[Resource]:
    for resource in found:
        if resource["mode"] == "managed":
            yield Resource(resource["type"], resource["name"], resource["address"], resource["change"]["after"])


def _target(grant: Resource) -> str:
    for key in ("topic", "subscription", "secret_id", "bucket", "repository", "crypto_key_id"):
        if key in grant.values:
            return f"{key.removesuffix('_id')} {grant.values[key]}"
    if "service_account_id" in grant.values:
        return f"account {_short(grant.values['service_account_id'].rpartition('/')[2])}"
    return "project"


def _short(member: str) -> str:
    return (
        member.removeprefix("serviceAccount:")
        .removesuffix(".iam.gserviceaccount.com")
        .removesuffix(f"@{_PROJECT}")
        .removeprefix("archive-job-retry-")
    )


def _condition(grant: Resource) -> str:
    return " ".join(condition["expression"] for condition in grant.values.get("condition") or [])


def copied(infra: Path, folder: Path) -> Path:
    """A copy of infra/ without what its users add: their values, their state, their provider's lock file."""
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars", "__pycache__")
    return Path(shutil.copytree(infra, folder, ignore=ignored))


def make_doubles(folder: Path, *names: str) -> None:
    """Executables by these names that do what tests/infra/doubles.py says."""
    _, _, text = Path(__file__).with_name("doubles.py").read_text().partition("\n")
    for name in names:
        (folder / name).write_text(f"#!{sys.executable} -IS\n{text}")
        (folder / name).chmod(0o755)


def prepare(folder: Path) -> Module:
    """Copy infra/ and initialise it. Skips where that is not possible; on CI that is a failure."""
    if shutil.which("terraform") is None:
        _leave_out("needs terraform on the path")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GOOGLE_"))}
    environment |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "NO_COLOR": "1"}
    if STANDIN.exists():
        setup = subprocess.run(
            [_STANDIN_PYTHON, STANDIN / "setup_mirror.py", folder / "mirror"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        environment["TF_CLI_CONFIG_FILE"] = shlex.split(setup.stdout)[1].partition("=")[2]
    else:  # the genuine provider is fetched once for both modules
        (folder / "plugins").mkdir()
        environment["TF_PLUGIN_CACHE_DIR"] = str(folder / "plugins")
    module = Module(copied(INFRA, folder / "infra"), environment)
    for within in (".", "bootstrap"):
        done = module.run("init", "-input=false", "-backend=false", "-no-color", within=within)
        if done.returncode:
            _leave_out("needs the provider, and terraform init did not reach it", done.stderr)
    return module


def _leave_out(sentence: str, detail: str = "") -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{sentence}, on CI nothing may be left out:\n{detail}")
    pytest.skip(f"{sentence}: infra/ was not looked at")
