"""How jobs end on a stage, and how to wait for it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection

from local.stage import Stage

DONE = ("retried", "rejected", "deferred")  # outcomes that are acknowledged
_QUIET_SECONDS = 4.0


def new_jobs(stage: Stage) -> dict[str, set[str]]:
    """The new jobs that the follow-ups of each job name."""
    found: dict[str, set[str]] = defaultdict(set)
    for message in stage.follow_ups:
        found[message.data["retriedArchiveJobId"]].add(message.data["archiveJobId"])
        assert message.data["retriedArchiveJobId"] == message.attributes["dedupKey"]
    return found


def ends(stage: Stage) -> dict[str, set[str]]:
    """What came of each job: new jobs, or reasons of rejections."""
    found = new_jobs(stage)
    for message in stage.rejections:
        found[message.data["archiveJobId"]].add(message.data["reason"])
    return found


async def until_ended(stage: Stage, jobs: Collection[str], *, seconds: float) -> set[str]:
    """Wait until something has come of every job, or the time is over. Returns the jobs that had to be put back.

    Google's emulator delivers a message no more when too many were refused at a time. Nobody has acknowledged such a
    message; a real subscription would deliver it again, or make it a dead letter. Here it is put back on the topic.
    """
    put_back, ends_at = set[str](), time.monotonic() + seconds
    while (left := set(jobs) - ends(stage).keys()) and time.monotonic() < ends_at:
        seen = len(stage.deliveries)
        for _ in range(40):
            await asyncio.sleep(_QUIET_SECONDS / 40)
            if not set(jobs) - ends(stage).keys():
                return put_back
        if seen == len(stage.deliveries):
            put_back |= left
            for job in sorted(left):
                await stage.publish({"archiveJobId": job, "userId": "alice"})
    return put_back
