"""The vulnerability audit, with a double of OSV's service that answers in OSV's form and records what it is asked."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from local.http_server import HttpServer
from tests.infra.terraform import ROOT

_KNOWN: dict[str, object] = {  # https://ossf.github.io/osv-schema
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

    async def answer(self, request: web.BaseRequest) -> web.Response:
        query = await request.json()
        package = query["package"]["name"]
        self.asked.append(f"{package}=={query['version']}")
        return web.json_response(self.known.get(package, {}), status=self.status)


@pytest.fixture
async def osv() -> AsyncIterator[Osv]:
    double = Osv()
    server = HttpServer(double.answer)
    await server.start()
    double.url = f"{server.url}/v1/query"
    yield double
    await server.close()


async def _audit(osv: Osv, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        ROOT / ".venv-tools" / "bin" / "python",
        ROOT / "infra" / "delivery" / "audit.py",
        *arguments,
        env={**os.environ, "OSV_URL": osv.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return await process.wait(), printed.decode()


def _accepted(path: Path, **entry: str) -> str:
    lines = "\n".join(f"{name} = {value}" for name, value in entry.items())
    path.write_text(f"[[accepted]]\n{lines}\n")
    return f"--accepted={path}"


async def test_packages_without_known_vulnerabilities_pass(osv: Osv) -> None:
    code, printed = await _audit(osv)
    assert code == 0, printed


async def test_packages_whose_only_vulnerability_is_accepted_pass_until_its_day_and_all_are_asked_for(
    osv: Osv, tmp_path: Path
) -> None:
    osv.known["aiohttp"] = _KNOWN
    entry = {"id": '"GHSA-made-upxx-0001"', "reason": '"We do not use it."'}
    code, printed = await _audit(osv, _accepted(tmp_path / "a.toml", **entry, until="2999-01-01"))
    assert code == 0, printed
    pinned = re.findall(r"^([A-Za-z0-9._-]+==[^ ]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    left_out = set(pinned) - set(osv.asked)  # those for other systems, by their markers
    assert {name.partition("==")[0] for name in left_out} <= {"colorama", "tzdata", "pywin32"}
    code, printed = await _audit(osv, _accepted(tmp_path / "a.toml", **entry, until="2026-01-01"))
    assert (code, "look at it again" in printed) == (1, True)


async def test_a_known_vulnerability_fails_and_is_named(osv: Osv) -> None:
    osv.known["aiohttp"] = _KNOWN
    code, printed = await _audit(osv)
    assert code != 0
    assert "aiohttp" in printed
    assert "GHSA-made-upxx-0001" in printed or "CVE-2026-0001" in printed


async def test_one_without_a_reason_is_not_accepted(osv: Osv, tmp_path: Path) -> None:
    code, printed = await _audit(osv, _accepted(tmp_path / "a.toml", id='"GHSA-made-upxx-0001"', until="2999-01-01"))
    assert (code, "needs an id, a reason and a day" in printed) == (1, True)


async def test_a_service_that_does_not_answer_is_a_failure(osv: Osv) -> None:
    osv.status = 503
    assert (await _audit(osv))[0] != 0
