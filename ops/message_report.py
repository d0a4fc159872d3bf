"""What a redrive or a discard has found and done, for people and for programs."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from handlers.domain.events import timestamp
from ops.messages import UNREADABLE, PendingMessage
from ops.redrive import MAX_SCANNED, ScanResult, Skipped
from ops.report import Report
from ops.story import duration


class Work(Protocol):
    """What is done with the messages that match."""

    handled: list[PendingMessage]
    skipped: list[Skipped]

    def look(self, messages: list[PendingMessage]) -> None: ...
    async def run(self, messages: list[PendingMessage], done: Callable[[int], object]) -> None: ...


def show_scan(report: Report, result: ScanResult, subscription: str, now: datetime, show: int) -> None:
    """What a scan brought: counted, and the first of what matches one by one."""
    more = "" if result.seen_all else ", and there are more"
    report.say(f"{subscription}: {result.scanned} messages, {result.matching} matching{more}", "bold")
    if len(result.messages) < result.matching:
        report.say(f"This run takes {len(result.messages)} of these, by --limit and their size: the others stay.")
    if result.scanned >= MAX_SCANNED:
        report.say("Not all could be seen. Discard what nobody needs (--reason, --older-than), then look again.")
    if result.counts:
        _show_counts(report, result, now)
    else:
        report.say("What another run or program has in hand right now does not show.")
    would = {reason: count.by_name for (reason, _), count in result.counts.items() if reason != UNREADABLE}
    named = [f"--reason {reason} ({number})" for reason, number in sorted(would.items()) if number]
    if named and not result.matching:
        report.say(f"Would match: {', '.join(named)}")
    if result.messages and show:
        report.say("")
        _show_messages(report, result.messages[:show], now)
        if len(result.messages) > show:
            report.say(f"… and {len(result.messages) - show} more (--show)")
    report.say("")


def show_end(report: Report, work: Work, result: ScanResult, done: str, end: str) -> None:
    """How a run ended: done, looked (and no more), stopped or failed. `done` is what becomes of the messages."""
    if end == "stopped":
        report.say(f"Stopped. What was not {done.split(' on ', maxsplit=1)[0]} is available again.", "yellow")
    if end == "looked" and result.messages:
        report.say(f"Nothing was changed. With --go, {len(result.messages) - len(work.skipped)} of these are {done}.")
    elif end == "done" or work.handled:
        report.say(f"{len(work.handled)} of {len(result.messages)} {done}.", "bold")
    skipped = ((one.message, one.why) for one in work.skipped)
    texts = [f"Skipped: message {one.message_id}, job {one.job_id or '?'}: {why}." for one, why in skipped]
    report.say_each(texts, "red")


def _show_counts(report: Report, result: ScanResult, now: datetime) -> None:
    sources = any(source for _, source in result.counts)
    heads = ["reason", *(["from"] if sources else []), ">messages", ">matching", ">users", ">oldest", ">newest"]
    rows = []
    for (reason, source), count in sorted(result.counts.items(), key=lambda item: -item[1].found):
        ages = [duration(now - moment) if moment else "" for moment in (count.oldest, count.newest)]
        numbers = [str(number) for number in (count.found, count.matching, len(count.users))]
        rows.append([reason, *([source] if sources else []), *numbers, *ages])
    report.table(heads, rows)


def _show_messages(report: Report, messages: list[PendingMessage], now: datetime) -> None:
    dead = any(message.deliveries for message in messages)
    heads = [">age", "reason", "job", "user", "credential", ">deliveries" if dead else "detail"]
    report.table(
        heads,
        (
            [
                duration(now - message.arrived_at),
                f"{message.reason} {message.cause}".strip(),
                message.job_id,
                message.user_id,
                message.credential_id,
                str(message.deliveries) if dead else message.detail,
            ]
            for message in messages
        ),
    )


def run_as_json(work: Work, result: ScanResult, subscription: str, done: str, end: str) -> dict[str, Any]:
    """A redrive or a discard. `done` is the name of what was done."""
    return {
        "subscription": subscription,
        "scanned": result.scanned,
        "complete": result.complete,
        "reasons": [
            {
                "reason": reason,
                "source": source,
                "messages": count.found,
                "matching": count.matching,
                "matchingByName": count.by_name,
                "users": len(count.users),
                "oldest": timestamp(count.oldest) if count.oldest else "",
                "newest": timestamp(count.newest) if count.newest else "",
            }
            for (reason, source), count in result.counts.items()
        ],
        "messages": [_message(message) for message in result.messages],
        "end": end,
        done: [message.message_id for message in work.handled],
        "skipped": [{"messageId": skipped.message.message_id, "why": skipped.why} for skipped in work.skipped],
    }


def _message(message: PendingMessage) -> dict[str, Any]:
    return {
        "messageId": message.message_id,
        "arrivedAt": timestamp(message.arrived_at),
        "reason": message.reason,
        "cause": message.cause,
        "detail": message.detail,
        "archiveJobId": message.job_id,
        "userId": message.user_id,
        "credentialId": message.credential_id,
        "source": message.source,
        "deliveries": message.deliveries,
    }
