"""Deploying, verifying and putting back, with recording doubles of terraform, gcloud and the smoke test."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.delivery import programs
from tests.infra.gcloud import wrong_commands
from tests.infra.terraform import ROOT, make_doubles

_CONTENT = {
    f"archive-job-retry-{hashlib.sha256(text.encode()).hexdigest()}.zip": text for text in ("old", "good", "bad")
}
OLD, GOOD, BAD = _CONTENT
PLANTED = "somebody else's"
GENERATION = "1700000000000001"  # of every object: tests/infra/doubles.py


@dataclass(frozen=True, slots=True)
class World:
    folder: Path

    def deploy(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "DOUBLES": str(self.folder),
            "PROJECT_ID": "my-portability-project",
            "REGION": "europe-west1",
            "PAUSE_SECONDS": "0.01",
            **more,
        }
        script = self.folder / "infra" / "delivery" / "deploy.py"
        smoke = shlex.join([str(self.folder / "bin" / "smoke")])
        return subprocess.run(
            [sys.executable, "-IS", script, *arguments, "--smoke", smoke],  # it needs no package
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def packaged(self, archive: str) -> "World":
        (self.folder / "build" / "source_object").write_text(f"{archive}\n")
        (self.folder / "build" / archive).write_text(_CONTENT[archive])
        return self

    def deployed_before(self, archive: str) -> "World":
        self.put(archive)
        (self.folder / "bucket" / "verified").write_text(f"{archive}#{GENERATION}\n")
        (self.folder / "deployed").write_text(archive)
        return self

    def put(self, archive: str, content: str = "") -> "World":
        (self.folder / "bucket" / archive).write_text(content or _CONTENT[archive])
        return self

    def planned(self, archive: str) -> "World":
        self.packaged(archive).deploy("plan")
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
    def running(self) -> str:
        path = self.folder / "running"
        return path.read_text() if path.exists() else self.deployed

    @property
    def verified(self) -> str:
        path = self.folder / "bucket" / "verified"
        return path.read_text().strip().removesuffix(f"#{GENERATION}") if path.exists() else ""


@pytest.fixture
def world(tmp_path: Path) -> World:
    for name in ("bin", "bucket", "build", "infra/delivery", "revisions"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(ROOT / "infra" / "schemas", tmp_path / "infra" / "schemas")
    for path in (tmp_path / "infra" / "schemas").iterdir():
        if path.stem != "archive_job_ended":  # which there is with the watch only
            known = tmp_path / "revisions" / path.stem.replace("_", "-")
            known.write_text(json.dumps(json.loads(path.read_text())) + "\n")
    for name in ("deploy.py", "programs.py"):
        shutil.copy(ROOT / "infra" / "delivery" / name, tmp_path / "infra" / "delivery")
    make_doubles(tmp_path / "bin", "terraform", "gcloud", "smoke")
    return World(tmp_path)


def test_a_plan_uploads_the_archive_and_is_made_for_it(world: World) -> None:
    done = world.packaged(GOOD).deploy("plan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.folder / "bucket" / GOOD).exists()
    assert (world.folder / "build" / "plan").read_text() == f"{GOOD}#{GENERATION}#0#"
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
    assert f"{OLD}#{GENERATION} is back, and verified." in done.stderr
    assert [call[0] for call in world.calls].count("smoke") == 2


def test_an_apply_that_fails_half_way_is_put_back_and_fails(world: World) -> None:
    world.deployed_before(OLD).packaged(BAD).deploy("plan")
    # the first apply fails after it has changed things; the second, which puts back, has a plan of its own
    done = world.wrong("fails", f"terraform apply {world.folder / 'build' / 'plan'}!").deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (OLD, OLD)
    assert f"{OLD}#{GENERATION} is back, and verified." in done.stderr


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
    (world.folder / "build").rmdir()  # as in a new clone
    done = world.put(OLD).deploy("rollback", OLD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.deployed, world.verified) == (OLD, OLD)


def test_a_rollback_by_hand_of_what_is_deployed_asks_for_another(world: World) -> None:
    """The last verified one is what is deployed, where what is wrong shows after the smoke test only."""
    done = world.deployed_before(OLD).deploy("rollback")
    assert done.returncode == 1
    assert "is what is deployed. Name another" in done.stderr


def test_a_rollback_by_hand_of_what_is_deployed_names_what_was_verified_before(world: World) -> None:
    world.put(OLD).put(GOOD).put(BAD)
    for archive in (OLD, GOOD, OLD, BAD):
        assert world.deploy("rollback", archive).returncode == 0
    done = world.deploy("rollback")
    assert (done.returncode, world.deployed) == (1, BAD)
    refused, first, second, command = done.stderr.splitlines()
    assert refused == f"FAILED: {BAD}#{GENERATION} is what is deployed. Verified before, the newest first:"
    assert (first, second) == (f"  {OLD} at 2020-09-13T14:26:40Z", f"  {GOOD} at 2020-09-13T13:26:40Z")
    line = f"make rollback PROJECT_ID=my-portability-project REGION=europe-west1 OBJECT={OLD}"
    assert command == f"To put the first of them back: {line}"


def test_a_rollback_by_hand_of_what_is_deployed_names_five_archives_at_most(world: World) -> None:
    world.deployed_before(OLD)
    for number in range(7):
        world.wrong(f"bucket/verified#160000000000000{number}", f"archive-job-retry-{number}.zip#{GENERATION}\n")
    named = re.findall(r"^  archive-job-retry-(\d)", world.deploy("rollback").stderr, re.MULTILINE)
    assert named == ["6", "5", "4", "3", "2"]


@pytest.mark.parametrize("look", ["ls", "cat gs://my-portability-project-archive-job-retry-source/verified#"])
def test_a_rollback_by_hand_where_it_cannot_be_told_what_was_verified_before_asks_for_another(
    look: str, world: World
) -> None:
    world.deployed_before(OLD).wrong("bucket/verified#1600000000000000", f"{GOOD}#{GENERATION}\n")
    done = world.wrong("fails", f"gcloud storage {look}").deploy("rollback")
    assert done.returncode == 1
    assert "is what is deployed. Name another: gcloud storage ls -l gs://my-portability-project" in done.stderr


def _change(address: str, *actions: str, before: object = None, after: object = None) -> dict[str, object]:
    """A resource's part of a plan."""
    change = {"actions": actions, "before": before, "after": after, "after_unknown": {}}
    return {"address": address, "type": address.partition(".")[0], "change": change}


_FUNCTION = 'google_cloudfunctions2_function.this["watch"]'
_OFF, _ON = ({"service_config": [{"environment_variables": given}]} for given in ({}, {"WATCH": "on"}))


@pytest.mark.parametrize(
    "change",
    [
        _change(_FUNCTION, "delete"),
        _change(_FUNCTION, "delete", "create"),
        _change(_FUNCTION, "create"),
        _change(_FUNCTION, "update", before=_ON, after=_OFF),
        _change(_FUNCTION, "update", before=_OFF, after=_ON),
    ],
    ids=lambda change: "-".join(change["change"]["actions"]),
)
def test_a_rollback_by_hand_that_would_change_more_of_a_function_than_the_source_is_refused(
    change: dict[str, object], world: World
) -> None:
    world.deployed_before(OLD).put(GOOD).wrong("changes", json.dumps([change]))
    done = world.deploy("rollback", GOOD)
    assert done.returncode == 1
    assert str(change["address"]) in done.stderr
    assert 'this["retry"]' not in done.stderr
    assert "a checkout of the commit that is deployed, with its tfvars" in done.stderr
    assert world.deployed == OLD


@pytest.mark.parametrize("actions", [["delete"], ["delete", "create"], ["create", "delete"]], ids="-".join)
@pytest.mark.parametrize("address", [_FUNCTION, 'google_pubsub_subscription.push["archive-job-failed-push"]'])
def test_a_plan_that_deletes_what_gets_events_is_refused_unless_it_is_meant(
    address: str, actions: list[str], world: World
) -> None:
    world.packaged(GOOD).wrong("changes", json.dumps([_change(address, *actions)]))
    done = world.deploy("plan")
    assert done.returncode == 1
    assert f"set ALLOW_DELETE=1:\n  {' and '.join(actions)} {address}" in done.stderr
    assert "There is no build/planned" in world.deploy("apply").stderr
    assert world.deploy("plan", ALLOW_DELETE="1").returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        _change('google_monitoring_alert_policy.this["stalled"]', "delete"),
        _change(_FUNCTION, "update", before=_ON, after=_OFF),
        _change(_FUNCTION, "delete", "create") | {"action_reason": "replace_because_tainted"},
    ],
    ids=["alert", "update", "failed-while-it-was-made"],
)
def test_a_plan_that_deletes_nothing_that_gets_events_is_made(change: dict[str, object], world: World) -> None:
    done = world.packaged(GOOD).wrong("changes", json.dumps([change])).deploy("plan")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "change",
    [
        _change('google_cloudfunctions2_function.this["resume"]', "no-op"),
        _change("data.google_project.this", "read"),
        _change('google_pubsub_subscription.push["archive-job-started-watch"]', "delete"),
        _change('google_monitoring_alert_policy.this["stalled"]', "update"),
    ],
    ids=lambda change: f"{'-'.join(change['change']['actions'])}-{change['type']}",
)
def test_a_rollback_by_hand_is_not_refused_for_what_it_leaves_alone(change: dict[str, object], world: World) -> None:
    world.deployed_before(OLD).put(GOOD).wrong("changes", json.dumps([change]))
    done = world.deploy("rollback", GOOD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.deployed == GOOD


def test_what_has_failed_beside_the_functions_does_not_keep_an_archive_from_being_put_back(world: World) -> None:
    """An alert that cannot be made fails each apply of the whole of infra/."""
    world.deployed_before(OLD).planned(BAD)
    done = world.wrong("pending", "an alert").deploy("apply")
    assert (done.returncode, world.deployed, world.verified) == (1, OLD, OLD)
    assert f"{OLD}#{GENERATION} is back, and verified." in done.stderr


def test_an_update_that_fails_is_put_back(world: World) -> None:
    """Terraform's state has it all the same: a second deployment of it would change nothing."""
    world.deployed_before(OLD).planned(BAD)
    done = world.wrong("unbuilt", BAD).deploy("apply")
    assert (done.returncode, world.deployed, world.running, world.verified) == (1, OLD, OLD, OLD)


@pytest.fixture
def cut_off(world: World) -> World:
    """An update was cut off: Terraform's state has the good archive, and the old one runs."""
    return world.deployed_before(OLD).put(GOOD).wrong("deployed", GOOD).wrong("running", OLD)


def test_a_deployment_after_one_that_was_cut_off_does_not_call_the_earlier_archive_verified(cut_off: World) -> None:
    done = cut_off.planned(GOOD).deploy("apply")
    assert (done.returncode, cut_off.verified) == (1, OLD)
    assert f"archive-job-retry runs {OLD}, archive-job-retry-resume runs {OLD}." in done.stderr
    assert cut_off.deployed == OLD  # in Terraform's state, too, so that the next deployment is an update
    assert cut_off.planned(GOOD).deploy("apply").returncode == 0
    assert (cut_off.running, cut_off.verified) == (GOOD, GOOD)


@pytest.mark.parametrize("named", [[GOOD], []], ids=["named", "not-named"])
def test_a_rollback_by_hand_to_what_was_cut_off_says_that_it_does_not_run(named: list[str], cut_off: World) -> None:
    cut_off.wrong("bucket/verified", f"{GOOD}#{GENERATION}")
    done = cut_off.deploy("rollback", *named)
    assert done.returncode == 1
    assert f"{GOOD}#{GENERATION} is not what runs: archive-job-retry runs {OLD}" in done.stderr
    assert "back, and verified" not in done.stdout


def test_an_archive_whose_revision_does_not_get_ready_is_not_called_verified(world: World) -> None:
    done = world.deployed_before(OLD).planned(GOOD).wrong("unready", GOOD).deploy("apply")
    assert (done.returncode, world.deployed, world.verified) == (1, OLD, OLD)
    assert "what it did before its last update, which has not succeeded" in done.stderr


def test_a_rollback_by_hand_that_was_overtaken_changes_nothing(world: World) -> None:
    world.deployed_before(OLD).put(GOOD).put(BAD).wrong("meanwhile", f"{BAD}: terraform plan")
    assert world.deploy("rollback", GOOD).returncode == 1
    assert (world.deployed, world.verified) == (BAD, OLD)


def test_a_deployment_that_was_overtaken_does_not_put_an_archive_over_the_one_that_has_taken_its_place(
    world: World,
) -> None:
    world.deployed_before(OLD).put(GOOD).planned(BAD).wrong("broken", BAD)
    done = world.wrong("meanwhile", f"{GOOD}: smoke").deploy("apply")
    assert done.returncode == 1
    assert world.deployed == GOOD
    assert "another deployment has taken its place" in done.stderr
    assert not (world.folder / "build" / "back").exists()


@pytest.mark.parametrize("until", [("show",), ("show", "plan"), ("show", "plan", "show")])
def test_an_archive_is_not_put_over_one_that_gets_in_place_on_the_way(until: tuple[str, ...], world: World) -> None:
    """What the last look does not see any more, Terraform does: its state has changed since the plan."""
    world.deployed_before(OLD).put(GOOD).planned(BAD).wrong("broken", BAD)
    *passed, moment = until
    passing = [f": terraform {command}" for command in passed]
    done = world.wrong("meanwhile", *passing, f"{GOOD}: terraform {moment}").deploy("apply")
    assert done.returncode == 1
    assert world.deployed == GOOD
    assert "is back" not in done.stderr


def test_an_archive_that_was_overtaken_is_not_called_verified(world: World) -> None:
    """What passed may be the other deployment's."""
    world.deployed_before(OLD).put(BAD).planned(GOOD)
    done = world.wrong("meanwhile", f"{BAD}: smoke").deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (BAD, OLD)
    assert f"is not what runs: archive-job-retry runs {BAD}" in done.stderr
    assert "another deployment has taken its place" in done.stderr


def test_a_look_that_fails_after_a_failure_is_repeated(world: World) -> None:
    world.deployed_before(OLD).planned(BAD).wrong("broken", BAD)
    done = world.wrong("fails", "terraform show?").deploy("apply")
    assert done.returncode == 1
    assert (world.deployed, world.verified) == (OLD, OLD)


@pytest.mark.parametrize("program", ["terraform", "gcloud"])
def test_a_program_that_cannot_be_run_is_named(program: str, world: World) -> None:
    world.deployed_before(OLD)
    (world.folder / "bin" / program).unlink()
    done = world.deploy("rollback", PATH=str(world.folder / "bin"))
    assert done.returncode == 1
    assert done.stderr.startswith("FAILED: ")
    assert program in done.stderr


def test_a_look_that_takes_too_long_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LOOK_SECONDS", 0.1)
    read, said = programs.read(["sleep", "60"])
    assert (read, "timed out" in said) == (False, True)


def test_the_plan_is_applied_for_the_archive_that_it_was_made_for(world: World) -> None:
    world.deployed_before(OLD).planned(GOOD).packaged(BAD)
    done = world.deploy("apply")
    assert (world.deployed, world.verified) == (GOOD, GOOD)
    assert f"{GOOD}#{GENERATION} is deployed and verified." in done.stdout


def test_an_earlier_plan_is_not_applied_after_one_that_failed(world: World) -> None:
    world.deployed_before(OLD).planned(GOOD).wrong("fails", "terraform plan").planned(BAD)
    done = world.wrong("fails").deploy("apply")
    assert "There is no build/planned: make plan" in done.stderr
    assert world.deployed == OLD


def test_a_plan_for_another_project_is_not_applied(world: World) -> None:
    done = world.deployed_before(OLD).planned(GOOD).deploy("apply", PROJECT_ID="another-project")
    assert "is for my-portability-project" in done.stderr
    assert world.deployed == OLD


def test_a_clone_serves_one_project_after_another(world: World) -> None:
    world.planned(GOOD)
    assert world.deploy("plan", PROJECT_ID="another-project").returncode == 0


def test_gcloud_is_given_commands_that_it_knows(world: World, tmp_path: Path) -> None:
    world.deployed_before(OLD).packaged(BAD).wrong("broken", BAD).deploy("plan")
    world.deploy("apply")
    world.deploy("rollback")
    (world.folder / "revisions" / "archive-job-retried").write_text("{}\n")
    world.deploy("apply")
    world.wrong("builds", '[{"status": "SUCCESS"}]').deploy("tested", COMMIT_SHA="abc")
    # its own linter stumbles over a generation
    commands = [re.sub(r"#\d+", "", shlex.join(call)) for call in world.calls if call[0] == "gcloud"]
    told = {" ".join(call.split()[1:4]) for call in commands if "storage" not in call}
    assert {"pubsub schemas list-revisions", "pubsub schemas commit", "pubsub topics publish"} < told
    assert any("builds list" in call for call in commands)
    assert wrong_commands(commands, tmp_path) == {}


def test_nothing_is_done_without_a_project_a_region_or_an_archive(world: World) -> None:
    for name in ("PROJECT_ID", "REGION"):
        assert "PROJECT_ID and REGION have to be set" in world.packaged(GOOD).deploy("plan", **{name: ""}).stderr
    (world.folder / "build" / "source_object").unlink()
    assert "make package" in world.deploy("plan").stderr
    assert "make plan" in world.packaged(GOOD).deploy("apply").stderr
    assert not (world.folder / "calls").exists()


def test_a_planted_archive_is_not_deployed(world: World) -> None:
    """Whoever can write to the bucket could put another archive there under the name that is about to be uploaded."""
    done = world.deployed_before(OLD).packaged(GOOD).put(GOOD, PLANTED).deploy("plan")
    assert done.returncode == 1
    assert "does not hold what its name says" in done.stderr
    assert not any("terraform" in call for call in world.calls)


def test_a_verified_archive_that_was_replaced_is_not_put_back(world: World) -> None:
    world.deployed_before(OLD).packaged(BAD).wrong("broken", BAD).deploy("plan")
    done = world.put(OLD, PLANTED).deploy("apply")
    assert done.returncode == 1
    assert "does not hold what its name says" in done.stderr
    assert world.deployed == BAD


def test_terraform_is_given_the_generation_that_was_looked_at(world: World) -> None:
    world.deployed_before(OLD).packaged(BAD).wrong("broken", BAD).deploy("plan")
    world.deploy("apply")
    given = [
        call for call in world.calls if call[0] == "terraform" and any("-var=source_object" in word for word in call)
    ]
    assert [True, True] == [f"-var=source_generation={GENERATION}" in call for call in given]


def test_values_of_the_project_are_used_where_there_are_some(world: World) -> None:
    own = world.folder / "infra" / "my-portability-project.tfvars"
    own.touch()
    world.packaged(GOOD).deploy("plan")
    assert f"-var-file={own}" in next(call for call in world.calls if "plan" in call)


def test_a_new_revision_of_a_schema_is_taken_before_the_function_is_deployed(world: World) -> None:
    known = world.folder / "revisions" / "archive-job-retry-rejected"
    known.write_text('{"fields": []}\n')
    world.packaged(GOOD).wrong("refused", "yes", "yes", "no").deploy("plan")
    done = world.deploy("apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(known.read_text().splitlines()) == 2
    order = [" ".join(call[:4]) for call in world.calls]
    probes = [at for at, call in enumerate(order) if call == "gcloud pubsub topics publish"]
    assert len(probes) == 3
    committed = order.index("gcloud pubsub schemas commit")
    applied = next(at for at, call in enumerate(world.calls) if call[0] == "terraform" and "apply" in call)
    assert committed < probes[0] < probes[-1] < applied
    [message] = {word.removeprefix("--message=") for word in world.calls[probes[0]] if word.startswith("--message=")}
    assert json.loads(message).items() > {"reason": "", "callsInDoubt": 0}.items()
    assert "--attribute=eventType=schema-probe,userId=deployment-smoke-test" in world.calls[probes[0]]


def test_a_schema_that_has_the_revision_is_left_alone(world: World) -> None:
    """An earlier one, too: after a commit is taken back, its function is deployed with the schema that it knows."""
    known = world.folder / "revisions" / "archive-job-retried"
    known.write_text(known.read_text() + '{"fields": []}\n')
    world.packaged(GOOD).deploy("plan")
    assert world.deploy("apply").returncode == 0
    assert not any("commit" in call or "publish" in call for call in world.calls)


def test_the_deployment_waits_for_the_tests_of_its_commit(world: World) -> None:
    waiting = ("[]", '[{"status": "QUEUED"}]', '[{"status": "WORKING"}]', '[{"status": "SUCCESS"}]')
    done = world.wrong("builds", *waiting).deploy("tested", COMMIT_SHA="abc")
    assert done.returncode == 0, done.stderr
    assert len(world.calls) == 4
    assert any("substitutions.COMMIT_SHA=abc" in word for word in world.calls[0])


def test_tests_that_fail_stop_the_deployment(world: World) -> None:
    done = world.wrong("builds", '[{"status": "FAILURE", "logUrl": "https://console"}]').deploy(
        "tested", COMMIT_SHA="abc"
    )
    assert (done.returncode, "The tests of abc: FAILURE. https://console" in done.stderr) == (1, True)


def test_the_check_waits_for_a_deployment_that_has_ended_well_or_not(world: World) -> None:
    waiting = ("[]", '[{"status": "WORKING"}]', '[{"status": "FAILURE", "logUrl": "https://console"}]')
    done = world.wrong("builds", *waiting).deploy("deployed", COMMIT_SHA="abc")
    assert (done.returncode, "The deployment of abc: FAILURE. https://console" in done.stdout) == (0, True)
    assert len(world.calls) == 3
    assert any("substitutions.TRIGGER_NAME=archive-job-retry-deploy" in word for word in world.calls[0])


def _build(commit: str, minute: int, status: str) -> dict[str, object]:
    given = {"COMMIT_SHA": commit, "TRIGGER_NAME": "archive-job-retry-deploy"}
    created = f"2026-11-26T12:{minute:02}:00.000000001Z"
    return {"substitutions": given, "createTime": created, "status": status, "logUrl": f"https://console/{minute}"}


@pytest.mark.parametrize("status", ["SUCCESS", "WORKING", "QUEUED", "PENDING"])
@pytest.mark.parametrize("again", [[], [_build("first", 30, "WORKING")]], ids=["overtaken", "tried-again"])
def test_a_commit_that_was_pushed_before_one_that_is_deployed_is_not_planned(
    again: list[dict[str, object]], status: str, world: World
) -> None:
    builds = [*again, _build("second", 20, status), _build("first", 10, "FAILURE")]
    tested = [_build("second", 20, "SUCCESS")]
    world.packaged(GOOD).wrong("builds", json.dumps(builds), json.dumps(tested))
    done = world.deploy("plan", COMMIT_SHA="first")
    assert done.returncode == 1
    assert "A later push would be undone by first: second of https://console/20" in done.stderr
    assert not (world.folder / "build" / "planned").exists()


@pytest.mark.parametrize("tests", ["WORKING", "FAILURE"])
def test_a_commit_is_planned_beside_a_later_one_whose_tests_have_not_passed(tests: str, world: World) -> None:
    builds = [_build("second", 20, "WORKING"), _build("first", 10, "WORKING")]
    world.packaged(GOOD).wrong("builds", json.dumps(builds), json.dumps([_build("second", 20, tests)]))
    done = world.deploy("plan", COMMIT_SHA="first")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("commit", ["second", "third"])
def test_the_last_commit_that_does_not_fail_is_planned(commit: str, world: World) -> None:
    """Also once more, and after a third one whose tests have failed."""
    builds = [
        _build(commit, 40, "WORKING"),
        _build("third", 30, "FAILURE"),
        _build("second", 20, "CANCELLED"),
        _build("first", 10, "SUCCESS"),
    ]
    done = world.packaged(GOOD).wrong("builds", json.dumps(builds)).deploy("plan", COMMIT_SHA=commit)
    assert done.returncode == 0, done.stderr


def test_a_later_push_is_looked_for_once_the_plan_is_made(world: World) -> None:
    """A later deployment that begins then makes the plan stale, or finds its own to be."""
    builds = json.dumps([_build("first", 10, "WORKING")])
    world.packaged(GOOD).wrong("builds", builds).deploy("plan", COMMIT_SHA="first")
    order = [call[0] if "plan" in call else call[1] for call in world.calls]
    assert order.index("terraform") < order.index("builds")


def test_a_deployment_by_hand_waits_for_no_tests(world: World) -> None:
    assert world.deploy("tested").returncode == 0
    assert world.deploy("deployed").returncode == 0
    assert not (world.folder / "calls").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_deployment_that_is_stopped_gives_terraform_one_interrupt_and_waits_for_it(
    number: signal.Signals, world: World
) -> None:
    """A whole process group gets it, twice, and where a terminal was closed nobody reads on."""
    world.planned(GOOD)
    slow = world.folder / "bin" / "terraform"
    said = world.folder / "said"
    slow.write_text(
        f"#!{sys.executable}\nimport signal, sys, time\n"
        f"def say(word): open({str(said)!r}, 'a').write(word + ' ')\n"
        "if 'apply' not in sys.argv: sys.exit()\n"
        "signal.signal(signal.SIGINT, lambda *_: say('interrupted'))\nsay('working')\n"
        "signal.pause()\ntime.sleep(1)\nsay('unlocked')\n"
    )
    script = world.folder / "infra" / "delivery" / "deploy.py"
    environment = {
        "PATH": f"{world.folder / 'bin'}:{os.environ['PATH']}",
        "DOUBLES": str(world.folder),
        "PROJECT_ID": "my-portability-project",
        "REGION": "europe-west1",
    }
    line = [sys.executable, str(script), "apply"]
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for word in ("working", "interrupted"):
        deadline = time.monotonic() + 30
        while not (said.exists() and word in said.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.stdout and number is signal.SIGHUP:
            process.stdout.close()
        os.killpg(process.pid, number)
    assert process.wait(30) == 1
    assert said.read_text() == "working interrupted unlocked "
    assert process.stderr
    assert "STOPPED" in process.stderr.read()


def test_a_deployment_under_nohup_outlives_its_terminal(world: World) -> None:
    world.planned(GOOD)
    terraform = world.folder / "bin" / "terraform"
    real = terraform.read_text()
    first, _, rest = real.partition("\n")
    terraform.write_text(f"{first}\nimport os, signal\nos.kill(os.getppid(), signal.SIGHUP)\n{rest}")
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        done = world.deploy("apply")
    finally:
        signal.signal(signal.SIGHUP, ignored)
    assert (done.returncode, world.verified) == (0, GOOD), done.stderr
