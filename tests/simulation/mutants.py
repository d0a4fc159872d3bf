"""Faults built into the real parts, so that the simulation shows that it can fail.

Each is a way to build this program that looks right, and that somebody has shipped. A mutant is a container with one
part changed, over public names alone.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from google.cloud.firestore_v1.types import CommitRequest, CommitResponse
from msgspec.structs import replace

from handlers.bootstrap import Container
from handlers.domain.answers import Answer, Cooldown, JobState, NotSent, OutcomeUnknown, Unauthorized
from handlers.domain.events import Delivery, MalformedEvent, encode, known_fields, parse_failed, timestamp
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.outcomes import (
    Deferred,
    Fault,
    Misconfigured,
    Outcome,
    Reason,
    Rejection,
    RetryLater,
    StepError,
    Transient,
)
from handlers.google.batching import Batcher
from handlers.google.grpc_errors import is_refused
from handlers.google.http_client import HttpResponse
from handlers.ledger import Claim, Claimable, Ledger, NoCallNeeded
from handlers.memory_store import MemoryStore
from handlers.ports import AccessToken, Conflict, Publisher, Store, Unreadable, VersionedEntry
from handlers.resume_deferred import ResumeDeferred
from handlers.retry_failed_job import RetryFailedJob
from handlers.telemetry.logging import LogLine
from handlers.watch_job import WatchJob
from tests.simulation.grants import TOKEN_URI
from tests.simulation.world import World

MOST_SCHEDULES = 3000  # of a search for a mutant, which begins at its hint


class _Changed:
    """A part, to be changed in one point."""

    def __init__(self, part: Any, container: Container) -> None:
        self.part = part
        self.container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)


class _WithStore(Container):
    Change: type[_Changed]

    @cached_property
    def store(self) -> Any:
        return self.Change(super().store, self)


class _WithLedger(Container):
    Change: type[_Changed]

    @cached_property
    def ledger(self) -> Any:
        return self.Change(super().ledger, self)


class _WithWatchStore(Container):
    Change: type[_Changed]

    @cached_property
    def watch_store(self) -> Any:
        return self.Change(super().watch_store, self)


class _WithPortability(Container):
    Change: type[_Changed]

    @cached_property
    def portability(self) -> Any:
        return self.Change(super().portability, self)


class _WithHttp(Container):
    Change: type[_Changed]

    @cached_property
    def http(self) -> Any:
        return self.Change(super().http, self)


class _WithTokens(Container):
    Change: type[_Changed]

    @cached_property
    def tokens(self) -> Any:
        return self.Change(super().tokens, self)


class _WithFirestore(Container):
    Change: type[_Changed]

    @cached_property
    def clients(self) -> Any:
        class WithFirestore(_Changed):
            async def firestore(self) -> Any:
                return _once(self, change, await self.part.firestore())

        change = self.Change
        return WithFirestore(super().clients, self)


class _WithSecrets(Container):
    Change: type[_Changed]

    @cached_property
    def clients(self) -> Any:
        class WithSecrets(_Changed):
            async def secret_manager(self, location: str = "") -> Any:
                return _once(self, change, await self.part.secret_manager(location))

        change = self.Change
        return WithSecrets(super().clients, self)


def _once(clients: _Changed, change: type[_Changed], client: Any) -> Any:
    """The changed client, which is the same at each call."""
    clients.__dict__.setdefault("changed", change(client, clients.container))
    return clients.__dict__["changed"]


# --- the store ---


class LeaseWithoutFence(_WithStore):
    """Whoever comes last writes last."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            if entry.state != "claimed":
                found = await self.load(entry.job_id)
                version = found.version if found else None
            return await self.part.write(entry, version, link)


class ClaimWithoutCondition(_WithStore):
    """Two deliveries look, find nobody, and both claim."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            try:
                written = await self.part.write(entry, version, link)
            except Conflict:
                found = await self.load(entry.job_id)
                if entry.state != "claimed" or found is None:
                    raise
                written = await self.part.write(entry, found.version, link)
            return written


class _OnLoad(_Changed):
    """A store whose entries are changed as they are read."""

    async def load(self, job_id: str) -> VersionedEntry | None:
        found = await self.part.load(job_id)
        return self.change(found) if found else None

    def change(self, found: VersionedEntry) -> VersionedEntry:
        raise NotImplementedError


class _OpenOnLoad(_OnLoad):
    """Entries of this state are read as open ones."""

    state = ""

    def change(self, found: VersionedEntry) -> VersionedEntry:
        is_open = found.entry.state == self.state
        return replace(found, entry=replace(found.entry, state="open")) if is_open else found


class LeaseByTheWallClock(_WithStore):
    """A lease is measured by comparing two instances' clocks."""

    class Change(_OnLoad):
        def change(self, found: VersionedEntry) -> VersionedEntry:
            return replace(found, written_at=found.entry.updated_at, read_at=self.container.now())


class AsksAgain(_WithStore):
    """A job that is answered can be claimed once more."""

    class Change(_OpenOnLoad):
        state = "retried"


class RejectionForEver(_WithStore):
    """A rejection answers for every later event, whatever has changed since."""

    class Change(_OnLoad):
        def change(self, found: VersionedEntry) -> VersionedEntry:
            rejected = found.entry.state == "rejected"
            late = replace(found.entry, decided_at=datetime.max.replace(tzinfo=found.written_at.tzinfo))
            return replace(found, entry=late) if rejected else found


class NoDoubtPause(_WithStore):
    """A call in doubt is followed by the next one as soon as the message comes again."""

    class Change(_OnLoad):
        def change(self, found: VersionedEntry) -> VersionedEntry:
            return replace(found, entry=replace(found.entry, doubts_waited_for=found.entry.calls_made + 1))


class LapsedClaimsAreFree(_WithStore):
    """The budget does not count a claim whose owner never came back."""

    class Change(_OnLoad):
        def change(self, found: VersionedEntry) -> VersionedEntry:
            entry = found.entry
            lapsed = entry.state == "claimed" and found.age > entry.lease_seconds
            return replace(found, entry=replace(entry, state="open")) if lapsed else found


class AdoptionCountsTwice(_WithLedger):
    """A job that runs already is one more retry, beside the calls in doubt that made it."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if entry.state == "retried":
                entry = replace(entry, calls_made=claim.entry.calls_made + 1)
            return await self.part.record(claim, entry)


class RejectionCountsTwice(_WithLedger):
    """What is rejected counts as one more retry, though nothing was carried out."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if entry.state == "rejected":
                entry = replace(entry, calls_made=entry.calls_made + 1)
            return await self.part.record(claim, entry)


class ForgetsEarly(_WithStore):
    """An entry is kept until its event is too old, though a message about it may come later."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            early = replace(entry, expire_at=entry.updated_at + self.container.settings.event_max_age)
            return await self.part.write(early, version, link)


class ForgetsTheChainEarly(_WithStore):
    """The entry of a new job may be deleted at once."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            early = replace(link, expire_at=link.updated_at) if link else None
            return await self.part.write(entry, version, early)


class ForgetsTheChain(_WithStore):
    """A new job is not entered in the ledger, so its own failure begins a new chain."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            return await self.part.write(entry, version)


class LinkTakenForBeingInTheWay(_WithStore):
    """A write that is refused is tried again without the new job's entry, seen or not."""

    class Change(_Changed):
        def __init__(self, part: Any, container: Container) -> None:
            super().__init__(part, container)
            self.in_the_way: set[str] = set()

        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            try:
                free = link if link and link.job_id not in self.in_the_way else None
                written: VersionedEntry = await self.part.write(entry, version, free)
            except Conflict:
                self.in_the_way |= {link.job_id} if link else set()
                raise
            return written


class LedgerInMemory(Container):
    """Each instance remembers what it did itself."""

    @cached_property
    def store(self) -> Store:
        return MemoryStore(self.now)


# --- Firestore ---


class _Joining(_Changed):
    """A client that joins commits."""

    def __init__(self, part: Any, container: Container) -> None:
        super().__init__(part, container)
        self.together = Batcher[Any](self.send, size=lambda request: 0, is_refused=is_refused, max_latency=2.0)

    async def commit(self, request: Any, **options: Any) -> Any:
        self.options = options
        return await self.together(request)

    async def send(self, requests: list[Any]) -> list[Any]:
        joined = CommitRequest(database=requests[0].database)
        for request in requests:
            CommitRequest.pb(joined).writes.extend(CommitRequest.pb(request).writes)
        results = list(CommitResponse.pb(await self.part.commit(joined, **self.options)).write_results)
        answers = []
        for request in requests:
            answer = CommitResponse()
            number = len(CommitRequest.pb(request).writes)
            CommitResponse.pb(answer).write_results.extend(results[:number])
            results = results[number:]
            answers.append(answer)
        return answers


class OneDocumentTwiceInACommit(_WithFirestore):
    """Two claims of one job go in one call, and neither sees the other."""

    Change = _Joining


class UnknownFieldsLost(_WithFirestore):
    """An entry is written whole, so what a later version added to it is gone."""

    class Change(_Changed):
        async def commit(self, request: Any, **options: Any) -> Any:
            for write in CommitRequest.pb(request).writes:
                write.ClearField("update_mask")
            return await self.part.commit(request, **options)


# --- the ledger ---


class PublishesBeforeItRecords(_WithLedger):
    """The answer is on its way to the ledger while the follow-up goes out."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            asyncio.get_running_loop().create_task(self.part.record(claim, entry))
            return replace(claim.stored, entry=entry)


class LeaseShorterThanTheWork(Container):
    """A claim lapses under an owner that is alive and at work."""

    @cached_property
    def ledger(self) -> Ledger:
        self.settings = replace(self.settings, claim_lease_seconds=30.0)
        return super().ledger


class KeepsTheClaim(_WithLedger):
    """Who cannot call Google puts the delivery off, and lets the claim lapse: it counts as a call in doubt."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if entry == claim.entry.released():
                return claim.stored
            return await self.part.record(claim, entry)


class LeavesAClaimBehindAnException(_WithLedger):
    """Where a step raises after the claim, nobody gives the claim back."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if sys.exc_info()[1]:
                return claim.stored
            return await self.part.record(claim, entry)


class DeferralEndsWithItsClaim(_WithLedger):
    """Who claims a deferred job takes it off the list of what is due, before there is an outcome."""

    class Change(_Changed):
        async def claim(self, job: Any, owner: str, looked: Claimable | None = None) -> Any:
            if looked:
                looked = replace(looked, entry=looked.entry.done(looked.entry.updated_at))
            return await self.part.claim(job, owner, looked)


class DeferralEndsWithItsOutcome(_WithLedger):
    """What was deferred is no longer due once its outcome is recorded, published or not."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            ended = entry if entry.state == "deferred" else entry.done(claim.stored.written_at)
            return await self.part.record(claim, ended)


class DeferralEndsWithAnothersRejection(_WithLedger):
    """A rejection for one credential ends the deferral of another one's event."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            ended = entry.done(claim.stored.written_at) if entry.state == "rejected" else entry
            return await self.part.record(claim, ended)


class DeferralForgetsRetries(_WithLedger):
    """An event that tells more retries is acknowledged while its job is deferred, and its number forgotten."""

    class Change(_Changed):
        async def replace_kept(self, found: VersionedEntry, entry: LedgerEntry) -> Any:
            same = (entry.user_id, entry.credential_id) == (found.entry.user_id, found.entry.credential_id)
            return found if same else await self.part.replace_kept(found, entry)


class PutBackBeginsTheLeaseAnew(_WithStore):
    """The schedule writes the claim of a delivery that died as if it were made now."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            held = replace(entry, lease_seconds=150) if entry.state == "claimed" else entry
            return await self.part.write(held, version, link)


class DueAfterThePutBack(_WithStore):
    """Whoever holds the claim writes the event that was kept when it was claimed, though it may be put back since."""

    class Change(_OnLoad):
        def __init__(self, part: Any, container: Container) -> None:
            super().__init__(part, container)
            self.claims: dict[str, LedgerEntry] = {}

        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            if entry.state == "claimed":
                self.claims[entry.lease_owner] = entry
            return await self.part.write(entry, version, link)

        def change(self, found: VersionedEntry) -> VersionedEntry:
            claimed = self.claims.get(found.entry.lease_owner, found.entry)
            return replace(found, entry=found.entry.with_event_of(claimed))


class DeferralWithoutItsEvent(_WithLedger):
    """A deferred job is acknowledged, and nothing is kept to put back."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if entry.state != "deferred":
                return await self.part.record(claim, entry)
            written = await self.part.record(claim, entry.done(claim.stored.written_at))
            return replace(written, entry=entry)


class DeferralOfKnownFields(_WithLedger):
    """An event comes back with the fields that are read, and without its producer's own."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if entry.state == "deferred":
                job = parse_failed(entry.event)
                entry = replace(entry, event=known_fields(job, "failedAt", job.failed_at))
            return await self.part.record(claim, entry)


class DeferralWithoutAttributes(_WithLedger):
    """An event comes back without its attributes."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            return await self.part.record(claim, replace(entry, attributes=""))


class DueByTheInstancesClock(_WithLedger):
    """An instance whose clock is behind passes over what is due."""

    class Change(_Changed):
        async def due(self, limit: int, start: Any) -> Any:
            page, now = await self.part.due(limit, start), self.container.now()
            due = [one for one in page.entries if isinstance(one, Unreadable) or one.entry.not_before <= now]
            return replace(page, entries=due)


class StaysDueOnceItIsPutBack(_WithLedger):
    """Each run of the schedule puts an event back once more, until its delivery is over."""

    class Change(_Changed):
        async def put_back(self, found: VersionedEntry, publish: Callable[[], Awaitable[None]]) -> bool:
            async def publish_alone() -> None:
                await publish()
                raise Conflict

            with suppress(Conflict):
                return bool(await self.part.put_back(found, publish_alone))
            return True


class DeferralWithoutItsTime(_WithLedger):
    """The event comes back as it came, and so young again."""

    class Change(_Changed):
        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            head, added, _ = entry.event.rpartition(b',"failedAt":"')
            if entry.state == "deferred" and added:
                entry = replace(entry, event=head + b"}")
            return await self.part.record(claim, entry)


class StopsAtWhatItCannotRead(_WithLedger):
    """A run of the schedule fails for one entry that nobody can read."""

    class Change(_Changed):
        async def due(self, limit: int, start: Any) -> Any:
            page = await self.part.due(limit, start)
            if any(isinstance(one, Unreadable) for one in page.entries):
                raise ValueError("it cannot be read")
            return page


class RecordsOnce(_WithStore):
    """A new job that the ledger does not take at the first try is given up, and its call counts as one in doubt."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            try:
                return await self.part.write(entry, version, link)
            except Transient:
                if link:
                    raise TimeoutError from None
                raise


class FollowUpOfWhoeverAsks(_WithLedger):
    """A follow-up that is published again names the grant of the event that asks for it."""

    class Change(_Changed):
        async def look(self, job: Any) -> Any:
            found = await self.part.look(job)
            if not isinstance(found, NoCallNeeded) or found.found.entry.state != "retried":
                return found
            entry = replace(found.found.entry, credential_id=job.credential_id)
            return NoCallNeeded(replace(found.found, entry=entry))


class GrantBeforeBudget(_WithLedger):
    """A user is asked for consent, though the job has no retry left."""

    class Change(_Changed):
        async def claim(self, job: Any, owner: str, looked: Claimable | None = None) -> Any:
            self.token = await self.container.tokens.get(job.credential_id)
            return await self.part.claim(job, owner, looked)

        async def record(self, claim: Claim, entry: LedgerEntry) -> Any:
            if entry.reason == Reason.RETRY_BUDGET_EXHAUSTED and isinstance(self.token, Rejection):
                entry = claim.entry.rejected(self.token)
            return await self.part.record(claim, entry)


# --- the API ---


class _Answering(_Changed):
    """The API, with its answers changed in one point."""

    async def retry(self, job_id: str, *, token: str, **said: Any) -> Answer | Unauthorized:
        return self.change(await self.part.retry(job_id, token=token, **said), token)

    def change(self, answer: Answer | Unauthorized, token: str) -> Answer | Unauthorized:
        return answer


class ReleasesAfterSending(_WithPortability):
    """A call without an answer counts as one that was never made."""

    class Change(_Answering):
        def change(self, answer: Answer | Unauthorized, token: str) -> Answer | Unauthorized:
            return NotSent(answer.detail) if isinstance(answer, OutcomeUnknown) else answer


class CountsWhatWasNotSent(_WithPortability):
    """A call that never left, or that Google held back, costs one of the three retries."""

    class Change(_Answering):
        def change(self, answer: Answer | Unauthorized, token: str) -> Answer | Unauthorized:
            return OutcomeUnknown(answer.detail) if isinstance(answer, NotSent | RetryLater) else answer


class BlamesTheUserForAProxy(_WithPortability):
    """Every 403 is the user's, and every 404 the job's, whoever says so."""

    class Change(_Answering):
        def change(self, answer: Answer | Unauthorized, token: str) -> Answer | Unauthorized:
            blamed = isinstance(answer, Fault) and "403" in answer.detail
            return Rejection(Reason.ACCESS_DENIED, "403") if blamed else answer


class CooldownInAnotherZone(_WithPortability):
    """The time that Google names is taken for another zone's."""

    class Change(_Answering):
        def change(self, answer: Answer | Unauthorized, token: str) -> Answer | Unauthorized:
            return Cooldown(answer.until + timedelta(hours=1)) if isinstance(answer, Cooldown) else answer


class TellsTheToken(_WithPortability):
    """A rejection quotes the request."""

    class Change(_Answering):
        def change(self, answer: Answer | Unauthorized, token: str) -> Answer | Unauthorized:
            is_rejection = isinstance(answer, Rejection)
            return replace(answer, detail=f"Bearer {token}") if is_rejection else answer


class BlamesTheUserForOurClient(_WithHttp):
    """Every 4xx of the token endpoint is the user's."""

    class Change(_Changed):
        async def request(self, method: str, url: str, **said: Any) -> Any:
            answer = await self.part.request(method, url, **said)
            blamed = url == TOKEN_URI and isinstance(answer, HttpResponse) and 400 <= answer.status < 500
            return HttpResponse(400, b'{"error": "invalid_grant"}') if blamed else answer


class SendsAgainByItself(_WithHttp):
    """The HTTP client repeats what was not answered."""

    class Change(_Changed):
        async def request(self, method: str, url: str, **said: Any) -> Any:
            answer = await self.part.request(method, url, **said)
            again = isinstance(answer, OutcomeUnknown)
            return await self.part.request(method, url, **said) if again else answer


# --- tokens ---


class ClaimsBeforeTheToken(_WithPortability):
    """A delivery holds its claim while it waits for the access token: the order of the first edition."""

    @cached_property
    def tokens(self) -> Any:
        return _Promised(super().tokens, self)

    class Change(_Changed):
        async def retry(self, job_id: str, *, token: str, **said: Any) -> Answer | Unauthorized:
            try:
                got = await self.container.tokens.get(token)
            except Transient as fault:
                return NotSent(str(fault))
            except Exception as fault:
                return Fault(str(fault))
            if isinstance(got, Rejection):
                return got
            if self.container.shutdown.is_set():
                return NotSent("the instance is shutting down")
            answer: Answer | Unauthorized = await self.part.retry(job_id, token=got.value, **said)
            return answer


class _Promised(_Changed):
    """Its tokens are there at once: they name the credential by which to fetch them."""

    def cached(self, credential_id: str) -> AccessToken | None:
        return AccessToken(credential_id, "", 0.0)

    async def replace(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection:
        got = self.part.cached(credential_id)
        new: AccessToken | Rejection = await self.part.replace(credential_id, got) if got else used
        return new if isinstance(new, Rejection) else used

    async def replace_if_newer(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection | None:
        got = self.part.cached(credential_id)
        new: AccessToken | Rejection | None = await self.part.replace_if_newer(credential_id, got) if got else None
        return used if isinstance(new, AccessToken) else new


class TokensForEver(_WithTokens):
    """An access token is kept, however old."""

    class Change(_Changed):
        def __init__(self, part: Any, container: Container) -> None:
            super().__init__(part, container)
            self.kept: dict[str, AccessToken] = {}

        def cached(self, credential_id: str) -> AccessToken | None:
            return self.kept.get(credential_id)

        async def get(self, credential_id: str) -> AccessToken | Rejection:
            got: AccessToken | Rejection = self.kept.get(credential_id) or await self.part.get(credential_id)
            if isinstance(got, AccessToken):
                self.kept[credential_id] = got
            return got


class RemembersAWithdrawnToken(_WithSecrets):
    """A refresh token is read once, so that a right that is withdrawn, or given anew, is never seen."""

    class Change(_Changed):
        def __init__(self, part: Any, container: Container) -> None:
            super().__init__(part, container)
            self.known: dict[str, Any] = {}

        async def access_secret_version(self, request: Any, **options: Any) -> Any:
            if request.name not in self.known:
                self.known[request.name] = await self.part.access_secret_version(request, **options)
            return self.known[request.name]


class RejectionForEverybody(_WithTokens):
    """Who joins a look at a secret that is under way shares its rejection, though consent is newer than that look."""

    class Change(_Changed):
        def __init__(self, part: Any, container: Container) -> None:
            super().__init__(part, container)
            self.under_way: dict[str, asyncio.Task[Any]] = {}

        async def get(self, credential_id: str) -> AccessToken | Rejection:
            flight = self.under_way.get(credential_id)
            if flight is None or flight.done():
                flight = self.under_way[credential_id] = asyncio.create_task(self.part.get(credential_id))
            got: AccessToken | Rejection = await asyncio.shield(flight)
            return got


class PutsOffAfterA401(_WithTokens):
    """After a 401 the delivery is put off, though another access token is to be had."""

    class Change(_Changed):
        async def replace(self, credential_id: str, used: AccessToken) -> AccessToken | Rejection:
            await self.part.replace(credential_id, used)
            raise Transient("its next delivery has another token")


class RemembersAFaultOfOurs(_WithTokens):
    """After a fault of ours nobody asks for a token for five minutes, though it is mended meanwhile."""

    class Change(_Changed):
        until = 0.0

        async def get(self, credential_id: str) -> AccessToken | Rejection:
            now = asyncio.get_running_loop().time()
            if now < self.until:
                raise Misconfigured("as a moment ago")
            try:
                got: AccessToken | Rejection = await self.part.get(credential_id)
            except Misconfigured:
                self.until = now + 300
                raise
            return got


class TokenBeforeTheEvent(Container):
    """The access token is fetched first, whatever the event says."""

    async def retry_failed_job(self, delivery: Delivery, log: LogLine) -> Outcome:
        with suppress(MalformedEvent, StepError):
            await self.tokens.get(parse_failed(delivery.data).credential_id)
        return await super().retry_failed_job(delivery, log)


class _OneForAll(_Changed):
    """Tokens, which are got for the first credential that is asked for."""

    first = ""

    def cached(self, credential_id: str) -> AccessToken | None:
        self.first = self.first or credential_id
        found: AccessToken | None = self.part.cached(self.first)
        return found

    async def get(self, credential_id: str) -> AccessToken | Rejection:
        self.first = self.first or credential_id
        got: AccessToken | Rejection = await self.part.get(self.first)
        return got


class OneTokenForAll(_WithTokens):
    """The access token in hand serves every credential."""

    Change = _OneForAll


class OneTokenForAllLooks(Container):
    """The watch looks at every job with the access token in hand."""

    @cached_property
    def watch_use_case(self) -> WatchJob:
        use_case = super().watch_use_case
        return replace(use_case, tokens=_OneForAll(use_case.tokens, self))


class OneSpoiltSecretStopsAll(_WithTokens):
    """Where a secret holds no token, nobody's is asked for during the next minute."""

    class Change(_Changed):
        fault: Misconfigured | None = None
        until = datetime.min.replace(tzinfo=UTC)

        async def get(self, credential_id: str) -> AccessToken | Rejection:
            if self.fault and self.container.now() < self.until:
                raise self.fault
            try:
                got: AccessToken | Rejection = await self.part.get(credential_id)
            except Misconfigured as fault:
                self.fault, self.until = fault, self.container.now() + timedelta(minutes=1)
                raise
            return got


class UnexpectedException(_WithTokens):
    """A library's exception comes through where an outcome should be."""

    class Change(_Changed):
        async def get(self, credential_id: str) -> AccessToken | Rejection:
            try:
                got: AccessToken | Rejection = await self.part.get(credential_id)
            except Transient as fault:
                raise LookupError(str(fault)) from None
            return got


# --- Pub/Sub, and the process ---


class PublishesInPassing(Container):
    """The delivery is acknowledged while its message is on the way."""

    def topic(self, name: str) -> Publisher:
        class Passing(_Changed):
            async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
                asyncio.get_running_loop().create_task(self.part.publish(data, attributes))

        return Passing(super().topic(name), self)


class NoDedupKey(Container):
    """A message goes out without the key by which its readers know it again."""

    def topic(self, name: str) -> Publisher:
        class WithoutKey(_Changed):
            async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
                await self.part.publish(data, {key: said for key, said in attributes.items() if key != "dedupKey"})

        return WithoutKey(super().topic(name), self)


class RejectedWhenPublished(Container):
    """A rejection tells when it is published, so that each copy looks like another one."""

    def topic(self, name: str) -> Publisher:
        class TellingNow(_Changed):
            async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
                told = json.loads(data)
                if "rejectedAt" in told:
                    data = encode(told | {"rejectedAt": timestamp(self.container.now())})
                await self.part.publish(data, attributes)

        return TellingNow(super().topic(name), self)


class AcknowledgesOnError(Container):
    """Whatever cannot be done now is acknowledged, so that the queue stays short."""

    async def retry_failed_job(self, delivery: Delivery, log: LogLine) -> Outcome:
        outcome = await super().retry_failed_job(delivery, log)
        return Deferred(self.now()) if isinstance(outcome, RetryLater) else outcome


class IgnoresSigterm(Container):
    """What is in hand begins its call as if there were time."""

    @cached_property
    def retry_use_case(self) -> RetryFailedJob:
        return replace(super().retry_use_case, shutting_down=lambda: False)


class ClaimsOnceItEnds(Container):
    """After SIGTERM a job is claimed, for a call that is begun no more."""

    @cached_property
    def retry_use_case(self) -> RetryFailedJob:
        def shutting_down() -> bool:
            return self.shutdown.is_set() and sys._getframe(1).f_code.co_name != "_claim"

        return replace(super().retry_use_case, shutting_down=shutting_down)


class NoStepOnceItEnds(Container):
    """The log line of what is put off as the instance ends does not say at which step."""

    async def retry_failed_job(self, delivery: Delivery, log: LogLine) -> Outcome:
        outcome = await super().retry_failed_job(delivery, log)
        if self.shutdown.is_set():
            log.fields.pop("failedStep", None)
        return outcome


# --- the watch ---


class ForgetsAJobAfterADeath(Container):
    """A look is taken off the list of what is due, and then put back."""

    @cached_property
    def watch_ledger(self) -> Any:
        class TakenOffFirst(_Changed):
            async def put_back(self, found: VersionedEntry, publish: Callable[[], Awaitable[None]]) -> None:
                opened = replace(found.entry.released().done(found.written_at), updated_at=self.container.now())
                with suppress(Conflict):
                    await self.container.watch_store.write(opened, found.version)
                    await publish()

        return TakenOffFirst(super().watch_ledger, self)


class WatchLosesUnknownFields(UnknownFieldsLost):
    """The watch writes an entry whole, so what a later version added to it is gone."""


class EndsTwice(_WithPortability):
    """An end is looked at again where its event comes once more, and an archive that is gone counts as cancelled."""

    @cached_property
    def watch_store(self) -> Any:
        class Forgets(_OpenOnLoad):
            state = "ended"

        return Forgets(super().watch_store, self)

    class Change(_Changed):
        def __init__(self, part: Any, container: Container) -> None:
            super().__init__(part, container)
            self.complete: set[str] = set()

        async def state(self, job_id: str, **said: Any) -> Any:
            answer = await self.part.state(job_id, **said)
            if isinstance(answer, JobState) and answer.state == "COMPLETE":
                if job_id in self.complete:
                    return JobState("CANCELLED")
                self.complete.add(job_id)
            return answer


class TellsTheUrl(_WithHttp):
    """An ended event holds the links to the archive, so that nobody has to ask for them."""

    urls: Sequence[str] = ()

    class Change(_Changed):
        container: "TellsTheUrl"

        async def request(self, method: str, url: str, **said: Any) -> Any:
            answer = await self.part.request(method, url, **said)
            if method == "GET" and isinstance(answer, HttpResponse) and answer.status == 200:
                self.container.urls = json.loads(answer.body).get("urls", ())
            return answer

    def topic(self, name: str) -> Publisher:
        class WithUrls(_Changed):
            container: TellsTheUrl

            async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
                told = data if name != "archive-job-ended" else encode(json.loads(data) | {"urls": self.container.urls})
                await self.part.publish(told, attributes)

        return WithUrls(super().topic(name), self)


class KeepsWhatALookNeeds(_WithWatchStore):
    """Of a started event the watch keeps what it has to know for the next look, and so forgets the chain."""

    class Change(_Changed):
        async def write(self, entry: LedgerEntry, version: Any, link: LedgerEntry | None = None) -> Any:
            if entry.event:
                names = ("archiveJobId", "userId", "credentialId", "startedAt")
                fields = {name: said for name, said in json.loads(entry.event).items() if name in names}
                entry = replace(entry, event=encode(fields))
            return await self.part.write(entry, version, link)


class UnknownForEver(_WithWatchStore):
    """Once nobody could say how a job has ended, it is not looked at again, whoever asks."""

    Change = RejectionForEver.Change


class UnknownAnswersNothing(_WithWatchStore):
    """A message that comes again after an UNKNOWN is looked at, and tells it once more."""

    class Change(_OpenOnLoad):
        state = "rejected"


class LookForgetsAnotherCredential(Container):
    """A look writes over the event of another credential that has come since it began."""

    @cached_property
    def watch_ledger(self) -> Any:
        class AsIfNew(_Changed):
            async def keep(self, job: Any, found: VersionedEntry | None, entry: LedgerEntry) -> None:
                of_nobody = replace(found, entry=replace(found.entry, credential_id="")) if found else None
                await self.part.keep(job, of_nobody, entry)

        return AsIfNew(super().watch_ledger, self)


class WatchKeepsTheFirstCredential(Container):
    """A job that is watched already needs no other event, whatever credential that names."""

    @cached_property
    def watch_ledger(self) -> Any:
        class KeepsTheFirst(_Changed):
            async def replace_kept(self, found: VersionedEntry, entry: LedgerEntry) -> VersionedEntry:
                return found

        return KeepsTheFirst(super().watch_ledger, self)


class WaitsWithoutAnAnswer(_WithPortability):
    """A look that Google does not answer, or whose fault is ours, can as well be made the next time."""

    class Change(_Changed):
        async def state(self, job_id: str, **said: Any) -> Any:
            answer = await self.part.state(job_id, **said)
            return JobState("") if isinstance(answer, RetryLater | Fault | NotSent | OutcomeUnknown) else answer


class FaultsOfALookPass(_WithPortability):
    """A look is made again in any case, so nobody has to hear of what is wrong with it."""

    class Change(_Changed):
        async def state(self, job_id: str, **said: Any) -> Any:
            answer = await self.part.state(job_id, **said)
            return RetryLater(answer.detail) if isinstance(answer, Fault) else answer


class EndsWhenItIsTold(Container):
    """An end is told for the moment at which it is published, by the clock of the instance."""

    def topic(self, name: str) -> Publisher:
        class Dated(_Changed):
            async def publish(self, data: bytes, attributes: Mapping[str, str]) -> None:
                dated = json.loads(data) | {"endedAt": timestamp(self.container.now())}
                await self.part.publish(encode(dated) if name == "archive-job-ended" else data, attributes)

        return Dated(super().topic(name), self)


class LooksEverySecond(Container):
    """A job is looked at as often as the schedule runs."""

    @cached_property
    def watch_use_case(self) -> WatchJob:
        class Hasty(WatchJob, frozen=True):
            def wait(self, age: timedelta) -> timedelta:
                return timedelta(seconds=1)

        use_case = super().watch_use_case
        return Hasty(**{name: getattr(use_case, name) for name in use_case.__struct_fields__})


class OneCollectionForAll(Container):
    """The watch keeps its events where the retries are entered."""

    @cached_property
    def watch_store(self) -> Store:
        return self.store


class LooksOnTheFailedTopic(Container):
    """The schedule puts looks back where it puts deferrals."""

    @cached_property
    def resume_use_cases(self) -> list[ResumeDeferred]:
        return [replace(run, topic=self.topic(self.settings.failed_topic)) for run in super().resume_use_cases]


# mutant → what its violation says
MUTANTS: Mapping[type[Container], str] = {
    PublishesBeforeItRecords: "before the ledger had its new job",
    LeaseWithoutFence: "which does not hold it",
    ClaimWithoutCondition: "a live claim of",
    OneDocumentTwiceInACommit: "a live claim of",
    LeaseByTheWallClock: "a live claim of",
    LeaseShorterThanTheWork: "lapsed while its owner was at work",
    LedgerInMemory: "without holding the claim",
    AsksAgain: "a final answer was overwritten",
    RejectionForEver: "or answered another event",
    NoDoubtPause: "after a call in doubt, and the pause is",
    LapsedClaimsAreFree: "that lapsed was not counted",
    AdoptionCountsTwice: "its follow-up counts",
    RejectionCountsTwice: "its rejection counts",
    ForgetsEarly: "the ledger may forget it",
    ForgetsTheChainEarly: "the ledger may forget it",
    ForgetsTheChain: "as the first of its chain",
    LinkTakenForBeingInTheWay: "as the first of its chain",
    UnknownFieldsLost: "a field was lost",
    KeepsTheClaim: "its claim stayed behind",
    LeavesAClaimBehindAnException: "its claim stayed behind",
    DeferralEndsWithItsClaim: "vanished",
    DeferralEndsWithItsOutcome: "vanished",
    DeferralEndsWithAnothersRejection: "that was kept is gone",
    DeferralForgetsRetries: "which tells more retries",
    PutBackBeginsTheLeaseAnew: "was put off, though nothing was wrong",
    DueAfterThePutBack: "is due once more, though it was put back",
    DeferralWithoutItsEvent: "vanished",
    DeferralWithoutItsTime: "without the time of the failure",
    DeferralOfKnownFields: "did not come back as it came",
    DeferralWithoutAttributes: "came back with the attributes",
    DueByTheInstancesClock: "left it due",
    StaysDueOnceItIsPutBack: "left it due",
    RecordsOnce: "with Google's answer not recorded",
    FollowUpOfWhoeverAsks: "its follow-up tells another",
    GrantBeforeBudget: "which was not so",
    CooldownInAnotherZone: "and Google said",
    RemembersAFaultOfOurs: "though no fault was ours",
    PutsOffAfterA401: "was put off, though nothing was wrong",
    TokenBeforeTheEvent: "asked for a token, though its event",
    RejectedWhenPublished: "its rejection tells another",
    StopsAtWhatItCannotRead: "raised ValueError",
    ReleasesAfterSending: "retries may be used",
    CountsWhatWasNotSent: "calls in doubt, and it was",
    BlamesTheUserForAProxy: "was rejected for ACCESS_DENIED, which was not so",
    TellsTheToken: "a secret is in",
    BlamesTheUserForOurClient: "was rejected for INVALID_GRANT, which was not so",
    SendsAgainByItself: "twice under one claim",
    ClaimsBeforeTheToken: "between its claim and its call",
    TokensForEver: "before it was sent",
    RemembersAWithdrawnToken: "a refresh token was remembered",
    RejectionForEverybody: "which was not so",
    OneTokenForAll: "a call carried a token of",
    OneTokenForAllLooks: "a look carried a token of",
    OneSpoiltSecretStopsAll: "was answered with 500, though no fault was ours",
    UnexpectedException: "raised LookupError",
    PublishesInPassing: "without a durable outcome",
    NoDedupKey: "or has other attributes",
    AcknowledgesOnError: "without a durable outcome",
    IgnoresSigterm: "after SIGTERM",
    ClaimsOnceItEnds: "claimed a job after SIGTERM",
    NoStepOnceItEnds: "its log line names no step",
    ForgetsAJobAfterADeath: "nobody was told of its end",
    WatchLosesUnknownFields: "the watch lost a field",
    EndsTwice: "was told as COMPLETE and as CANCELLED",
    TellsTheUrl: "a secret is in projects/p/topics/archive-job-ended",
    KeepsWhatALookNeeds: "its event came back as another one",
    UnknownAnswersNothing: "looked though it was rejected",
    LookForgetsAnotherCredential: "that was kept is gone",
    WatchKeepsTheFirstCredential: "which names another credential",
    UnknownForEver: "nobody was told of its end after an UNKNOWN",
    WaitsWithoutAnAnswer: "it waits for another look, and Google's word was nothing",
    FaultsOfALookPass: "and its look met a fault of ours",
    EndsWhenItIsTold: "its end is told for",
    LooksEverySecond: "times, and the formula gives",
    OneCollectionForAll: "wrote to a collection that is not its own",
    LooksOnTheFailedTopic: "a look came back on the failed topic",
}


# Where a search may begin that has little time. Where such a seed no longer finds its mutant, the search goes on.
HINTS: Mapping[type[Container], int] = {
    BlamesTheUserForAProxy: 71,
    CountsWhatWasNotSent: 75,
    EndsTwice: 929,
    EndsWhenItIsTold: 19,
    KeepsWhatALookNeeds: 9,
    LookForgetsAnotherCredential: 929,
    OneSpoiltSecretStopsAll: 1479,
    FaultsOfALookPass: 319,
    UnknownAnswersNothing: 119,
    UnknownForEver: 9,
    WaitsWithoutAnAnswer: 39,
    WatchKeepsTheFirstCredential: 109,
    ForgetsAJobAfterADeath: 109,
    DeferralEndsWithAnothersRejection: 202_933,
    DeferralForgetsRetries: 314,
    DueByTheInstancesClock: 65,
    FollowUpOfWhoeverAsks: 90,
    GrantBeforeBudget: 64,
    ClaimsOnceItEnds: 76,
    NoStepOnceItEnds: 75,
    PutBackBeginsTheLeaseAnew: 3_042_771,
    DueAfterThePutBack: 11_926,
    DeferralEndsWithItsClaim: 91,
    DeferralEndsWithItsOutcome: 886,
    IgnoresSigterm: 76,
    LeaseByTheWallClock: 253,
    LooksEverySecond: 19,
    LooksOnTheFailedTopic: 9,
    OneCollectionForAll: 9,
    TellsTheUrl: 39,
    LeaseShorterThanTheWork: 294,
    LeaseWithoutFence: 535,
    LinkTakenForBeingInTheWay: 76,
    OneDocumentTwiceInACommit: 60,
    RejectionForEverybody: 213,
    ReleasesAfterSending: 51,
    StopsAtWhatItCannotRead: 51,
}


def first_seed_that_finds(mutant: type[Container], said: str, begin: int = 0, most: int = MOST_SCHEDULES) -> int | None:
    """The first seed whose run breaks an invariant in these words, out of so many."""
    for seed in range(begin, begin + most):
        if any(said in violation for violation in World(seed, mutant).run().violations):
            return seed
    return None
