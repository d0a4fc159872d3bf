"""What every test may ask for: Google's emulators, started once per worker, and a project of its own in them."""

import os
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from local import emulators
from tests.predecessor import source
from tests.secrets_guard import SecretsGuard

_LEFT_OUT = "needs "


def pytest_configure(config: pytest.Config) -> None:
    """No test may tell a secret."""
    config.pluginmanager.register(SecretsGuard())


@pytest.fixture(scope="session")
def installed_emulators() -> emulators.Installed:
    """Which of Google's emulators this machine has."""
    return emulators.find()


@pytest.fixture(scope="session")
def pubsub_emulator(installed_emulators: emulators.Installed) -> Iterator[str]:
    """`host:port` of Google's Pub/Sub emulator, one for all tests of this worker."""
    with emulators.started(_needed("Pub/Sub", installed_emulators.pubsub, installed_emulators)) as [address]:
        yield address


@pytest.fixture(scope="session")
def firestore_emulator(installed_emulators: emulators.Installed) -> Iterator[str]:
    """`host:port` of Google's Firestore emulator, one for all tests of this worker."""
    with emulators.started(_needed("Firestore", installed_emulators.firestore, installed_emulators)) as [address]:
        yield address


@pytest.fixture
def need_emulators(installed_emulators: emulators.Installed) -> None:
    """For tests of what starts the emulators by itself."""
    _needed("Pub/Sub", installed_emulators.pubsub, installed_emulators)
    _needed("Firestore", installed_emulators.firestore, installed_emulators)


@pytest.fixture(scope="session")
def predecessor() -> Path:
    """The release before this one: a folder with its main.py and handlers/."""
    return source()


@pytest.fixture
def project() -> str:
    """A project id that no other test uses, so that tests can share an emulator."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def google_cloud(pubsub_emulator: str, firestore_emulator: str, project: str) -> dict[str, Any]:
    """Where a stage finds Google's emulators, and its project in them: `Stage(**google_cloud)`."""
    return {"pubsub": pubsub_emulator, "firestore": firestore_emulator, "project": project}


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Count something that the end of the run tells, summed over all tests: `figure("schedules simulated", 100)`."""
    return lambda name, number: record_property("figure", (name, number))


def _needed(name: str, command: emulators.Command | None, installed: emulators.Installed) -> emulators.Command:
    if command is None:
        _leave_out(f"Google's {name} emulator: {installed.missing}")
    return command


def _leave_out(what_it_needs: str) -> NoReturn:
    sentence = f"{_LEFT_OUT}{what_it_needs}"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{sentence}. On CI nothing may be left out.")
    pytest.skip(sentence)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's own, so that nothing is printed below it
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Say at the very end what was counted, and what was left out, so that no run is taken for more than it is."""
    yield
    figures = _figures(terminalreporter)
    if figures:
        terminalreporter.section("figures")
        for name, number in figures.items():
            terminalreporter.line(f"{number:>9,} {name}")
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [str(report.longrepr[2]) for report in skipped if isinstance(report.longrepr, tuple)]
    left_out = [reason for reason in reasons if _LEFT_OUT in reason]
    if left_out:
        terminalreporter.section("left out")
        terminalreporter.line(f"{len(left_out)} tests were left out:")
        for reason in sorted(set(left_out)):
            terminalreporter.line(f"  {left_out.count(reason)} times: {reason.removeprefix('Skipped: ')}")


def _figures(terminalreporter: pytest.TerminalReporter) -> dict[str, int]:
    figures: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for kind, counted in report.user_properties if getattr(report, "when", "") == "teardown" else ():
                if kind == "figure":
                    figures[counted[0]] += counted[1]
    return dict(sorted(figures.items()))
