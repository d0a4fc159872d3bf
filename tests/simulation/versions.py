"""Two releases that share a ledger: each replaces the other, is put back, and works beside it, at any moment."""

import random
from functools import cached_property
from typing import Any

from google.cloud.firestore_v1.types import CommitRequest

from handlers.bootstrap import Clients, Container
from handlers.settings import Settings
from tests.simulation.deviations import Rehearsal
from tests.simulation.excuses import NEXT, VersionsJudge
from tests.simulation.firestore import LATER_FIELD
from tests.simulation.instance import FunctionInstance, Program, Services
from tests.simulation.predecessor import PredecessorInstance
from tests.simulation.record import SIGNATURE
from tests.simulation.wire import Wire
from tests.simulation.world import World

_NEIGHBOURS = ("predecessor", "predecessor", "predecessor", "next")


class NextRelease(Container):
    """A release to come, which stores one field more. It writes it with each claim, and otherwise leaves it."""

    @cached_property
    def clients(self) -> Clients:
        return _WithLaterField(super().clients)


class _WithLaterField:
    def __init__(self, clients: Clients) -> None:
        self.publisher, self.secret_manager = clients.publisher, clients.secret_manager
        self._clients = clients

    async def firestore(self) -> Any:
        return _LaterFirestore(await self._clients.firestore())


class _LaterFirestore:
    def __init__(self, client: Any) -> None:
        self._client = client
        self.batch_get_documents, self.run_query = client.batch_get_documents, client.run_query

    async def commit(self, request: Any, **options: Any) -> Any:
        for write in CommitRequest.pb(request).writes:
            fields = write.update.fields
            if fields["state"].string_value == "claimed":
                fields[LATER_FIELD].string_value = fields[SIGNATURE].string_value
                if write.HasField("update_mask"):
                    write.update_mask.field_paths.append(LATER_FIELD)
        return await self._client.commit(request, **options)


class NextInstance(FunctionInstance):
    release = NEXT

    def build(self, wire: Wire, services: Services, settings: Settings, max_latency: float) -> Program:
        self.kind = NextRelease
        return super().build(wire, services, settings, max_latency)


class VersionsWorld(World):
    """A world in which two neighbouring releases are deployed in turn."""

    judges = VersionsJudge
    has_watch = False  # 1.0 has none

    def __init__(self, seed: int, kind: type[Container] = Container, rehearsal: Rehearsal | None = None) -> None:
        self._chance = rng = random.Random(f"releases of {seed}")
        other = PredecessorInstance if rng.choice(_NEIGHBOURS) == "predecessor" else NextInstance
        self._releases: list[type[FunctionInstance]] = [FunctionInstance, other]
        rng.shuffle(self._releases)
        self._strays = rng.choice((0.0, 0.2, 0.5))  # share of instances that start in the other release
        super().__init__(seed, kind, rehearsal)
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            self.timeline.after(rng.choice((10.0, self.calm_at)) * rng.random(), self._deploy)

    def instance_kind(self) -> type[FunctionInstance]:
        return self._releases[self._chance.random() < self._strays]

    def _deploy(self) -> None:
        """The other release takes over: an update, or a roll-back. Most instances are replaced one after the other."""
        self._releases.reverse()
        for instance in self._instances:
            if self._chance.random() < 0.8:
                within = self._chance.choice((0.0, 30.0))
                self.timeline.after(within * self._chance.random(), self._replace_by_deployed, instance)

    def _replace_by_deployed(self, instance: FunctionInstance) -> None:
        if instance in self._instances:
            self._end(instance)
