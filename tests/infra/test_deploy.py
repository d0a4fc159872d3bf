"""Deploying, verifying and putting back, with recording doubles of terraform, gcloud and the smoke test."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.gcloud import wrong_commands
from tests.infra.terraform import ROOT

OLD, GOOD, BAD = (f"archive-job-retry-{digit * 64}.zip" for digit in "0ab")


@dataclass(frozen=True, slots=True)
class World:
    folder: Path

    def deploy(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "DOUBLES": str(self.folder),
            "PROJECT_ID": "my-portability-project",
            **more,
        }
        script = self.folder / "infra" / "delivery" / "deploy.py"
        smoke = shlex.join([str(self.folder / "bin" / "smoke")])
        return subprocess.run(
            [sys.executable, script, *arguments, "--smoke", smoke],
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def packaged(self, archive: str) -> "World":
        (self.folder / "build" / "source_object").write_text(f"{archive}\n")
        (self.folder / "build" / archive).write_text("source")
        return self

    def deployed_before(self, archive: str) -> "World":
        (self.folder / "bucket" / archive).write_text("source")
        (self.folder / "bucket" / "verified").write_text(f"{archive}\n")
        (self.folder / "deployed").write_text(archive)
        return self

    def wrong(self, what: str, *lines: str) -> "World":
        (self.folder / what).write_text("\n".join(lines))
        return self

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    @property
    def deployed(self) -> str:
        return (self.folder / "deployed").read_text()

    @property
    def verified(self) -> str:
        path = self.folder / "bucket" / "verified"
        return path.read_text().strip() if path.exists() else ""


@pytest.fixture
def world(tmp_path: Path) -> World:
    for name in ("bin", "bucket", "build", "infra/delivery"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "infra" / "delivery" / "deploy.py", tmp_path / "infra" / "delivery")
    for name in ("terraform", "gcloud", "smoke"):
        double = tmp_path / "bin" / name
        double.write_text(
            (Path(__file__).with_name("doubles.py")).read_text().replace("env python3", f"env {sys.executable}")
        )
        double.chmod(0o755)
    return World(tmp_path)


def test_a_plan_uploads_the_archive_and_is_made_for_it(world: World) -> None:
    done = world.packaged(GOOD).deploy("plan", REGION="europe-west1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.folder / "bucket" / GOOD).exists()
    assert (world.folder / "build" / "plan").read_text() == GOOD
    plan = next(call for call in world.calls if "plan" in call)
    assert {"-var=project_id=my-portability-project", "-var=region=europe-west1", "-input=false"} < set(plan)
    init = next(call for call in world.calls if "init" in call)
    assert "-backend-config=bucket=my-portability-project-archive-job-retry-state" in init
    assert "Commit infra/.terraform.lock.hcl" in done.stdout


def test_a_deployment_that_passes_is_remembered_as_verified(world: World) -> None:
    world.deployed_before(OLD).packaged(GOOD).deploy("plan")
    done = world.deploy("apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.deployed, world.verified) == (GOOD, GOOD)


def test_a_deployment_that_fails_the_smoke_test_is_put_back_and_fails(world: World) -> None:
    world.deployed_before(OLD).packaged(BAD).wrong("broken", BAD).deploy("plan")
    done = world.deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (OLD, OLD)
    assert f"{OLD} is back, and verified." in done.stderr
    assert [call[0] for call in world.calls].count("smoke") == 2


def test_an_apply_that_fails_half_way_is_put_back_and_fails(world: World) -> None:
    world.deployed_before(OLD).packaged(BAD).deploy("plan")
    # the first apply fails after it has changed things; the second, which puts back, has its own arguments
    done = world.wrong("fails", f"terraform apply {world.folder / 'build' / 'plan'}!").deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (OLD, OLD)
    assert f"{OLD} is back, and verified." in done.stderr


def test_an_apply_that_changes_nothing_leaves_what_another_deployment_made(world: World) -> None:
    world.deployed_before(OLD).packaged(GOOD).deploy("plan")
    done = world.wrong("fails", "terraform apply").deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (OLD, OLD)
    assert "Nothing to put back" in done.stderr
    assert sum("apply" in call for call in world.calls) == 1


def test_when_the_last_verified_one_does_not_pass_either_it_says_so(world: World) -> None:
    world.deployed_before(OLD).packaged(BAD).wrong("broken", BAD, OLD).deploy("plan")
    done = world.deploy("apply")
    assert done.returncode == 1
    assert world.deployed == OLD
    assert "does not pass either" in done.stderr


def test_a_first_deployment_that_fails_has_nothing_to_put_back(world: World) -> None:
    world.packaged(BAD).wrong("broken", BAD).deploy("plan")
    done = world.deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (BAD, "")
    assert "no other verified archive" in done.stderr


def test_a_bucket_that_cannot_be_read_is_not_taken_for_an_empty_one(world: World) -> None:
    done = world.deployed_before(OLD).wrong("fails", "gcloud storage cat").deploy("rollback")
    assert done.returncode == 1
    assert "cannot be told" in done.stderr


def test_a_rollback_by_hand_takes_the_archive_that_is_named(world: World) -> None:
    world.deployed_before(GOOD)
    (world.folder / "bucket" / OLD).write_text("source")
    done = world.deploy("rollback", OLD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.deployed, world.verified) == (OLD, OLD)


def test_gcloud_is_given_commands_that_it_knows(world: World, tmp_path: Path) -> None:
    world.deployed_before(OLD).packaged(BAD).wrong("broken", BAD).deploy("plan")
    world.deploy("apply")
    world.deploy("rollback")
    commands = [shlex.join(call) for call in world.calls if call[0] == "gcloud"]
    assert {call.split()[2] for call in commands} == {"cp", "cat"}
    assert wrong_commands(commands, tmp_path) == {}


def test_nothing_is_done_without_a_project_or_an_archive(world: World) -> None:
    assert "PROJECT_ID has to be set" in world.deploy("plan", PROJECT_ID="").stderr
    assert "make package" in world.deploy("plan").stderr
    assert not (world.folder / "calls").exists()
