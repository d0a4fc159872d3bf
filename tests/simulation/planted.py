"""Faults planted in the real parts, so that the simulation shows that it can fail.

Each is a way to build this program that looks right, and that somebody has shipped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from google.api_core.exceptions import RetryError
from handlers.draining import Draining
from handlers.entries import Entry
from handlers.events import ArchiveJobFailed
from handlers.firestore import FirestoreClient
from handlers.grouping import Grouped
from handlers.outcomes import Misconfigured, Reason, Refused, Unavailable
from handlers.rpc import refused
from handlers.user_credentials import Secrets, UserCredentials
from msgspec.structs import replace

from handlers.ledger import Claim, Conflict, Held, Kept, Ledger, Settled, Store, Stored
from handlers.memory_store import MemoryStore
from handlers.ports import AccessToken, Answer, Http, NoAnswer, Portability, Publisher, Tokens, Unknown
from tests.simulation.grants import TOKEN_URI
from tests.simulation.instance import Composition
from tests.simulation.world import World

MOST_SCHEDULES = 3000  # by which each fault has to be found


class _StoreWith:
    """A store, to be changed in one point."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def load(self, job_id: str) -> Stored | None:
        return await self._store.load(job_id)

    async def due(self, now: datetime, limit: int) -> list[Stored]:
        return await self._store.due(now, limit)

    async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
        return await self._store.write(entry, version, link)


class PublishesBeforeItRecords(Composition):
    """The answer is on its way to the ledger while the follow-up goes out."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class Later(Ledger):
            async def record(self, claim: Claim, became: Entry) -> Kept:
                asyncio.get_running_loop().create_task(super().record(claim, became))
                return Kept(became, claim.version)

        return Later(store, **options)


class LeaseWithoutFence(Composition):
    """Whoever comes last writes last."""

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        class Unfenced(_StoreWith):
            async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
                if entry.state != "claimed":
                    found = await self.load(entry.job_id)
                    version = found.version if found else None
                return await super().write(entry, version, link)

        return Unfenced(store, now)


class ClaimWithoutCondition(Composition):
    """Two deliveries look, find nobody, and both claim."""

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        class Unconditional(_StoreWith):
            async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
                try:
                    return await super().write(entry, version, link)
                except Conflict:
                    found = await self.load(entry.job_id)
                    if entry.state != "claimed" or found is None:
                        raise
                    return await super().write(entry, found.version, link)

        return Unconditional(store, now)


class OneDocumentTwiceInACommit(Composition):
    """Two claims of one job go in one call, and neither sees the other."""

    def firestore(self, service: Any, pause: float) -> FirestoreClient:
        client = FirestoreClient(service, pause=pause)
        client.commit = Grouped(client.commit.call, size=lambda writes: 0, refused=refused, pause=pause)
        return client


class LeaseByTheWallClock(Composition):
    """A lease is measured by comparing two instances' clocks."""

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        class WallClock(_StoreWith):
            async def load(self, job_id: str) -> Stored | None:
                found = await super().load(job_id)
                return found and replace(found, age=(self._now() - found.entry.updated_at).total_seconds())

        return WallClock(store, now)


class LeaseShorterThanTheWork(Composition):
    """A claim lapses under a holder that is alive and at work."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        return Ledger(store, **options | {"lease_seconds": 30.0})


class LedgerInMemory(Composition):
    """Each instance remembers what it did itself."""

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        return MemoryStore()


class AsksAgain(Composition):
    """A job that is answered can be claimed once more."""

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        class Forgetful(_StoreWith):
            async def load(self, job_id: str) -> Stored | None:
                found = await super().load(job_id)
                if found and found.entry.state == "retried":
                    return replace(found, entry=replace(found.entry, state="open"))
                return found

        return Forgetful(store, now)


class ForgetsTheChain(Composition):
    """A new job is not entered in the ledger, so its own failure begins a new chain."""

    def store(self, store: Store, now: Callable[[], datetime]) -> Store:
        class Unlinked(_StoreWith):
            async def write(self, entry: Entry, version: Any, link: Entry | None = None) -> Any:
                return await super().write(entry, version)

        return Unlinked(store, now)


class _JudgesWith(Ledger):
    """A ledger whose claims are changed in one point."""

    def _judge(self, found: Stored | None, event: ArchiveJobFailed, holder: str) -> Entry | Held | Settled:
        verdict = super()._judge(found, event, holder)
        return self._change(verdict, found.entry) if found and isinstance(verdict, Entry) else verdict

    def _change(self, claimed: Entry, before: Entry) -> Entry:
        raise NotImplementedError


class LapsedClaimsAreFree(Composition):
    """The budget does not count a claim whose holder never came back."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class Free(_JudgesWith):
            def _change(self, claimed: Entry, before: Entry) -> Entry:
                return replace(claimed, calls_counted=before.calls_counted)

        return Free(store, **options)


class DeferralEndsWithItsClaim(Composition):
    """Who claims a deferred job takes it off the list of what is due, before there is an outcome."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class Wiped(_JudgesWith):
            def _change(self, claimed: Entry, before: Entry) -> Entry:
                return claimed.done()

        return Wiped(store, **options)


class DeferralEndsWithItsOutcome(Composition):
    """What was deferred is no longer due once its outcome is recorded, published or not."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class WipedByRecord(Ledger):
            async def record(self, claim: Claim, became: Entry) -> Kept:
                return await super().record(claim, became if became.state == "deferred" else became.done())

        return WipedByRecord(store, **options)


class DeferralWithoutItsEvent(Composition):
    """A deferred job is acknowledged, and nothing is kept to put back."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class Lost(Ledger):
            async def record(self, claim: Claim, became: Entry) -> Kept:
                if became.state != "deferred":
                    return await super().record(claim, became)
                kept = await super().record(claim, became.done())
                return Kept(became, kept.version)

        return Lost(store, **options)


class DeferralOpenedAfterPublishing(Composition):
    """The event goes out a second before it is opened; where it is not yet due by the clock, it is acknowledged."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class OpenedAfter(Ledger):
            async def put_back(self, stored: Stored, publish: Callable[[], Awaitable[None]]) -> None:
                await publish()
                await asyncio.sleep(1.0)
                if stored.entry.state == "deferred":
                    try:
                        await self._store.write(stored.entry.released().done(), stored.version)
                    except Conflict:
                        return

        return OpenedAfter(store, **options)


class _PortabilityWith:
    """The API, with its answers changed in one point."""

    def __init__(self, portability: Portability, change: Callable[[Answer, str], Answer]) -> None:
        self._portability = portability
        self._change = change

    async def retry(self, job_id: str, *, token: str, seconds: float) -> Answer:
        return self._change(await self._portability.retry(job_id, token=token, seconds=seconds), token)


class ReleasesAfterSending(Composition):
    """A call without an answer counts as one that was never made."""

    def portability(self, portability: Portability) -> Portability:
        return _PortabilityWith(
            portability, lambda answer, _: Unavailable(answer.detail) if isinstance(answer, Unknown) else answer
        )


class KeepsTheClaim(Composition):
    """Who cannot call Google puts the delivery off, and lets the claim lapse: it counts as a retry in doubt."""

    def ledger(self, store: Store, **options: Any) -> Ledger:
        class Keeping(Ledger):
            async def record(self, claim: Claim, became: Entry) -> Kept:
                if became == claim.entry.released():
                    return Kept(became, claim.version)
                return await super().record(claim, became)

        return Keeping(store, **options)


class CountsWhatWasNotSent(Composition):
    """A call that never left, or that Google held back, costs one of the three retries."""

    def portability(self, portability: Portability) -> Portability:
        return _PortabilityWith(
            portability, lambda answer, _: Unknown(str(answer)) if isinstance(answer, Unavailable) else answer
        )


class BlamesTheUserForOurProject(Composition):
    """Every 403 is the user's."""

    def portability(self, portability: Portability) -> Portability:
        def blame(answer: Answer, token: str) -> Answer:
            return Refused(Reason.ACCESS_DENIED, "403") if isinstance(answer, Misconfigured) else answer

        return _PortabilityWith(portability, blame)


class TellsTheToken(Composition):
    """A refusal quotes the request."""

    def portability(self, portability: Portability) -> Portability:
        def quote(answer: Answer, token: str) -> Answer:
            return Refused(answer.reason, f"{answer}: Bearer {token}") if isinstance(answer, Refused) else answer

        return _PortabilityWith(portability, quote)


class BlamesTheUserForOurClient(Composition):
    """Every 4xx of the token endpoint is the user's."""

    def http(self, http: Http) -> Http:
        class Blaming:
            async def post(self, url: str, **request: Any) -> tuple[int, bytes]:
                status, body = await http.post(url, **request)
                refused = url == TOKEN_URI and 400 <= status < 500 and status not in (408, 429)
                return (400, b'{"error": "invalid_grant"}') if refused else (status, body)

        return Blaming()


class SendsAgainByItself(Composition):
    """The HTTP client repeats what was not answered."""

    def http(self, http: Http) -> Http:
        class Repeating:
            async def post(self, url: str, **request: Any) -> tuple[int, bytes]:
                try:
                    return await http.post(url, **request)
                except NoAnswer:
                    return await http.post(url, **request)

        return Repeating()


class TokensForEver(Composition):
    """An access token is kept, however old."""

    def tokens(self, secrets: Secrets, http: Http, **options: Any) -> Tokens:
        class Immortal(UserCredentials):
            async def _fetch(self, credential_id: str, known: AccessToken | None) -> AccessToken:
                token = replace(await super()._fetch(credential_id, known), expires_at=float("inf"))
                self._tokens[credential_id] = token
                return token

        return Immortal(secrets, http, **options)


class SecretsForEver(Composition):
    """A secret is read once, so that consent given anew is never seen."""

    def secrets(self, secrets: Secrets) -> Secrets:
        class Remembering:
            def __init__(self) -> None:
                self._known: dict[str, bytes] = {}

            async def read(self, secret_id: str) -> bytes:
                if secret_id not in self._known:
                    self._known[secret_id] = await secrets.read(secret_id)
                return self._known[secret_id]

        return Remembering()


class RefusalForEverybody(Composition):
    """Who joins a look at a secret that is under way shares its refusal, though consent is newer than that look."""

    def tokens(self, secrets: Secrets, http: Http, **options: Any) -> Tokens:
        class Sharing(UserCredentials):
            async def _join(self, credential_id: str, flight: asyncio.Task[AccessToken]) -> AccessToken:
                return await asyncio.shield(flight)

        return Sharing(secrets, http, **options)


class UnexpectedException(Composition):
    """A library's exception comes through where an outcome should be."""

    def secrets(self, secrets: Secrets) -> Secrets:
        class Raising:
            async def read(self, secret_id: str) -> bytes:
                try:
                    return await secrets.read(secret_id)
                except Unavailable as error:
                    raise RetryError("timeout exceeded", error) from None  # type: ignore[no-untyped-call]

        return Raising()


class PublishesInPassing(Composition):
    """The delivery is acknowledged while its message is on the way."""

    def topic(self, topic: Publisher) -> Publisher:
        class Passing:
            async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
                asyncio.get_running_loop().create_task(topic.publish(data, attributes))

        return Passing()


class AcknowledgesOnError(Composition):
    """Whatever cannot be done now is acknowledged, so that the queue stays short."""

    def status(self, status: int) -> int:
        return 204 if status == 503 else status


class IgnoresSigterm(Composition):
    """What is in hand goes on as if there were time."""

    def draining(self) -> Draining:
        return Draining(seconds=90.0)


# planted fault → what its violation says
FAULTS: Mapping[type[Composition], str] = {
    PublishesBeforeItRecords: "before the ledger had its new job",
    LeaseWithoutFence: "which does not hold it",
    ClaimWithoutCondition: "a live claim of",
    OneDocumentTwiceInACommit: "a live claim of",
    LeaseByTheWallClock: "a live claim of",
    LeaseShorterThanTheWork: "lapsed while its holder was at work",
    LedgerInMemory: "without holding the claim",
    AsksAgain: "a final answer was overwritten",
    ForgetsTheChain: "retries may be used",
    LapsedClaimsAreFree: "retries may be used",
    DeferralEndsWithItsClaim: "vanished",
    DeferralEndsWithItsOutcome: "vanished",
    DeferralWithoutItsEvent: "vanished",
    DeferralOpenedAfterPublishing: "vanished",
    ReleasesAfterSending: "retries may be used",
    KeepsTheClaim: "its claim stayed behind",
    CountsWhatWasNotSent: "which was not so",
    BlamesTheUserForOurProject: "which was not so",
    TellsTheToken: "a secret is in",
    BlamesTheUserForOurClient: "which was not so",
    SendsAgainByItself: "twice under one claim",
    TokensForEver: "before it was sent",
    SecretsForEver: "which was not so",
    RefusalForEverybody: "which was not so",
    UnexpectedException: "raised RetryError",
    PublishesInPassing: "without a durable outcome",
    AcknowledgesOnError: "without a durable outcome",
    IgnoresSigterm: "ten seconds after SIGTERM",
}


def first_seed_that_finds(fault: type[Composition], said: str, most: int = MOST_SCHEDULES) -> int | None:
    """The first seed whose run breaks a promise in these words, out of so many."""
    for seed in range(most):
        if any(said in violation for violation in World(seed, fault).run().violations):
            return seed
    return None
