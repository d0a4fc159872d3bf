from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from local.pubsub import PubSub
from local.topics import connected
from tests.ops.desk import Desk


@pytest.fixture(params=["google"])
async def desk(request: pytest.FixtureRequest, project: str) -> AsyncIterator[Desk]:
    """On Google's emulator; parametrized with "embedded", on the one that takes its place, which hands out at once."""
    async with AsyncExitStack() as stack:
        if request.param == "embedded":
            address, patience = (await stack.enter_async_context(PubSub())).address, 0.25
        else:
            address, patience = request.getfixturevalue("pubsub_emulator"), 2.0
        desk = Desk(*await stack.enter_async_context(connected(address)), address, project, patience)
        await desk.make()
        yield desk
