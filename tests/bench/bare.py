"""What one event waits for at the least: its calls, one after the other, with nothing around them."""

import asyncio
import itertools
import time
from datetime import UTC, datetime
from statistics import median

from handlers.entries import Entry
from handlers.firestore import FirestoreClient, FirestoreStore
from handlers.http import HttpClient
from handlers.portability import PortabilityApi
from handlers.rpc import Channels
from handlers.secret_store import SecretManagerClient, SecretStore
from handlers.topics import PublisherClient, Topic
from handlers.user_credentials import UserCredentials

from handlers.ports import NewJob
from local.stage import OAUTH_CLIENT, REFRESH_TOKEN_PREFIX, Stage
from local.topics import RETRIED

_PAUSE = 0.3  # seconds before an event, so that it finds the services as idle as one that comes alone does


class Bare:
    """An event's clients, without the server, the use case and the ledger's protocol."""

    def __init__(self, stage: Stage) -> None:
        client, at = Channels().client, stage.environment
        firestore = client(FirestoreClient, at["FIRESTORE_EMULATOR_HOST"])
        self._store = FirestoreStore(firestore, project=stage.project, database="(default)", collection="bare")
        secrets = SecretStore(client(SecretManagerClient, at["SECRET_MANAGER_EMULATOR_HOST"]), stage.project)
        self._topic = Topic(client(PublisherClient, at["PUBSUB_EMULATOR_HOST"]), stage.project, RETRIED)
        self._http = HttpClient(stage.trust)
        self._tokens = UserCredentials(
            secrets, self._http, secret_prefix=REFRESH_TOKEN_PREFIX, client_secret_id=OAUTH_CLIENT
        )
        self._portability = PortabilityApi(self._http, stage.google.url, lambda: datetime.now(UTC))
        self._stage = stage
        self._numbers = itertools.count(1)

    async def milliseconds(self, events: int) -> float:
        """The median of so many events, each of another user."""
        return median([await self._event() for _ in range(events)])

    async def _event(self) -> float:
        job = user = f"bare-{next(self._numbers)}"
        self._stage.add_user(user)
        now = datetime.now(UTC)
        entry = Entry(job_id=job, root_job_id=job, attempt=0, state="claimed", updated_at=now, expire_at=now)
        claim = await self._store.write(entry, None)  # which is over before the token is there
        await asyncio.sleep(_PAUSE)
        begun = time.perf_counter()
        token = await self._tokens.begin(user)
        answer = await self._portability.retry(job, token=token.value, seconds=10)
        assert isinstance(answer, NewJob)
        became = entry.retried(answer.job_id)
        await self._store.write(became, claim, became.of_new_job())
        await self._topic.publish(b"{}", {})
        return (time.perf_counter() - begun) * 1000

    async def close(self) -> None:
        await self._http.close()
