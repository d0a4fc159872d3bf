"""The function's own code runs on the event loop that it runs on in production.

Other tests start processes, and uvloop forks for that, which a process with gRPC in it does not survive
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md).
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator

import pytest
import uvloop

from handlers.telemetry.logging import log
from tests.unit.instance import Instance, LogLines


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def logged() -> LogLines:
    return LogLines()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Signal handlers and loggers that a test's instance configures go with it."""
    at_sigterm = signal.getsignal(signal.SIGTERM)
    loggers = log, *map(logging.getLogger, ("google", "opentelemetry", "opentelemetry.trace"))
    before = [(each, each.handlers[:], each.propagate, each.level) for each in loggers]
    yield
    signal.signal(signal.SIGTERM, at_sigterm)
    for each, handlers, propagate, level in before:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)
