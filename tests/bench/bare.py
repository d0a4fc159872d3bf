"""What one event waits for at the least: its calls, one after the other, with nothing around them."""

import asyncio
import itertools
import time
from datetime import UTC, datetime
from statistics import median

from handlers.bootstrap import Container
from handlers.domain.answers import NewJob
from handlers.domain.ledger_entry import LedgerEntry
from handlers.google.http_client import HttpClient
from handlers.ports import AccessToken
from handlers.settings import from_environment
from local.stage import Stage
from local.topics import RETRIED

_PAUSE = 0.3  # seconds before an event, so that it finds the services as idle as one that comes alone does


class Bare:
    """An event's clients, without the server, the use case and the ledger's protocol."""

    def __init__(self, stage: Stage) -> None:
        environment = {**stage.environment, "RETRY_LEDGER_COLLECTION": "bare"}
        self._http = HttpClient(stage.trust)
        container = Container(from_environment(environment), http=self._http)
        self._store, self._tokens, self._portability = container.store, container.tokens, container.portability
        self._topic = container.topic(RETRIED)
        self._stage = stage
        self._numbers = itertools.count(1)

    async def milliseconds(self, events: int) -> float:
        """The median of so many events, each of another user."""
        return median([await self._event() for _ in range(events)])

    async def _event(self) -> float:
        job = user = f"bare-{next(self._numbers)}"
        self._stage.add_user(user)
        now = datetime.now(UTC)
        entry = LedgerEntry(
            job_id=job, root_job_id=job, retries_before=0, state="claimed", updated_at=now, expire_at=now
        )
        await asyncio.sleep(_PAUSE)
        begun = time.perf_counter()
        token = await self._tokens.get(user)
        assert isinstance(token, AccessToken)
        claim = await self._store.write(entry, None)
        answer = await self._portability.retry(job, token=token.value, seconds=10, now=now)
        assert isinstance(answer, NewJob)
        retried = entry.retried(answer.job_id)
        await self._store.write(retried, claim.version, retried.entry_of_new_job())
        await self._topic.publish(b"{}", {})
        return (time.perf_counter() - begun) * 1000

    async def close(self) -> None:
        await self._http.close()
