"""What the commands do, from looking to saying how it went. Each gives its exit code."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from handlers.composition import rules_of
from handlers.settings import Settings
from ops.cloud import Trouble, connected
from ops.leases import Leases
from ops.letters import Wanted, dead_letter_reader, read_rejection
from ops.redrive import Found, Redrive
from ops.screen import Screen, summary
from ops.story import chain_of, told

SUBSCRIPTIONS = {"dead": "archive-job-dead", "rejected": "archive-job-retry-rejected"}  # infra/subscriptions.tf
INTERRUPTED = 130  # as a shell has it after Ctrl-C


async def look_and_redrive(
    settings: Settings,
    credentials: Any,
    source: str,
    name: str,
    wanted: Wanted,
    *,
    go: bool,
    as_json: bool,
    limit: int,
    rate: float,
    show: int,
    wait: float,
) -> int:
    """One run. Raises Unavailable or Misconfigured, once it has said what it did until then."""
    screen, found, end = Screen(), Found(), "failed"
    read = dead_letter_reader(_now(), settings.event_max_age) if source == "dead" else read_rejection
    async with connected(settings, credentials) as cloud:
        leases = Leases(cloud.subscriber, settings.google_cloud_project, name)
        run = Redrive(leases, read, cloud.failed, cloud.store, _now)
        try:
            async with leases:
                with screen.progress(f"looking into {name}") as seen:
                    found = await run.look(wanted, limit=limit, patience=wait, seen=seen)
                if not as_json:
                    screen.found(found, leases.subscription, _now(), show)
                if go:
                    with screen.progress("putting back", len(found.letters)) as done:
                        await run.run(found.letters, rate=rate, done=done)
            end = "done" if go else "looked"
        except asyncio.CancelledError:
            end = "stopped"
        finally:
            if as_json:
                screen.json(summary(run, found, leases.subscription, end))
            else:
                screen.end(run, found, cloud.failed.name, end)
    return INTERRUPTED if end == "stopped" else int(bool(run.left))


async def tell(settings: Settings, credentials: Any, job_id: str, *, as_json: bool) -> int:
    """A job's story. Raises Trouble where the ledger has none, Unavailable or Misconfigured."""
    screen = Screen()
    async with connected(settings, credentials) as cloud:
        if cloud.store is None:
            raise Trouble("With RETRY_LEDGER=memory the ledger is in the function's own process: nobody can read it.")
        with screen.progress("reading the ledger"):
            chain = await chain_of(cloud.store, job_id)
    if not chain:
        raise Trouble(_unknown(job_id, settings))
    tale = [told(stored, rules_of(settings), _now()) for stored in chain]
    if as_json:
        screen.json({"archiveJobId": job_id, "jobs": [one.as_json() for one in tale]})
    else:
        screen.story(tale, job_id, settings.retry_budget)
        screen.say(f"\nWhat the function logged of it:\n  {_logs(job_id, settings)}")
    return 0


def _unknown(job_id: str, settings: Settings) -> str:
    ledger = f"{settings.retry_ledger_collection} in database {settings.firestore_database}"
    return (
        f"The ledger of {settings.google_cloud_project} ({ledger}) knows no job {job_id}.\n"
        "Its event never came, or no delivery of it got as far as its claim, or it was forgotten since "
        f"({settings.event_max_age_days + 31:g} days after the last delivery); or this is another function's ledger.\n"
        f"  python -m ops redrive dead --job {job_id}\n"
        f"  {_logs(job_id, settings)}"
    )


def _logs(job_id: str, settings: Settings) -> str:
    query = f'jsonPayload.archiveJobId="{job_id}"'
    return f"gcloud logging read '{query}' --project={settings.google_cloud_project} --freshness=30d"


def _now() -> datetime:
    return datetime.now(UTC)
