"""Deploy the archive in build/, verify it with a real event, and put the last verified one back if that fails.

plan      upload the archive that `make package` made, and write what Terraform would change to build/plan
apply     carry the plan out and verify; on failure put the last verified archive back, verify that, and exit with 1
rollback  put the last verified archive back, or the one that is named

Which archive was verified last is written beside the archives, in `verified`. Only the source is put back: other
changes to infra/ stay as they are applied, and are undone by a commit.

Needs `terraform` and `gcloud` on the path, and PROJECT_ID; REGION, SOURCE_BUCKET and STATE_BUCKET have the defaults of
infra/bootstrap/.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
BUILD = ROOT / "build"
_TERRAFORM = ["terraform", f"-chdir={INFRA}"]
SMOKE = Path(__file__).with_name("smoke.py")

_TERRAFORM_SECONDS = 1500  # a first deployment builds an image and a database
_SMOKE_SECONDS = 600
_GCLOUD_SECONDS = 120
_LOOK_SECONDS = 120
_LAST_WORDS_SECONDS = 60
_NOTHING_THERE = "matched no objects"  # gcloud storage's words


class Failed(Exception):
    """A step did not succeed. The text is for the person who deploys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to deploy."""

    project: str
    region: str
    source_bucket: str
    state_bucket: str
    smoke: tuple[str, ...]

    def plan(self) -> None:
        """Upload the archive, initialise Terraform, and plan."""
        archive = BUILD / _packaged()
        self._gcloud("storage", "cp", str(archive), f"gs://{self.source_bucket}/{archive.name}", "--no-clobber")
        self._init()
        self._terraform("plan", *self._variables(archive.name), f"-out={BUILD / 'plan'}")

    def apply(self) -> None:
        """Carry out the plan and verify what runs then. Raises Failed, with the last verified archive put back."""
        archive = _packaged()
        self._init()
        try:
            self._terraform("apply", "-lock-timeout=300s", str(BUILD / "plan"))
            self._verify()
        except Failed as failed:
            self._after(failed, archive)
        self._remember(archive)
        _say(f"{archive} is deployed and verified.")

    def rollback(self, archive: str | None) -> None:
        """Put an archive back, the last verified one unless another is named. Raises Failed."""
        archive = archive or self._last_verified()
        if archive is None:
            raise Failed("No archive was ever verified here: name the one to put back.")
        self._init()
        self._put_back(archive)
        self._verify()
        self._remember(archive)
        _say(f"{archive} is back, and verified.")

    def _after(self, failed: Failed, archive: str) -> None:
        """What follows a failed deployment. Never returns."""
        _say(f"DEPLOYMENT FAILED: {failed}")
        # A plan that another deployment has overtaken changes nothing; then there is nothing of ours to take back.
        known, deployed = _read([*_TERRAFORM, "output", "-no-color", "-raw", "source_object"])
        if not known or deployed != archive:
            raise Failed(f"{failed}\nNothing to put back: {archive} did not get in place.")
        previous = self._last_verified()
        if previous is None or previous == archive:
            raise Failed(
                f"{failed}\nThere is no other verified archive to put back: {archive} stays, to be looked into."
            )
        self._put_back(previous)
        try:
            self._verify()
        except Failed as again:
            raise Failed(
                f"{failed}\n{previous} is back, and does not pass either: the cause is not the archive alone.\n{again}"
            ) from None
        raise Failed(f"{failed}\n{previous} is back, and verified.")

    def _put_back(self, archive: str) -> None:
        _say(f"Putting {archive} back.")
        self._terraform("apply", "-auto-approve", "-lock-timeout=300s", *self._variables(archive))

    def _verify(self) -> None:
        _run([*self.smoke, "--project", self.project], _SMOKE_SECONDS)

    def _remember(self, archive: str) -> None:
        self._gcloud("storage", "cp", "-", self._verified, given=f"{archive}\n")

    def _last_verified(self) -> str | None:
        found, text = _read(["gcloud", "storage", "cat", self._verified, f"--project={self.project}"])
        if not found and _NOTHING_THERE not in text:
            raise Failed(f"It cannot be told which archive was verified last: {text}")
        return text if found else None

    @property
    def _verified(self) -> str:
        return f"gs://{self.source_bucket}/verified"

    def _init(self) -> None:
        lock = INFRA / ".terraform.lock.hcl"
        locked = lock.exists()
        self._terraform("init", f"-backend-config=bucket={self.state_bucket}")
        if not locked and lock.exists():
            _say("Commit infra/.terraform.lock.hcl, which the pipeline keeps with the build: it pins the provider.")

    def _variables(self, archive: str) -> list[str]:
        values = {
            "project_id": self.project,
            "region": self.region,
            "source_bucket": self.source_bucket,
            "source_object": archive,
        }
        return [f"-var={name}={value}" for name, value in values.items()]

    def _terraform(self, command: str, *arguments: str) -> None:
        _run([*_TERRAFORM, command, "-input=false", "-no-color", *arguments], _TERRAFORM_SECONDS)

    def _gcloud(self, *arguments: str, given: str | None = None) -> None:
        _run(["gcloud", *arguments, f"--project={self.project}"], _GCLOUD_SECONDS, given=given)


def _packaged() -> str:
    """The name of the archive that `make package` made."""
    try:
        return (BUILD / "source_object").read_text().strip()
    except FileNotFoundError:
        raise Failed("There is no archive in build/: make package") from None


def _run(line: list[str], seconds: float, *, given: str | None = None) -> None:
    """Run a command in plain view. Raises Failed."""
    _say(f"$ {shlex.join(line)}")
    try:
        process = subprocess.Popen(line, stdin=subprocess.PIPE if given else subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        raise Failed(f"{line[0]} is not on the path.") from None
    try:
        process.communicate(given, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that Terraform gives its lock on the state back
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_SECONDS)
        process.kill()
        raise Failed(f"{shlex.join(line)}: not done within {seconds:g} s.") from None
    if process.returncode:
        raise Failed(f"{shlex.join(line)}: exit code {process.returncode}, see above.")


def _read(line: list[str]) -> tuple[bool, str]:
    """Run a command that only looks: whether it succeeded, and what it printed (or why it did not)."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=_LOOK_SECONDS, check=False)
    return done.returncode == 0, (done.stderr if done.returncode else done.stdout).strip()


def _say(text: str) -> None:
    if text.strip():
        sys.stdout.write(f"{text.rstrip()}\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["plan", "apply", "rollback"])
    parser.add_argument("archive", nargs="?", help="rollback: the archive to put back (default: the last verified one)")
    parser.add_argument("--smoke", default=shlex.join([sys.executable, str(SMOKE)]), help="the command that verifies")
    arguments = parser.parse_args()
    project = os.environ.get("PROJECT_ID", "")
    if not project:
        parser.error("PROJECT_ID has to be set")
    target = Target(
        project=project,
        region=os.environ.get("REGION") or "us-central1",
        source_bucket=os.environ.get("SOURCE_BUCKET") or f"{project}-archive-job-retry-source",
        state_bucket=os.environ.get("STATE_BUCKET") or f"{project}-archive-job-retry-state",
        smoke=tuple(shlex.split(arguments.smoke)),
    )
    try:
        match arguments.action:
            case "plan":
                target.plan()
            case "apply":
                target.apply()
            case "rollback":
                target.rollback(arguments.archive)
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")


if __name__ == "__main__":
    main()
