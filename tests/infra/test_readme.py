"""What infra/README.md says can be done: its commands exist, its figures are printed, its files are there."""

import re
import subprocess
import sys
from pathlib import Path

from tests.infra.gcloud import wrong_commands
from tests.infra.terraform import INFRA, ROOT, Module

README = (INFRA / "README.md").read_text()
_BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
_COMMANDS = [line for block in _BLOCKS for line in block.splitlines()]
# what stands for a value in them
_VALUES = {"$PROJECT": "my-portability-project", "$REGION": "europe-west1", "$service": "pubsub", "$secret": "secret"}


def _gcloud_commands() -> list[str]:
    """Every call of gcloud in the README, with values in it."""
    text = "\n".join(_COMMANDS)
    for name, value in _VALUES.items():
        text = text.replace(name, value)
    return re.findall(r"gcloud (?:[^;|)\n']|'[^']*')+", text)


def test_the_first_job_is_retried_within_ten_commands() -> None:
    first = [line for line in _BLOCKS[0].splitlines() if not line.startswith("export ")]
    assert 0 < len(first) < 10


def test_every_gcloud_command_is_one(tmp_path: Path) -> None:
    commands = _gcloud_commands()
    assert len(commands) > 8
    assert wrong_commands(commands, tmp_path) == {}


def test_every_variable_that_terraform_is_given_is_one(module: Module) -> None:
    for line in _COMMANDS:
        folder = re.search(r"-chdir=infra(/bootstrap)?", line)
        declared = (INFRA / "variables.tf").read_text()
        if folder and folder[1]:
            declared = (INFRA / "bootstrap" / "variables.tf").read_text()
        for name in re.findall(r"(?:-var=|TF_VAR_)(\w+)=", line):
            assert f'variable "{name}"' in declared, name
    for name in ("project_id", "region", "deletion_protection"):  # exported for both
        assert f'variable "{name}"' in (INFRA / "bootstrap" / "variables.tf").read_text()


def test_the_python_snippet_is_python() -> None:
    snippet = re.search(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert snippet
    exec(compile(snippet[1], "README.md", "exec"), {})


def test_the_prices_are_the_ones_that_are_printed() -> None:
    printed = subprocess.run(
        [sys.executable, INFRA / "delivery" / "prices.py"], capture_output=True, text=True, check=True
    ).stdout
    assert f"<!-- prices -->\n{printed}<!-- /prices -->" in README


def test_every_file_that_it_links_to_is_there_and_every_terraform_file_is_linked_to() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert {link for link in links if not (INFRA / link).exists()} == set()
    assert {path.name for path in INFRA.glob("*.tf")} - links == {"outputs.tf", "versions.tf"}


def test_every_make_target_that_it_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
