"""What infra/README.md says can be done: its commands exist, its figures are printed, its files are there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.pubsub import PubSub
from tests.infra.rules import SCHEMAS
from tests.infra.terraform import INFRA, ROOT, copied, make_doubles

README = (INFRA / "README.md").read_text()
_BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
_COMMANDS = [line for block in _BLOCKS for line in block.splitlines()]
_COMMANDS += [said for said in re.findall(r"`([^`\n]+)`", README) if "gcloud " in said and "--" in said]
# what stands for a value in them
_VALUES = {
    "$PROJECT": "my-portability-project",
    "$REGION": "europe-west1",
    "$role": "run.invoker",
    "$service": "pubsub",
    "$secret": "secret",
}
_WITHIN = re.compile(r"\$\(((?:[^()']|'[^']*')*)\)")  # $(a command)
_STEPS = README[README.index("## From an empty project") : README.index("## Deploy by Cloud Build")]
STEPS = re.findall(r"^\*\*(\d+)\. .*?(?:^```sh\n(.*?)^```)", _STEPS, re.DOTALL | re.MULTILINE)


def gcloud_commands() -> list[str]:
    """Every call of gcloud in the README, with values in it."""
    text = "\n".join(_COMMANDS)
    for name, value in _VALUES.items():
        text = text.replace(name, value)
    text = "\n".join([_WITHIN.sub("value", text), *_WITHIN.findall(text)])
    return re.findall(r"gcloud (?:[^;|)\n']|'[^']*')+", text)


def test_the_steps_are_numbered_and_each_has_commands_and_says_how_long_it_takes() -> None:
    assert [str(number) for number in range(1, 11)] == [number for number, _ in STEPS]
    for step in re.split(r"^(?=\*\*\d+\. )", _STEPS, flags=re.MULTILINE)[1:]:
        assert re.search(r"[Ss]econds|[Mm]inute|[Hh]our", step), step
        assert re.search(r"print|ends with|show", step), step


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the steps need of the project, in a git repository, with doubles of gcloud and terraform."""
    folder = tmp_path_factory.mktemp("newcomer") / "project"
    copied(INFRA, folder / "infra")
    shutil.copytree(ROOT / "handlers", folder / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "local").mkdir()
    for name in ("Makefile", "main.py", "requirements.txt", "local/find-python.sh"):
        shutil.copy(ROOT / name, folder / name)
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", "-C", folder, *arguments], check=True)
    return folder


def _walk(project: Path, world: Path, pubsub: PubSub, left_out: str = "") -> subprocess.CompletedProcess[str]:
    """The commands of all steps, one after the other in one shell that stops at the first that fails."""
    for name in ("bin", "bucket", "infra", "revisions"):
        (world / name).mkdir(parents=True)
    (world / "facts").touch()
    make_doubles(world / "bin", "gcloud", "terraform")
    for name, schema in SCHEMAS.items():
        definition = json.dumps(json.loads(schema.read_text()))
        (world / "revisions" / name.replace("_", "-")).write_text(f"{definition}\n")
    script = "\n".join(["set -eu", *(commands for number, commands in STEPS if number != left_out)])
    environment = {
        "PATH": f"{world / 'bin'}:{os.environ['PATH']}",
        "HOME": str(world),
        "DOUBLES": str(world),
        "PUBSUB_EMULATOR_HOST": pubsub.address,
        "PYTHON": sys.executable,
        "REFRESH_TOKEN": "1//made-up",
    }
    line = ["bash", "-c", script.replace("export PROJECT_ID", f"export PYTHON={sys.executable} PROJECT_ID")]
    return subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_newcomer_gets_from_the_first_command_to_the_last(project: Path, tmp_path: Path, pubsub: PubSub) -> None:
    pubsub.rejection = {"reason": "REAUTHORIZATION_REQUIRED", "cause": "INVALID_GRANT"}
    done = _walk(project, tmp_path / "world", pubsub)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^archive-job-retry-[0-9a-f]{64}\.zip#\d+ is deployed and verified\.$", done.stdout, re.MULTILINE)
    calls = [json.loads(line) for line in (tmp_path / "world" / "calls").read_text().splitlines()]
    product = "--impersonate-service-account=product@my-portability-project.iam.gserviceaccount.com"
    assert [True, True, True] == [product in call for call in calls[-3:]]
    assert ["publish", "pull"] == [call[3] for call in calls[-2:]]
    values = (project / "infra" / "bootstrap" / "terraform.tfvars").read_text()
    assert 'operators     = ["user:you@example.com"]' in values
    declared = (INFRA / "bootstrap" / "variables.tf").read_text()
    assert [] == [name for name in re.findall(r"^(\w+) ", values, re.MULTILINE) if f'variable "{name}"' not in declared]


@pytest.mark.parametrize(("step", "missing"), [("4", "product"), ("7", "OAuth client")])
def test_a_newcomer_who_leaves_a_step_out_does_not(
    step: str, missing: str, project: Path, tmp_path: Path, pubsub: PubSub
) -> None:
    """Shows that the doubles notice."""
    pubsub.rejection = {"reason": "REAUTHORIZATION_REQUIRED", "cause": "INVALID_GRANT"}
    done = _walk(project, tmp_path / "world", pubsub, left_out=step)
    assert done.returncode != 0
    assert f"there is no {missing} yet" in done.stderr


def test_every_variable_that_terraform_is_given_is_one() -> None:
    for line in _COMMANDS:
        folder = re.search(r"-chdir=infra(/bootstrap)?", line)
        declared = (INFRA / "variables.tf").read_text()
        if folder and folder[1]:
            declared = (INFRA / "bootstrap" / "variables.tf").read_text()
        for name in re.findall(r"(?:-var=|TF_VAR_)(\w+)=", line):
            assert f'variable "{name}"' in declared, name


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
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
