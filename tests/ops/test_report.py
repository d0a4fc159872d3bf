"""What a person sees on a terminal."""

import pytest

from ops.report import Report


def test_narrow_terminal_shows_every_id_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    report = Report()
    report.table(["job", "detail"], [["~" * 100, "words " * 30]])
    report.facts([("new job", "~" * 100)])
    assert 200 == capsys.readouterr().out.count("~")


def test_many_lines_of_one_kind_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    Report().say_each([f"entry {number}" for number in range(10_000)], "red")
    shown = capsys.readouterr().out.splitlines()
    assert (21, "entry 0", "… and 9980 more (--json)") == (len(shown), shown[0], shown[-1])
