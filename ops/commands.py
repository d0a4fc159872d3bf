"""What the commands do, from looking to saying how it went. Each gives its exit code.

All of them raise CliError, Transient or Misconfigured.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from handlers.bootstrap import WATCH_SUFFIX
from handlers.ports import Unreadable
from handlers.settings import Settings
from ops.checks import State
from ops.checks.all import run_all
from ops.cloud import CliError, Cloud, connected
from ops.forget import find_user_data, forget
from ops.leases import Leases
from ops.ledger_report import show_checks, show_listing, show_story, show_user_data, show_watches
from ops.ledger_search import ledger_name
from ops.listing import list_ledger
from ops.message_report import Work, run_as_json, show_end, show_scan
from ops.messages import Filter, dead_letter_reader, read_rejection
from ops.redrive import Discard, Redrive, ScanResult, scan
from ops.report import Report
from ops.story import chain_of, job_id_of, tell, tell_watch, watches_of

SUBSCRIPTIONS = {"dead": "archive-job-dead", "rejected": "archive-job-retry-rejected"}  # infra/bootstrap
INTERRUPTED = 130  # as a shell has it after Ctrl-C


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which messages of which subscription, and how they are shown. `wait` is in seconds."""

    source: str
    subscription: str
    wanted: Filter
    limit: int
    show: int
    wait: float
    as_json: bool

    def of_every_reason(self) -> "Selection":
        """With what matches only by name, too."""
        return replace(self, wanted=replace(self.wanted, only_by_name=frozenset()))


async def redrive(settings: Settings, selection: Selection, *, go: bool, rate: float) -> int:
    topic = settings.failed_topic.rpartition("/")[2]

    def work(leases: Leases, cloud: Cloud) -> Work:
        return Redrive(leases, cloud.failed_topic, cloud.store, _now, rate, settings.retry_budget)

    return await _work(settings, selection, work, go=go, done=(f"put back on {topic}", "putBack"))


async def discard(settings: Settings, selection: Selection, *, go: bool) -> int:
    return await _work(settings, selection, lambda leases, _: Discard(leases), go=go, done=("discarded", "discarded"))


async def _work(
    settings: Settings,
    selection: Selection,
    make: Callable[[Leases, Cloud], Work],
    *,
    go: bool,
    done: tuple[str, str],
) -> int:
    """Says what it did until then, whatever ends it. `done`: what becomes of the messages, for people and for JSON."""
    report, result, end = Report(), ScanResult(), "failed"
    is_dead = selection.source == "dead"
    read = dead_letter_reader(_now(), settings.retry_policy) if is_dead else read_rejection
    async with connected(settings) as cloud:
        leases = Leases(cloud.subscriber, settings.google_cloud_project, selection.subscription)
        work = make(leases, cloud)
        try:
            async with leases:
                with report.progress(f"looking into {selection.subscription}") as seen:
                    result = await scan(
                        leases, read, selection.wanted, _now, limit=selection.limit, patience=selection.wait, seen=seen
                    )
                if not selection.as_json:
                    show_scan(report, result, leases.subscription, _now(), selection.show)
                if go:
                    with report.progress("at work", len(result.messages)) as handled:
                        await work.run(result.messages, handled)
                else:
                    work.look(result.messages)
            end = "done" if go else "looked"
        except asyncio.CancelledError:
            end = "stopped"
        finally:
            if selection.as_json:
                report.json(run_as_json(work, result, leases.subscription, done[1], end))
            else:
                show_end(report, work, result, done[0], end)
    return INTERRUPTED if end == "stopped" else int(go and bool(work.skipped))


async def story(settings: Settings, job_id: str, *, as_json: bool) -> int:
    """Exits with 1 where an entry of the chain cannot be read."""
    report = Report()
    async with connected(settings) as cloud:
        with report.progress("reading the ledger"):
            chain = await chain_of(cloud.ledger(), job_id)
            watch = cloud.ledger(WATCH_SUFFIX)
            watched = await watches_of(watch, list(map(job_id_of, chain)) or [job_id])
    if not chain and not watched:
        raise CliError(_unknown(job_id, settings))
    policy, now = settings.retry_policy, _now()
    looks = [tell_watch(found, now) for found in watched]
    told = [found if isinstance(found, Unreadable) else tell(found, policy, now) for found in chain]
    unreadable = [one for one in told if isinstance(one, Unreadable)]
    if as_json:
        jobs = [
            {"archiveJobId": one.job_id, "unreadable": one.detail} if isinstance(one, Unreadable) else one.as_json()
            for one in told
        ]
        report.json({"archiveJobId": job_id, "jobs": jobs, "watch": looks})
    else:
        show_story(report, told, job_id, settings.retry_budget)
        show_watches(report, looks)
        report.say("")
        report.say("What the function logged of it:")
        report.say(f"  {_logs(job_id, settings)}")
    return int(bool(unreadable) or any("unreadable" in look for look in looks))


async def list_jobs(
    settings: Settings, states: tuple[str, ...], users: tuple[str, ...], reasons: tuple[str, ...], *, as_json: bool
) -> int:
    report = Report()
    async with connected(settings) as cloud:
        with report.progress("reading the ledger"):
            listing = await list_ledger(cloud, states, users, reasons)
    if as_json:
        report.json(listing.as_json())
    else:
        report.say(f"Ledger {ledger_name(settings)}")
        show_listing(report, listing, _now())
    return 0


async def check(settings: Settings, user: str, region: str, *, as_json: bool) -> int:
    """Exits with 1 where something is not as it should be."""
    report = Report()
    async with connected(settings) as cloud:
        with report.progress("looking"):
            results = await run_all(cloud, _now(), user=user, region=region)
    if as_json:
        report.json([result.as_json() for result in results])
    else:
        show_checks(report, results)
    return int(any(result.state is State.FAILED for result in results))


async def forget_user(settings: Settings, user: str, credentials: tuple[str, ...], *, go: bool, as_json: bool) -> int:
    report = Report()
    async with connected(settings) as cloud:
        with report.progress("looking"):
            data = await find_user_data(cloud, user, credentials)
            if go:
                await forget(cloud, data)
    if as_json:
        report.json(data.as_json(gone=go))
    else:
        show_user_data(report, data, gone=go)
    return 0


def _unknown(job_id: str, settings: Settings) -> str:
    return (
        f"The ledger of {settings.google_cloud_project} ({ledger_name(settings)}) knows no job {job_id}.\n"
        "Its event never came, or no delivery of it got as far as its claim, or it was rejected for its own age or "
        "`attempt`, which leaves no entry, or it was forgotten since "
        f"({settings.ledger_days:g} days after the last delivery); or this is another function's ledger.\n"
        f"  python -m ops redrive dead --job {job_id}\n"
        f"  python -m ops redrive rejected --job {job_id}\n"
        f"  {_logs(job_id, settings)}"
    )


def _logs(job_id: str, settings: Settings) -> str:
    query = f'jsonPayload.archiveJobId="{job_id}"'
    return f"gcloud logging read '{query}' --project={settings.google_cloud_project} --freshness=30d"


def _now() -> datetime:
    return datetime.now(UTC)
