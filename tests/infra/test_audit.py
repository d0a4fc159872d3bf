"""The vulnerability audit, with a double of OSV's service that answers in OSV's form and records what it is asked."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.infra.terraform import ROOT

_KNOWN = {  # https://ossf.github.io/osv-schema
    "vulns": [
        {
            "schema_version": "1.7.0",
            "id": "GHSA-made-upxx-0001",
            "aliases": ["CVE-2026-0001"],
            "summary": "Made up for a test.",
            "modified": "2026-01-01T00:00:00Z",
            "affected": [
                {
                    "package": {"ecosystem": "PyPI", "name": "aiohttp", "purl": "pkg:pypi/aiohttp"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.0.0"}]}],
                }
            ],
        }
    ]
}


@dataclass
class Osv:
    url: str = ""
    status: int = 200
    known: dict[str, object] = field(default_factory=dict)  # by package
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def osv() -> Iterator[Osv]:
    double = Osv()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = query["package"]["name"]
            double.asked.append(f"{package}=={query['version']}")
            body = json.dumps(double.known.get(package, {})).encode()
            self.send_response(double.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        double.url = f"http://127.0.0.1:{server.server_port}/v1/query"
        yield double
        server.shutdown()


def _audit(osv: Osv, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [ROOT / ".venv-tools" / "bin" / "python", ROOT / "infra" / "delivery" / "audit.py", *arguments],
        env={**os.environ, "OSV_URL": osv.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _accepted(path: Path, **entry: str) -> str:
    lines = "\n".join(f"{name} = {value}" for name, value in entry.items())
    path.write_text(f"[[accepted]]\n{lines}\n")
    return f"--accepted={path}"


def test_packages_without_known_vulnerabilities_pass_and_all_are_asked_for(osv: Osv) -> None:
    code, printed = _audit(osv)
    assert code == 0, printed
    pinned = re.findall(r"^([A-Za-z0-9._-]+==[^ ]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    left_out = set(pinned) - set(osv.asked)  # those for other systems, by their markers
    assert {name.partition("==")[0] for name in left_out} <= {"colorama", "tzdata", "pywin32"}


def test_a_known_vulnerability_fails_and_is_named(osv: Osv) -> None:
    osv.known["aiohttp"] = _KNOWN
    code, printed = _audit(osv)
    assert code != 0
    assert "aiohttp" in printed
    assert "GHSA-made-upxx-0001" in printed or "CVE-2026-0001" in printed


def test_one_that_is_accepted_with_a_reason_passes_until_its_day(osv: Osv, tmp_path: Path) -> None:
    osv.known["aiohttp"] = _KNOWN
    entry = {"id": '"GHSA-made-upxx-0001"', "reason": '"We do not use it."'}
    assert _audit(osv, _accepted(tmp_path / "a.toml", **entry, until="2999-01-01"))[0] == 0
    code, printed = _audit(osv, _accepted(tmp_path / "a.toml", **entry, until="2026-01-01"))
    assert (code, "look at it again" in printed) == (1, True)


def test_one_without_a_reason_is_not_accepted(osv: Osv, tmp_path: Path) -> None:
    code, printed = _audit(osv, _accepted(tmp_path / "a.toml", id='"GHSA-made-upxx-0001"', until="2999-01-01"))
    assert (code, "needs an id, a reason and a day" in printed) == (1, True)


def test_a_service_that_does_not_answer_is_a_failure(osv: Osv) -> None:
    osv.status = 503
    assert _audit(osv)[0] != 0
