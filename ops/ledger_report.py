"""What the ledger tells of a job, of all jobs and of a user; and what the checks have found."""

from collections.abc import Iterator
from datetime import datetime

from handlers.ports import Unreadable, VersionedEntry
from ops.checks import CheckResult, State
from ops.forget import LIVES_ON, UserData
from ops.listing import Listing
from ops.report import Report
from ops.story import Told, clock, duration

_STATES = {"retried": "green", "rejected": "red", "claimed": "yellow", "deferred": "cyan", "open": "yellow"}
_MARKS = {State.OK: ("✓", "green"), State.FAILED: ("✗", "red"), State.NOT_CHECKED: ("?", "yellow")}


def show_story(report: Report, chain: list[Told | Unreadable], job_id: str, budget: int) -> None:
    """A chain, its jobs from the first to the newest."""
    entries = [told.entry for told in chain if isinstance(told, Told)]
    asked = next((entry for entry in entries if entry.job_id == job_id), None)
    if asked:
        report.say(f"Job {job_id} of user {asked.user_id}, credential {asked.credential_id}", "bold")
        ids = [told.entry.job_id if isinstance(told, Told) else told.job_id for told in chain]
        ids += {entries[-1].new_job_id} - {"", *ids}
        if asked.root_job_id not in ids:
            ids.insert(0, f"{asked.root_job_id} (not in the ledger)")
        report.say(f"Chain {' → '.join(ids)}, with {entries[-1].retries_used} of {budget} retries used")
    for told in chain:
        if isinstance(told, Told):
            _show_job(report, told, budget, asked=told.entry.job_id == job_id and len(chain) > 1)
        else:
            report.say("")
            report.say(f"{told.detail} Every delivery of this job is a fault until it is fixed.", "red")


def show_watches(report: Report, looks: list[dict[str, str]]) -> None:
    """What the watch does next, a line for each job that it knows."""
    for look in looks:
        whose = f", user {look['userId']}, credential {look['credentialId']}" if "userId" in look else ""
        report.say("")
        report.say(f"Watch of {look['archiveJobId']}{whose}: {look['next']}", "red" if "unreadable" in look else "")


def _show_job(report: Report, told: Told, budget: int, *, asked: bool) -> None:
    entry = told.entry
    state = f"rejected: {entry.reason} {entry.cause}".strip() if entry.state == "rejected" else entry.state
    report.say("")
    mark = "  ◄ asked for" if asked else ""
    report.line((entry.job_id, "bold"), "  ", (state, _STATES.get(entry.state, "")), mark)
    report.facts(_facts(told, budget))


def show_listing(report: Report, listing: Listing, now: datetime) -> None:
    report.say(", ".join(f"{number} {state}" for state, number in listing.counts.items()), "bold")
    if listing.entries:
        report.say("")
        heads = [">age", "state", "reason", "job", "user", "credential", ">used", ">in doubt", "not before"]
        report.table(heads, (_row(found, now) for found in listing.entries))
    if not listing.complete:
        report.say("… and there are more: --user, --reason, --state")
    report.say_each([one.detail for one in listing.unreadable], "red")


def show_user_data(report: Report, data: UserData, *, gone: bool) -> None:
    """What there is, or was, of a user."""
    for name in data.secrets:
        report.say(f"Secret: {name}")
    for name in data.missing:
        report.say(f"No secret {name}: is REFRESH_TOKEN_SECRET_PREFIX that of the function?")
    report.say(f"Ledger {data.ledger}")
    kept = f"kept for {data.kept_days:g} days after the last delivery"
    report.say(f"Ledger entries: {len(data.entries)} ({kept}); waiting looks: {len(data.looks)}")
    if data.others:
        report.say(f"This user's events name further credentials: {', '.join(data.others)}. Theirs? --credential")
    report.say("Deleted." if gone else "Nothing was changed. With --go, all of these are deleted for good.", "bold")
    report.say("")
    for text in LIVES_ON:
        report.say(text)


def show_checks(report: Report, results: list[CheckResult]) -> None:
    for result in results:
        said = f"{result.subject}: {result.detail}" if result.detail else result.subject
        report.line(_MARKS[result.state], f" {said}", f" → {result.remedy}" if result.remedy else "")


def _facts(told: Told, budget: int) -> Iterator[tuple[str, str]]:
    entry = told.entry
    doubt = f", {entry.calls_in_doubt} of them in doubt" if entry.calls_in_doubt else ""
    before = f"{entry.retries_before} of {budget} used before this job failed"
    before += f" ({entry.in_doubt_before} in doubt)" if entry.in_doubt_before else ""
    yield "retries", f"{before}, {entry.calls_made} for it{doubt}"
    yield "claims", str(entry.claim_count)
    if entry.new_job_id:
        yield "new job", entry.new_job_id
    if entry.detail:
        yield "detail" if entry.state == "rejected" else "earlier", entry.detail
    if entry.not_before:
        yield "not before", clock(entry.not_before)
    yield "written", clock(entry.updated_at)
    yield "kept until", clock(entry.expire_at)
    yield "next", told.next


def _row(found: VersionedEntry, now: datetime) -> list[str]:
    entry = found.entry
    return [
        duration(now - found.written_at),
        entry.state,
        f"{entry.reason} {entry.cause}".strip(),
        entry.job_id,
        entry.user_id,
        entry.credential_id,
        str(entry.retries_used),
        str(entry.chain_calls_in_doubt),
        clock(entry.not_before) if entry.not_before else "",
    ]
