"""Publishes what became of a delivery: the follow-up, or the rejection."""

from contextlib import suppress
from datetime import datetime

from msgspec import Struct

from handlers.domain.events import Delivery, MalformedEvent, encode
from handlers.domain.ledger_entry import LedgerEntry
from handlers.domain.messages import RetryRejected
from handlers.domain.outcomes import Deferred, Outcome, Rejected, Retried, StepError
from handlers.ledger import Ledger
from handlers.ports import Publisher, VersionedEntry
from handlers.steps import PUBLISHED, Deadlines


async def reject_malformed(
    error: MalformedEvent,
    delivery: Delivery,
    rejected: Publisher,
    deadlines: Deadlines,
    *,
    now: datetime,
    source: str = "",
) -> Outcome:
    """Publish the rejection of data that is no event. `source`: the topic that it came by, where that is another."""
    rejection = RetryRejected.of_malformed(error, delivery.data, now)
    deadlines.line.bind(archiveJobId=rejection.archive_job_id, userId=rejection.user_id)
    return await _publish_rejection(rejection, delivery, rejected, deadlines, source)


async def _publish_rejection(
    rejection: RetryRejected, delivery: Delivery, rejected: Publisher, deadlines: Deadlines, source: str = ""
) -> Outcome:
    attributes = rejection.message_attributes(delivery.message_id, source)
    await deadlines.step("publish", PUBLISHED, rejected.publish(encode(rejection), attributes))
    return Rejected(rejection.reason, rejection.detail, rejection.cause)


class Announcer(Struct, frozen=True):
    """For one delivery. What it publishes for one ledger entry is the same at every delivery."""

    delivery: Delivery
    deadlines: Deadlines
    ledger: Ledger
    retried: Publisher
    rejected: Publisher

    async def announce(self, found: VersionedEntry) -> Outcome:
        """Publish what the ledger holds."""
        entry = found.entry
        if entry.state == "deferred" and entry.not_before:
            self._bind(entry)
            return Deferred(entry.not_before)
        outcome = await (self._follow_up(entry) if entry.state == "retried" else self.reject(entry))
        # The deferral ends, unless the kept event is another credential's. Where this fails, the event is put back
        if entry.not_before and entry.answers_kept_event():
            with suppress(StepError):
                await self.deadlines.step("announced", PUBLISHED, self.ledger.no_longer_due(found), decides=False)
        return outcome

    async def reject(self, entry: LedgerEntry) -> Outcome:
        """Publish the rejection of this entry, which need not be stored."""
        self._bind(entry)
        rejection = entry.rejection(self.delivery.data)
        return await _publish_rejection(rejection, self.delivery, self.rejected, self.deadlines)

    async def _follow_up(self, entry: LedgerEntry) -> Outcome:
        self._bind(entry)
        follow_up = entry.follow_up()
        published = self.retried.publish(encode(follow_up), follow_up.message_attributes())
        await self.deadlines.step("publish", PUBLISHED, published)
        return Retried(entry.new_job_id)

    def _bind(self, entry: LedgerEntry) -> None:
        """The identity in the log line is the published one."""
        self.deadlines.line.bind(userId=entry.user_id, credentialId=entry.credential_id)
        self.deadlines.line.bind(attempt=entry.retries_used, rootArchiveJobId=entry.root_job_id)
