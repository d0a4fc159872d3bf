"""`python -m ops`: the commands for the people who run the function."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import click
import msgspec

from handlers.events import JobId, plain_job_id
from handlers.outcomes import Fault, Reason
from handlers.settings import Settings, WrongSettings, from_environment
from ops.cloud import Trouble, account, explained
from ops.commands import INTERRUPTED, SUBSCRIPTIONS, look_and_redrive, tell
from ops.letters import UNDELIVERED, Wanted

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Span(click.ParamType[timedelta]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if not match:
            self.fail("a number and a unit: 90s, 30m, 12h or 7d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


class _Job(click.ParamType[str]):
    name = "job_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return plain_job_id(msgspec.convert(value, JobId))
        except msgspec.ValidationError:
            self.fail("an archive job's id: letters, digits and . _ ~ -", param, ctx)


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every command has: they stand for settings of the function."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="For programs."),
        click.option("--database", metavar="ID", help="The ledger's Firestore database.  [env: FIRESTORE_DATABASE]"),
        click.option("--project", metavar="ID", help="The function's project.  [env: GOOGLE_CLOUD_PROJECT]"),
    ):
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """See what became of a failed archive job, and give it another try.

    \b
      python -m ops story JOB_ID                    what happened to a job, and what comes next
      python -m ops redrive rejected                what was rejected, counted by reason
      python -m ops redrive dead --go               put what Pub/Sub gave up on back

    The function's settings are taken from the same environment variables as its own, and Google
    Cloud is used with your own account: gcloud auth application-default login. With
    PUBSUB_EMULATOR_HOST and FIRESTORE_EMULATOR_HOST, Google's emulators are used.
    """


@main.command(short_help="Put events back on the failed topic.")
@click.argument("source", type=click.Choice(list(SUBSCRIPTIONS)))
@click.option("--go/--dry-run", "go", help="Put them back, or change nothing.", show_default=True)
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice([UNDELIVERED, *Reason]),
    metavar="REASON",
    help="Only these: a rejection's reason; of dead letters UNDELIVERED, EVENT_EXPIRED or MALFORMED_EVENT.",
)
@click.option("--user", "users", multiple=True, metavar="ID", help="Only of these users.")
@click.option("--job", "jobs", multiple=True, type=_Job(), help="Only of these jobs.")
@click.option("--older-than", type=_Span(), default=timedelta(0), help="Only what came earlier, say 30m, 12h or 7d.")
@click.option("--newer-than", type=_Span(), default=timedelta.max, help="Only what came since.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="How many at most.")
@click.option("--rate", type=click.FloatRange(0.01, 1000), default=20, show_default=True, help="How many a second.")
@click.option("--show", type=click.IntRange(0), default=20, show_default=True, help="How many to list one by one.")
@click.option(
    "--wait", type=click.FloatRange(0.2, 60), default=5, show_default=True, help="Seconds for something new to come."
)
@click.option("--subscription", metavar="NAME", help="Another than archive-job-dead or archive-job-retry-rejected.")
@_where
@click.pass_context
def redrive(
    context: click.Context,
    /,
    source: str,
    *,
    go: bool,
    reasons: tuple[str, ...],
    users: tuple[str, ...],
    jobs: tuple[str, ...],
    older_than: timedelta,
    newer_than: timedelta,
    as_json: bool,
    subscription: str | None,
    project: str | None,
    database: str | None,
    **numbers: Any,
) -> None:
    """Put events back on the failed topic: from the dead letters, or from the rejections.

    It looks through the subscription (until nothing new came for --wait seconds), counts by reason,
    and lists what the options match. With --go it puts these back, each acknowledged when Pub/Sub has
    accepted its event. A rejection that was final is reopened in the ledger first. Everything else is
    available again at once, also when you stop it.

    \b
      python -m ops redrive rejected --reason ACCESS_DENIED --newer-than 12h
      python -m ops redrive rejected --user user-4711 --go
      python -m ops redrive dead --go --rate 5

    Three reasons are matched only by name: MALFORMED_EVENT, since such an event is malformed still;
    OUTCOME_UNKNOWN, since a person has to find out first whether a retry is running; and
    RETRY_BUDGET_EXHAUSTED, since a job's calls in doubt are forgiven with it, as after an outage of
    Google's.
    """
    settings = _settings(project, database)
    wanted = Wanted(
        reasons=frozenset(reasons),
        users=frozenset(users),
        jobs=frozenset(jobs),
        older_than=older_than,
        newer_than=newer_than,
    )
    name = subscription or SUBSCRIPTIONS[source]
    work = look_and_redrive(settings, _account(settings), source, name, wanted, go=go, as_json=as_json, **numbers)
    context.exit(_run(work, settings))


@main.command(short_help="What happened to a job, and what comes next.")
@click.argument("job_id", type=_Job())
@_where
@click.pass_context
def story(context: click.Context, /, job_id: str, *, as_json: bool, project: str | None, database: str | None) -> None:
    """What happened to a job: its chain of retries as the ledger knows it, and what comes next.

    \b
      python -m ops story 7f0c5a52-8d4e-4b7a-9d6e-2f1f7a3a9c10
    """
    settings = _settings(project, database)
    context.exit(_run(tell(settings, _account(settings), job_id, as_json=as_json), settings))


def _settings(project: str | None, database: str | None) -> Settings:
    given = {"GOOGLE_CLOUD_PROJECT": project, "FIRESTORE_DATABASE": database}
    try:
        return from_environment({**os.environ, **{name: value for name, value in given.items() if value}})
    except WrongSettings as wrong:
        raise click.ClickException(str(wrong)) from None


def _account(settings: Settings) -> Any:
    try:
        return account(settings)
    except Trouble as trouble:
        raise click.ClickException(str(trouble)) from None


def _run(work: Coroutine[Any, Any, int], settings: Settings) -> int:
    """Run it to its exit code, or until it is stopped by Ctrl-C, SIGTERM or the end of the terminal."""

    async def stoppable() -> int:
        task = asyncio.create_task(work)
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(stoppable())
    except Fault as fault:
        raise click.ClickException(str(explained(fault, settings))) from None
    except Trouble as trouble:
        raise click.ClickException(str(trouble)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


if __name__ == "__main__":
    main(prog_name="python -m ops")
