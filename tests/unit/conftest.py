"""The function's own code runs on the event loop that it runs on in production.

Other tests start processes, and uvloop forks for that, which a process with gRPC in it does not survive
(https://github.com/grpc/grpc/blob/master/doc/fork_support.md).
"""

import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
