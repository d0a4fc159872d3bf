"""The README knows the program: every file of handlers/ has its place in the table, and every target exists."""

import json
import re

from local.function_server import ROOT
from tests.bench import report

README = (ROOT / "README.md").read_text()


def test_every_file_of_the_program_has_its_place_in_the_table() -> None:
    table = README.partition("## Where things live")[2]
    files = {path.name for path in (ROOT / "handlers").glob("*.py")} - {"__init__.py"}
    assert files == {name.rpartition("/")[2] for name in re.findall(r"`((?:handlers/)?[a-z_]+\.py)`", table)} - {
        "main.py"
    }


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^    )make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_its_figures_of_speed_are_those_of_the_last_run_and_so_is_the_picture() -> None:
    result = json.loads((ROOT / report.RESULT).read_text())
    assert README == report.renewed(README, result)
    assert (ROOT / report.PICTURE).read_text() == report.drawn(result)
