"""The policy scanner passes infra/, finds a mistake, and has no exemption without a reason."""

import json
import re
import subprocess
from pathlib import Path

from tests.infra.terraform import INFRA, ROOT, copied


def test_it_passes_infra_and_finds_a_bucket_in_the_open(tmp_path: Path) -> None:
    """One run for both: the scanner takes seconds to start."""
    copied(INFRA, tmp_path / "infra")
    (tmp_path / "wrong").mkdir()
    right = (INFRA / "bootstrap" / "buckets.tf").read_text()
    (tmp_path / "wrong" / "buckets.tf").write_text(right.replace('"enforced"', '"inherited"'))
    scanner = ROOT / ".venv-checkov" / "bin" / "checkov"
    line = [str(scanner), "--config-file", str(INFRA / "checkov.yaml"), "--directory", str(tmp_path)]
    done = subprocess.run([*line, "--output=json"], capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(done.stdout)
    failed = {(check["file_path"], check["check_name"]) for check in report["results"]["failed_checks"]}
    assert failed == {("/wrong/buckets.tf", "Ensure public access prevention is enforced on Cloud Storage bucket")}
    assert report["summary"]["resource_count"] > 60
    assert report["summary"]["parsing_errors"] == 0


def test_every_exemption_has_its_reason() -> None:
    exemptions = [
        line.strip() for path in INFRA.rglob("*.tf") for line in path.read_text().splitlines() if "checkov:skip" in line
    ]
    assert exemptions
    assert [line for line in exemptions if not re.fullmatch(r"#checkov:skip=CKV2?_\w+:.{20,}", line)] == []
    settings = (INFRA / "checkov.yaml").read_text()
    assert not re.search(r"^(skip-check|soft-fail|check)", settings, re.MULTILINE)
