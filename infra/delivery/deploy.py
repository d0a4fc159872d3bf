"""Deploy the archive in build/, verify it with a real event, and put the last verified one back if that fails.

tested    wait for the tests of this commit (COMMIT_SHA), which are a build of their own, and fail if they do
deployed  wait until the deployment of this commit has ended, well or not, for a look at what runs then
plan      upload the archive that `make package` made, write what Terraform would change to build/plan, and for which
          archive to build/planned
apply     commit revisions of schemas, carry that plan out and verify; on failure put the last verified archive back,
          verify that, and exit with 1
rollback  put the last verified archive back, or the one that is named; where none is named and the last verified one is
          deployed, say which were verified before

Only what was built is deployed: the object in the bucket is read back, has to have the content that its name says, and
Terraform is given its generation. Which archive was verified last is written beside the archives, in `verified`. Only
the functions' source is put back: other changes to infra/ stay as they are applied, and are undone by a commit; by
hand, a checkout that would change anything else of a function is refused. A schema keeps its earlier revisions, so that
what an earlier version of the function publishes stays valid.

What runs is asked of Cloud Run, since Terraform's state has an archive whose update has failed, and an archive that
does not run is not called verified, whatever passes the smoke test.

Two deployments may overlap, and a build can be tried again after a later push. Of a push, no commit is planned that was
pushed before one that is deployed, or about to be. Terraform refuses a saved plan once another one has changed the
state, so whatever is applied is saved first, and what is deployed is looked at before an archive is put back.

A plan that deletes or replaces a function or a push subscription is refused, unless ALLOW_DELETE=1 is set: a function's
region cannot be changed in place, and messages that wait in a subscription are deleted with it.

Needs `terraform` and `gcloud` on the path, PROJECT_ID and REGION; SOURCE_BUCKET and STATE_BUCKET have the defaults of
infra/bootstrap/. infra/<PROJECT_ID>.tfvars, where it is there, holds values for that project alone.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script's own folder is there, at most
from infra.delivery.programs import Failed, Stopped, read, read_bytes, run, said, say, stop_on_signals, told, until  # noqa: E402

INFRA = ROOT / "infra"
BUILD = ROOT / "build"
_PLAN = BUILD / "plan"
_BACK = BUILD / "back"
_TERRAFORM = ["terraform", f"-chdir={INFRA}"]
SMOKE = Path(__file__).with_name("smoke.py")

_TERRAFORM_SECONDS = 1500  # a first deployment builds an image and a database
_SMOKE_SECONDS = 600
_GCLOUD_SECONDS = 120
_LOOKS_SECONDS = 180  # what is deployed is asked again for as long as that
_TESTS_SECONDS = 5400
_DEPLOYMENT_SECONDS = 22800
_PROBE_SECONDS = 600
_VERSIONS = 50  # of `verified`, at most: each is read by a request of its own
_NAMED = 5  # archives to choose from
_LOCK = "-lock-timeout=600s"
_NOTHING_THERE = "matched no objects"  # gcloud storage's words
_CANARY = "deployment-smoke-test"  # no subscription shows messages of this user, but the smoke test's
_FUNCTION = "google_cloudfunctions2_function"
_FUNCTIONS_ALONE = f"-target={_FUNCTION}.this"  # what has failed beside them would fail again
_GET_EVENTS = (_FUNCTION, "google_pubsub_subscription")
_RUNNING = "SOURCE_OBJECT"  # function.tf: the environment variable that tells a function's archive
_TAINTED = "replace_because_tainted"  # Terraform's word for what has failed while it was made
_UNDER_WAY = ("PENDING", "QUEUED", "WORKING")


@dataclass(frozen=True, slots=True)
class Archive:
    """An object in the bucket, as it was when it was looked at."""

    name: str
    generation: str

    def __str__(self) -> str:
        return f"{self.name}#{self.generation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to deploy."""

    project: str
    region: str
    source_bucket: str
    state_bucket: str
    smoke: tuple[str, ...]

    def tested(self) -> None:
        """Wait until the tests of this commit have passed. Raises Failed."""
        if commit := os.environ.get("COMMIT_SHA"):
            status, log = self._end_of_build("test", commit, _TESTS_SECONDS)
            if status != "SUCCESS":
                raise Failed(f"The tests of {commit}: {status}. {log}")
            say(f"The tests of {commit} have passed.")
        else:
            say("Not started by a push: whether the tests pass is not looked at here.")

    def deployed(self) -> None:
        """Wait until the deployment of this commit has ended. Raises Failed."""
        if commit := os.environ.get("COMMIT_SHA"):
            status, log = self._end_of_build("deploy", commit, _DEPLOYMENT_SECONDS)
            say(f"The deployment of {commit}: {status}. {log}")

    def _end_of_build(self, trigger: str, commit: str, seconds: float) -> tuple[str, str]:
        """Wait for it; gives its status and the address of its log. Raises Failed."""

        def look() -> tuple[str, str]:
            builds = self._builds(trigger, f"substitutions.COMMIT_SHA={commit}", 1)
            if not builds or builds[0]["status"] in _UNDER_WAY:
                raise Failed(f"archive-job-retry-{trigger}: {builds[0]['status'] if builds else 'not there yet'}")
            return builds[0]["status"], builds[0].get("logUrl", "")

        return until(seconds, f"The build archive-job-retry-{trigger} of {commit} has not ended", look)

    def _builds(self, trigger: str, which: str, limit: int = 1000) -> Any:
        """The builds of a trigger in the last thirty days, the newest first. Raises Failed.

        Of the filter, Cloud Build itself knows the time alone: gcloud reads page by page what is left.
        """
        since = (datetime.now(UTC) - timedelta(days=30)).isoformat(timespec="seconds")
        line = ["gcloud", "builds", "list", f"--region={self.region}", f"--project={self.project}"]
        line += [
            f"--limit={limit}",
            "--page-size=200",
            "--format=json(createTime,logUrl,status,substitutions.COMMIT_SHA)",
        ]
        trigger = f"substitutions.TRIGGER_NAME=archive-job-retry-{trigger}"
        return told([*line, f'--filter=createTime>="{since}" AND {trigger} AND {which}'])

    def _refuse_an_earlier_commit(self, commit: str) -> None:
        """Raises Failed where a later push is deployed, or is to be since its tests have passed. Pushes count in the
        order of their first builds, since a build can be tried again.
        """
        sentence = "It has not been told which builds there are"
        builds, tested = (
            until(_LOOKS_SECONDS, sentence, partial(self._builds, trigger, "substitutions.COMMIT_SHA:*"))
            for trigger in ("deploy", "test")
        )
        passed = {build["substitutions"]["COMMIT_SHA"] for build in tested if build["status"] == "SUCCESS"}
        builds.sort(key=lambda build: str(build["createTime"]))
        pushed = [build["substitutions"]["COMMIT_SHA"] for build in builds]
        for build, each in zip(builds, pushed, strict=True):
            later = commit in pushed and pushed.index(each) > pushed.index(commit)
            if later and (build["status"] == "SUCCESS" or (build["status"] in _UNDER_WAY and each in passed)):
                raise Failed(f"A later push would be undone by {commit}: {each} of {build.get('logUrl')}")

    def plan(self) -> None:
        """Upload the archive, initialise Terraform, and plan."""
        (BUILD / "planned").unlink(missing_ok=True)  # where this one fails, an earlier plan is not what was asked for
        path = BUILD / _made("source_object", "make package")
        self._gcloud("storage", "cp", str(path), f"gs://{self.source_bucket}/{path.name}", "--no-clobber")
        archive = self._looked_at(path.name)
        self._init()
        self._plan(archive, _PLAN)
        deleted = [line for change in self._planned(_PLAN)["resource_changes"] for line in _deletes(change)]
        if deleted and os.environ.get("ALLOW_DELETE") != "1":
            raise Failed("If this is meant, set ALLOW_DELETE=1:\n  " + "\n  ".join(deleted))
        if commit := os.environ.get("COMMIT_SHA"):  # after the plan: what a later one changes then makes it stale
            self._refuse_an_earlier_commit(commit)
        (BUILD / "planned").write_text(f"{self.project} {archive}\n")

    def apply(self) -> None:
        """Carry out the plan and verify what runs then. Raises Failed, with the last verified archive put back."""
        project, planned = _made("planned", "make plan").split()
        if project != self.project:
            raise Failed(f"The plan in build/ is for {project}: make plan")
        archive = Archive(*planned.split("#"))
        self._init()
        self._commit_schemas()
        try:
            self._terraform("apply", _LOCK, str(_PLAN))
            self._verify(archive)
        except Failed as failed:
            self._after(failed, archive)
        self._remember(archive)
        say(f"{archive} is deployed and verified.")

    def rollback(self, name: str | None) -> None:
        """Put an archive back, the last verified one unless another is named. Raises Failed."""
        archive = self._looked_at(name) if name else self._last_verified()
        if archive is None:
            raise Failed("No archive was ever verified here: name the one to put back.")
        self._init()
        self._plan(archive, _BACK, _FUNCTIONS_ALONE)
        plan = self._planned(_BACK)
        if not (plan["applyable"] or name):
            self._runs(archive)
            raise Failed(f"{archive} is what is deployed. {self._others(archive)}")
        if others := [line for change in plan["resource_changes"] for line in _beside_the_source(change)]:
            raise Failed(
                "Only the source is put back, and from here this would change, too:\n  " + "\n  ".join(others) + "\n"
                "Do it in a checkout of the commit that is deployed, with its tfvars. Or, to go back with everything: "
                "in one of an earlier commit, `make package plan`, look at the plan, `make deploy`."
            )
        self._terraform("apply", _LOCK, str(_BACK))
        self._verify(archive)
        self._remember(archive)
        say(f"{archive} is back, and verified.")

    def _looked_at(self, name: str, generation: str = "") -> Archive:
        """The archive in the bucket, once it is certain that its content is what its name says. Raises Failed."""
        address = f"gs://{self.source_bucket}/{name}"
        if not generation:
            line = ["gcloud", "storage", "objects", "describe", address, "--format=value(generation)"]
            found, generation = read([*line, f"--project={self.project}"])
            if not found:
                raise Failed(f"There is no archive {name} in gs://{self.source_bucket}: {generation}")
        line = ["gcloud", "storage", "cat", f"{address}#{generation}", f"--project={self.project}"]
        succeeded, content = read_bytes(line)
        if not succeeded:
            raise Failed(f"{address}#{generation} cannot be read: {content.decode(errors='replace').strip()}")
        if hashlib.sha256(content).hexdigest() not in name:
            raise Failed(f"{address}#{generation} does not hold what its name says. Who has put it there?")
        return Archive(name, generation)

    def _commit_schemas(self) -> None:
        """Commit the schemas that no revision has yet, and wait until their topics take messages of them."""
        for path in sorted((INFRA / "schemas").glob("*.avsc")):
            name, wanted = path.stem.replace("_", "-"), json.loads(path.read_text())
            line = ["gcloud", "pubsub", "schemas", "list-revisions", name, "--view=full", "--format=json"]
            found, text = read([*line, f"--project={self.project}"])
            if not found and "NOT_FOUND" in text:
                continue  # the watch's, where there is no watch
            if not found:
                raise Failed(f"It cannot be told which revisions the schema {name} has: {text}")
            if any(json.loads(revision["definition"]) == wanted for revision in json.loads(text)):
                continue
            self._gcloud("pubsub", "schemas", "commit", name, "--type=avro", f"--definition-file={path}")
            message = {field["name"]: 0 if field["type"] == "int" else "" for field in wanted["fields"]}
            line = ["gcloud", "pubsub", "topics", "publish", name, f"--message={json.dumps(message)}"]
            line += [f"--attribute=eventType=schema-probe,userId={_CANARY}", f"--project={self.project}"]
            until(_PROBE_SECONDS, f"The topic {name} does not take messages of its new schema", partial(said, line))
            say(f"The topic {name} takes messages of its new schema.")

    def _after(self, failed: Failed, archive: Archive) -> NoReturn:
        """What follows a failed deployment."""
        say(f"DEPLOYMENT FAILED: {failed}")
        try:
            outcome = self._put_back(archive)
        except Failed as again:
            outcome = f"What runs now has to be looked at, since putting back failed too: {again}"
        raise Failed(f"{failed}\n{outcome}") from None

    def _put_back(self, archive: Archive) -> str:
        """Put the last verified archive in the place of one that has failed; gives how it went. Raises Failed."""
        # A plan that another deployment has overtaken changes nothing; then there is nothing of ours to take back.
        nothing = f"Nothing to put back: {archive} did not get in place, or another deployment has taken its place."
        if not self._in_place(archive):
            return nothing
        previous = self._last_verified()
        if previous is None or previous.name == archive.name:
            return f"There is no other verified archive to put back: {archive} stays, to be looked into."
        say(f"Putting {previous} back.")
        self._plan(previous, _BACK, _FUNCTIONS_ALONE)
        if not self._in_place(archive):  # after this look, Terraform refuses the plan where it has to
            return nothing
        self._terraform("apply", _LOCK, str(_BACK))
        try:
            self._verify(previous)
        except Failed as again:
            return f"{previous} is back, and does not pass either: the cause is not the archive alone.\n{again}"
        return f"{previous} is back, and verified."

    def _in_place(self, archive: Archive) -> bool:
        """Whether it was applied last, well or not, to any function. Raises Failed."""
        applied = until(_LOOKS_SECONDS, "Terraform has not told what is deployed", self._applied)
        return archive.name in applied.values()

    def _applied(self) -> dict[str, str]:
        """The archive of each function by Terraform's state, whether the update succeeded or not. Raises Failed."""
        state = told([*_TERRAFORM, "show", "-no-color", "-json"]).get("values", {"root_module": {}})
        found = state["root_module"].get("resources", [])
        functions = [resource["values"] for resource in found if resource["type"] == _FUNCTION]
        sources = [function["build_config"][0]["source"][0]["storage_source"][0] for function in functions]
        return {function["name"]: source["object"] for function, source in zip(functions, sources, strict=True)}

    def _runs(self, archive: Archive) -> None:
        """Raises Failed unless every function runs it, by Cloud Run's word."""
        sentence = "It has not been told what runs"
        running = until(_LOOKS_SECONDS, sentence, lambda: {name: self._running(name) for name in self._applied()})
        if others := [f"{name} runs {other}" for name, other in running.items() if other != archive.name]:
            raise Failed(f"{archive} is not what runs: {', '.join(others)}.")

    def _running(self, name: str) -> str:
        """The archive that a function runs. Raises Failed."""
        line = ["gcloud", "run", "services", "describe", name, f"--region={self.region}", "--format=json"]
        service = told([*line, f"--project={self.project}"])
        status, seen = service["status"], service["metadata"]["generation"] == service["status"]["observedGeneration"]
        if not seen or status.get("latestReadyRevisionName") != status["latestCreatedRevisionName"]:
            return "what it did before its last update, which has not succeeded"
        variables = service["spec"]["template"]["spec"]["containers"][0].get("env", [])
        return next((str(given["value"]) for given in variables if given["name"] == _RUNNING), "an unnamed archive")

    def _plan(self, archive: Archive, path: Path, *more: str) -> None:
        BUILD.mkdir(exist_ok=True)
        self._terraform("plan", _LOCK, *self._variables(archive), f"-out={path}", *more)

    def _planned(self, path: Path) -> Any:
        """What a plan changes. Raises Failed."""
        return told([*_TERRAFORM, "show", "-no-color", "-json", str(path)])

    def _verify(self, archive: Archive) -> None:
        """Raises Failed unless it passes: what has passed may be an earlier archive, or another deployment's."""
        run([*self.smoke, "--project", self.project], _SMOKE_SECONDS)
        self._runs(archive)

    def _remember(self, archive: Archive) -> None:
        """Write down that it was verified. Raises Failed."""
        self._gcloud("storage", "cp", "-", self._verified, given=f"{archive}\n")

    def _last_verified(self) -> Archive | None:
        found, text = read(["gcloud", "storage", "cat", self._verified, f"--project={self.project}"])
        if not found and _NOTHING_THERE not in text:
            raise Failed(f"It cannot be told which archive was verified last: {text}")
        return self._looked_at(*text.split("#")) if found else None

    def _others(self, archive: Archive) -> str:
        """Which archives to put back in the place of the one that was verified last, for the person who chooses."""
        line = ["gcloud", "storage", "ls", self._verified, "--all-versions", "--json", f"--project={self.project}"]
        found: dict[str, str] = {}
        try:
            versions = [version["metadata"] for version in told(line)]
            versions = sorted(versions, key=lambda version: int(version["generation"]), reverse=True)[:_VERSIONS]
            addresses = [f"{self._verified}#{version['generation']}" for version in versions]
            content = said(["gcloud", "storage", "cat", *addresses, f"--project={self.project}"])
            for version, verified in zip(versions, content.splitlines(), strict=True):
                found.setdefault(verified.partition("#")[0], f"{version['timeCreated'][:19]}Z")
        except (Failed, KeyError, ValueError):  # whatever gcloud prints, the refusal is told
            found = {}
        names = [name for name in found if name != archive.name][:_NAMED]
        if not names:
            return f"Name another: gcloud storage ls -l gs://{self.source_bucket}"
        lines = ["Verified before, the newest first:", *(f"  {name} at {found[name]}" for name in names)]
        command = f"make rollback PROJECT_ID={self.project} REGION={self.region} OBJECT={names[0]}"
        return "\n".join([*lines, f"To put the first of them back: {command}"])

    @property
    def _verified(self) -> str:
        return f"gs://{self.source_bucket}/verified"

    def _init(self) -> None:
        lock = INFRA / ".terraform.lock.hcl"
        locked = lock.exists()
        # -reconfigure: this clone may have been used for another project, whose state is not to be copied here
        self._terraform("init", "-reconfigure", f"-backend-config=bucket={self.state_bucket}")
        if not locked and lock.exists():
            say("Commit infra/.terraform.lock.hcl, which the pipeline keeps with the build: it pins the provider.")

    def _variables(self, archive: Archive) -> list[str]:
        values = {
            "project_id": self.project,
            "region": self.region,
            "source_bucket": self.source_bucket,
            "source_generation": archive.generation,
            "source_object": archive.name,
        }
        own = INFRA / f"{self.project}.tfvars"
        return [f"-var-file={own}"] * own.exists() + [f"-var={name}={value}" for name, value in values.items()]

    def _terraform(self, command: str, *arguments: str) -> None:
        run([*_TERRAFORM, command, "-input=false", "-no-color", *arguments], _TERRAFORM_SECONDS)

    def _gcloud(self, *arguments: str, given: str | None = None) -> None:
        run(["gcloud", *arguments, f"--project={self.project}"], _GCLOUD_SECONDS, given=given)


def _made(name: str, how: str) -> str:
    """What an earlier step wrote into build/. Raises Failed."""
    try:
        return (BUILD / name).read_text().strip()
    except FileNotFoundError:
        raise Failed(f"There is no build/{name}: {how}") from None


def _deletes(resource: Any) -> Iterator[str]:
    """What a plan deletes of a resource that gets events, also to make it anew; not one that was never made whole."""
    actions = resource["change"]["actions"]
    if resource["type"] in _GET_EVENTS and "delete" in actions and resource.get("action_reason") != _TAINTED:
        yield f"{' and '.join(actions)} {resource['address']}"


def _beside_the_source(resource: Any) -> Iterator[str]:
    """What a plan changes of a resource, where that is not only the archive that a function is made of."""
    change, actions = resource["change"], resource["change"]["actions"]
    if resource["type"] == _FUNCTION and actions == ["update"]:
        if _differ(change["before"], change["after"], change["after_unknown"]):
            yield f"update {resource['address']}, and not only its source"
    elif actions not in (["no-op"], ["read"]):
        yield f"{' and '.join(actions)} {resource['address']}"


def _differ(before: Any, after: Any, unknown: Any) -> bool:
    """Whether two states of a function do, beside its source and what is only known after the apply."""
    if isinstance(before, list) and isinstance(after, list):
        before, after, unknown = (dict(enumerate(each or ())) for each in (before, after, unknown))
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return unknown is not True and before != after
    names = (before.keys() | after.keys()) - {"source", _RUNNING}
    return any(_differ(before.get(name), after.get(name), (unknown or {}).get(name)) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["tested", "deployed", "plan", "apply", "rollback"])
    parser.add_argument("archive", nargs="?", help="rollback: the archive to put back (default: the last verified one)")
    parser.add_argument("--smoke", default=shlex.join([sys.executable, str(SMOKE)]), help="the command that verifies")
    arguments = parser.parse_args()
    project, region = (os.environ.get(name, "") for name in ("PROJECT_ID", "REGION"))
    if not (project and region):
        parser.error("PROJECT_ID and REGION have to be set")
    target = Target(
        project=project,
        region=region,
        source_bucket=os.environ.get("SOURCE_BUCKET") or f"{project}-archive-job-retry-source",
        state_bucket=os.environ.get("STATE_BUCKET") or f"{project}-archive-job-retry-state",
        smoke=tuple(shlex.split(arguments.smoke)),
    )
    actions: dict[str, Callable[[], None]] = {
        "tested": target.tested,
        "deployed": target.deployed,
        "plan": target.plan,
        "apply": target.apply,
        "rollback": partial(target.rollback, arguments.archive),
    }
    stop_on_signals()
    try:
        actions[arguments.action]()
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
    except Stopped:
        sys.exit("STOPPED. What runs may not be verified: make smoke. docs/runbook.md, When a deployment was cut off.")


if __name__ == "__main__":
    main()
