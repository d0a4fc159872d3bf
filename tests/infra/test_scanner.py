"""The policy scanner passes infra/, finds a mistake, and has no exemption without a reason."""

import re
import subprocess
from pathlib import Path

from tests.infra.terraform import INFRA, ROOT, Module


def test_it_passes_and_finds_a_bucket_in_the_open(module: Module, tmp_path: Path) -> None:
    """Both at once: the scanner takes seconds to start."""
    copy = module.copy(tmp_path / "infra")
    copy.replace("bootstrap/buckets.tf", '"enforced"', '"inherited"')
    scanner = ROOT / ".venv-checkov" / "bin" / "checkov"
    line = [str(scanner), "--config-file", str(INFRA / "checkov.yaml")]
    scans = [
        subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for folder in (ROOT, tmp_path)
    ]
    (right, _), (wrong, _) = (scan.communicate(timeout=120) for scan in scans)
    assert (scans[0].returncode, "Failed checks: 0" in right) == (0, True), right
    assert (scans[1].returncode, "public access prevention" in wrong) == (1, True), wrong


def test_every_exemption_has_its_reason() -> None:
    exemptions = [
        line.strip() for path in INFRA.rglob("*.tf") for line in path.read_text().splitlines() if "checkov:skip" in line
    ]
    assert exemptions
    assert [line for line in exemptions if not re.fullmatch(r"#checkov:skip=CKV2?_\w+:.{20,}", line)] == []
    settings = (INFRA / "checkov.yaml").read_text()
    assert not re.search(r"^(skip-check|soft-fail|check)", settings, re.MULTILINE)
