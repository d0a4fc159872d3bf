"""No secret comes out: every test runs with secret values that bear a mark, and fails where the mark shows up.

log records, what is printed        by every test in this process
exceptions that pass our code       likewise, from Python 3.12 on
messages, ledger, log lines         where the unit tests' instance keeps them: `check`
a server's output, its answers      the stage looks through them when it ends: local/stage.py
"""

import logging
import sys
import traceback
from collections.abc import Generator
from types import CodeType
from typing import Any

import pytest

from handlers.telemetry.logging import log
from local.function_server import ROOT
from local.google_apis import MARK, SecretTold

_OURS = tuple(str(ROOT / part) for part in ("main.py", "handlers/", "ops/"))


def check(where: str, *told: object) -> None:
    """Raise SecretTold if the mark is in any of these."""
    if any(MARK in repr(each) for each in told):
        raise SecretTold(where)


class SecretsGuard:
    """A plugin of pytest's: it listens to everything, and fails the test in which it heard a secret."""

    def __init__(self) -> None:
        self._leaks: set[str] = set()

    def pytest_configure(self) -> None:
        """Listen to every log record and, where Python can tell of them, to every exception."""
        make = logging.getLogRecordFactory()

        def listening(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            self._hear("a log record", record.getMessage())
            if record.exc_info:
                self._hear("a logged traceback", "".join(traceback.format_exception(*record.exc_info)))
            return record

        def fields(record: logging.LogRecord) -> bool:
            self._hear("a log record's fields", str(getattr(record, "fields", "")))
            return True

        logging.setLogRecordFactory(listening)
        log.addFilter(fields)
        if sys.version_info >= (3, 12):
            watching = sys.monitoring
            watching.use_tool_id(watching.PROFILER_ID, "secrets guard")
            watching.register_callback(watching.PROFILER_ID, watching.events.RAISE, self._raised)
            watching.set_events(watching.PROFILER_ID, watching.events.RAISE)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail the test that told a secret."""
        report = yield
        if report.when == "teardown":
            return report  # it tells once more what the call's report told
        for heading, text in report.sections:
            self._hear(heading, text)
        if self._leaks and report.passed:
            report.outcome = "failed"
            report.longrepr = f"{item.name} told a secret: in {', '.join(sorted(self._leaks))}"
        self._leaks.clear()
        return report

    def _raised(self, code: CodeType, offset: int, error: BaseException) -> None:
        if code.co_filename.startswith(_OURS) and not isinstance(error, StopIteration):  # it carries what await returns
            self._hear(f"an exception in {code.co_qualname}", str(error))

    def _hear(self, where: str, text: str) -> None:
        if MARK in text:
            self._leaks.add(where)
