"""infra/ and infra/bootstrap/ are well-formed, and Terraform's own tests of them pass."""

import re
from pathlib import Path

import pytest

from tests.infra.terraform import INFRA, STANDIN, Module, copied

MODULES = pytest.mark.parametrize("within", [".", "bootstrap"], ids=["infra", "bootstrap"])


def test_every_file_is_formatted(module: Module) -> None:
    done = module.run("fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, done.stdout + done.stderr


@MODULES
def test_terraforms_own_tests_pass(module: Module, within: str) -> None:
    tests = sorted(path.name for path in (INFRA / within / "tests").glob("*.tftest.hcl"))
    filters = [f"-filter=tests/{name}" for name in tests if name not in ("example.tftest.hcl", "watch.tftest.hcl")]
    done = module.run("test", "-no-color", "-var-file=terraform.tfvars.example", *filters, within=within)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(filters) >= 1


def test_values_that_a_user_commits_do_not_reach_the_tests(tmp_path: Path) -> None:
    """README.md asks for a committed terraform.tfvars; `terraform test` would load it."""
    theirs = copied(INFRA, tmp_path / "theirs")
    for folder in (theirs, theirs / "bootstrap"):
        (folder / "terraform.tfvars").write_text("max_instances=200")
        (folder / ".terraform.lock.hcl").touch()
    copy = copied(theirs, tmp_path / "copy")
    assert [] == [
        path.name for path in copy.rglob("*") if path.suffix in (".tfvars", ".hcl") and "tests" not in path.parts
    ]
    assert (copy / "terraform.tfvars.example").exists()


def test_a_second_plan_after_an_apply_is_empty(module: Module, tmp_path: Path) -> None:
    """As far as the stand-in can tell: it keeps what it is given, and makes up what Google Cloud would."""
    if not STANDIN.exists():
        pytest.skip("the genuine provider would need a project")
    copy = module.copy(tmp_path / "infra")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").write_text("#!/bin/sh\n")  # slo.tf waits for Google
    (tmp_path / "bin" / "sleep").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{copy.environment['PATH']}"
    copy = Module(copy.folder, {**copy.environment, "PATH": path})
    for within in ("bootstrap", "."):
        versions = copy.folder / within / "versions.tf"
        versions.write_text(re.sub(r'  backend "gcs" \{.*?\n  \}\n', "", versions.read_text(), flags=re.DOTALL))
        for step in (["apply", "-auto-approve"], ["plan", "-detailed-exitcode"]):
            done = copy.run(*step, "-input=false", "-no-color", "-var-file=terraform.tfvars.example", within=within)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@MODULES
def test_variables_and_outputs_are_described_and_in_order(within: str) -> None:
    for file, kind in (("variables.tf", "variable"), ("outputs.tf", "output")):
        blocks = (INFRA / within / file).read_text().split(f'{kind} "')[1:]
        names = [block.partition('"')[0] for block in blocks]
        assert names == sorted(names)
        assert [name for name, block in zip(names, blocks, strict=True) if "description = " not in block] == []
