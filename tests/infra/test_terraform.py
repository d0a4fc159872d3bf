"""infra/ and infra/bootstrap/ are well-formed, and Terraform's own tests of them pass."""

import pytest

from tests.infra.terraform import INFRA, Module

MODULES = pytest.mark.parametrize("within", [".", "bootstrap"], ids=["infra", "bootstrap"])


def test_every_file_is_formatted(module: Module) -> None:
    done = module.run("fmt", "-check", "-recursive", "-diff", str(INFRA))
    assert done.returncode == 0, done.stdout + done.stderr


@MODULES
def test_the_module_is_valid(module: Module, within: str) -> None:
    done = module.run("validate", "-no-color", within=within)
    assert done.returncode == 0, done.stdout + done.stderr


@MODULES
def test_terraforms_own_tests_pass(module: Module, within: str) -> None:
    done = module.run("test", "-no-color", "-var-file=terraform.tfvars.example", within=within)
    assert done.returncode == 0, done.stdout + done.stderr


@MODULES
def test_variables_and_outputs_are_described_and_in_order(within: str) -> None:
    for file, kind in (("variables.tf", "variable"), ("outputs.tf", "output")):
        blocks = (INFRA / within / file).read_text().split(f'{kind} "')[1:]
        names = [block.partition('"')[0] for block in blocks]
        assert names == sorted(names)
        assert [name for name, block in zip(names, blocks, strict=True) if "description = " not in block] == []
