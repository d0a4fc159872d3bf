"""The archive, as it is deployed: unpacked into an empty folder, with what requirements.txt installs and no more."""

import base64
import fnmatch
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from grpc import insecure_channel

from local.processes import Child, free_port
from tests.infra.terraform import ROOT, Plan

RUNTIME = ROOT / ".venv-runtime" / "bin"
_START_SECONDS = 30.0
_IMAGE_TIME = 315532801  # 1980-01-01 00:00:01 UTC: what the buildpacks' lifecycle dates every file of an image


def _package(tree: Path) -> Path:
    """Run the real script in a tree; gives the archive."""
    done = subprocess.run(
        [sys.executable, tree / "infra" / "delivery" / "package.py"], capture_output=True, text=True, check=True
    )
    return tree / "build" / done.stdout.strip()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, as far as the package goes, with things beside it that must not get in."""
    copy = tmp_path_factory.mktemp("package") / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "handlers", copy / "handlers", ignore=ignored)
    shutil.copytree(ROOT / "infra" / "delivery", copy / "infra" / "delivery", ignore=ignored)
    for name in ("main.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "handlers" / "__pycache__").mkdir()
    (copy / "handlers" / "__pycache__" / "old.cpython-313.pyc").write_bytes(b"stale")
    (copy / ".env").write_text("SOMETHING=private")
    _git(copy, "init", "--quiet")
    _git(copy, "add", "main.py", "requirements.txt", "handlers/*.py")
    (copy / "handlers" / "scratch.py").write_text("STRAY = True\n")
    return copy


def _git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", tree, *arguments], capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def unpacked(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the archive's content."""
    folder = tmp_path_factory.mktemp("workspace")
    with zipfile.ZipFile(_package(tree)) as archive:
        archive.extractall(folder)
    return folder


def _environment(**more: str) -> dict[str, str]:
    """A bare environment: nothing of this machine's own gets into what is tested."""
    return {"PATH": f"{RUNTIME}:/usr/bin:/bin", "GOOGLE_CLOUD_PROJECT": "my-portability-project", **more}


def _python(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RUNTIME / "python", *arguments],
        cwd=folder,
        env=_environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_the_same_tree_gives_the_same_bytes_under_the_same_name(tree: Path) -> None:
    first = _package(tree)
    content = first.read_bytes()
    first.unlink()
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert _package(tree) == first
    assert first.read_bytes() == content
    assert (tree / "build" / "source_object").read_text().strip() == first.name


def test_another_tree_gives_another_name(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    (other / "handlers" / "__init__.py").write_text("changed = True\n")
    assert _package(other).name != _package(tree).name


@pytest.mark.parametrize("name", ["client_secret.json", "client_secret_1234.apps.json", ".env", ".env.local"])
def test_credentials_in_the_root_are_ignored_by_git_and_not_submitted(name: str) -> None:
    line = ["git", "-C", str(ROOT), "check-ignore", "--quiet", "--no-index", name]
    assert subprocess.run(line, check=False).returncode == 0
    patterns = (ROOT / ".gcloudignore").read_text().splitlines()
    assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def test_without_git_nothing_is_packaged(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tree, other, ignore=shutil.ignore_patterns(".git", "build"))
    script = other / "infra" / "delivery" / "package.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, "Only what git knows is packaged" in done.stderr) == (1, True)
    assert not (other / "build").exists()


def test_it_holds_the_function_and_nothing_else(unpacked: Path) -> None:
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    listed = (
        "import json, main, pathlib, sys, handlers.watch_job;"
        "own = [module for name, module in sys.modules.items() if name.partition('.')[0] == 'handlers'];"
        "print(json.dumps([str(pathlib.Path(each.__file__).relative_to(pathlib.Path.cwd())) for each in own]))"
    )
    # with traces on, which is all there is; and shows that requirements.txt is enough to turn them on
    imported = json.loads(_python(unpacked, "-B", "-c", listed, OTEL_TRACES_EXPORTER="otlp").stdout)
    assert held == {*imported, "main.py", "requirements.txt"}


def _compiled_at_start(unpacked: Path, folder: Path, build_environment: dict[str, str]) -> list[str]:
    """The modules of ours that a cold start compiles, after what the buildpack and its lifecycle do to the source.

    The buildpack runs compileall over the source, and the lifecycle gives every file of the image the same time:
    cmd/python/functions_framework in GoogleCloudPlatform/buildpacks, archive/writer.go in buildpacks/lifecycle.
    """
    shutil.copytree(unpacked, folder)
    _python(folder, "-m", "compileall", "-f", "-q", ".", **build_environment)
    for path in folder.rglob("*"):
        os.utime(path, (_IMAGE_TIME, _IMAGE_TIME))
    traced = _python(folder, "-B", "-v", "-c", "import main").stderr
    return [line for line in traced.splitlines() if line.startswith(f"# code object from {folder}")]


def test_a_cold_start_compiles_nothing_of_ours(unpacked: Path, tmp_path: Path, plan: Plan) -> None:
    """Bytecode that goes by the source's time is stale in every image; the plan's build variable makes it last."""
    build = plan.one("cloudfunctions2_function", "archive-job-retry")["build_config"][0]["environment_variables"]
    assert _compiled_at_start(unpacked, tmp_path / "without", {}) != []
    assert _compiled_at_start(unpacked, tmp_path / "with", build) == []


@pytest.fixture(scope="module")
def server(unpacked: Path, pubsub_emulator: str) -> Iterator[int]:
    """The function behind the framework's own command, as the buildpack starts it; gives its port."""
    port = free_port()
    environment = _environment(
        FUNCTION_TARGET="retry_failed_archive_job",
        PORT=str(port),
        RETRY_LEDGER="memory",
        PUBSUB_EMULATOR_HOST=pubsub_emulator,
        SECRET_MANAGER_EMULATOR_HOST="127.0.0.1:9",  # not asked in these tests
    )
    with tempfile.TemporaryFile() as output:
        child = Child([str(RUNTIME / "functions-framework")], output=output, env=environment, cwd=unpacked)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    _ask(port, "GET")
                    break
                except OSError:
                    if child.exit_code() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        pytest.fail(f"the function did not start: {output.read().decode()}")
                    time.sleep(0.05)
            yield port
        finally:
            child.kill()


def _ask(port: int, method: str, body: bytes = b"") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, "/", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_answers_what_is_no_delivery(server: int) -> None:
    assert _ask(server, "GET") == 405
    assert _ask(server, "POST", b"rubbish") == 400


def test_it_acknowledges_a_malformed_event(server: int, pubsub_emulator: str) -> None:
    with insecure_channel(pubsub_emulator) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        publisher.create_topic(name="projects/my-portability-project/topics/archive-job-retry-rejected")
    message = {"data": base64.b64encode(b"no JSON").decode(), "messageId": "1"}
    push = {"message": message, "subscription": "projects/p/subscriptions/s"}
    assert _ask(server, "POST", json.dumps(push).encode()) == 204
