"""`python -m ops`: the commands for the people who run the function."""

import asyncio
import functools
import os
import re
import signal
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import click
import msgspec

from handlers.domain.events import JobId, UserId, plain_job_id
from handlers.domain.outcomes import Cause, Reason, StepError
from handlers.settings import Settings, WrongSettings, from_environment
from handlers.telemetry.logging import configure_logs
from handlers.web.server import export_proxies
from ops import commands
from ops.cloud import CliError, explain
from ops.commands import INTERRUPTED, SUBSCRIPTIONS, Selection
from ops.listing import STATES
from ops.messages import UNDELIVERED, UNREADABLE, Filter
from ops.report import printable

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Duration(click.ParamType[timedelta]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = re.fullmatch(r"(\d{1,6})([smhd])", value)
        if not match:
            self.fail("a number and a unit: 90s, 30m, 12h or 7d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


class _Id(click.ParamType[str]):
    """An id by the contract's form: it becomes a document's or a secret's name."""

    def __init__(self, name: str, form: Any, said: str) -> None:
        self.name = name
        self._form = form
        self._said = said

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return plain_job_id(msgspec.convert(value, self._form))
        except msgspec.ValidationError:
            self.fail(self._said, param, ctx)


_JOB = _Id("job_id", JobId, "an archive job's id: letters, digits and . _ ~ -")
_USER = _Id("id", UserId, "a user's or a credential's id: letters, digits, _ and -")


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every command has: they stand for settings of the function."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="For programs."),
        click.option("--database", metavar="ID", help="The ledger's Firestore database.  [env: FIRESTORE_DATABASE]"),
        click.option("--project", metavar="ID", help="The function's project.  [env: GOOGLE_CLOUD_PROJECT]"),
    ):
        command = decorate(command)
    return command


def _go(done: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--go/--dry-run", "go", help=f"{done}, or change nothing.", show_default=True)


def _which(reasons: list[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that say which messages; the command gets a Selection."""
    options = (
        click.argument("source", type=click.Choice(list(SUBSCRIPTIONS))),
        click.option(
            "--reason",
            "reasons",
            multiple=True,
            type=click.Choice(reasons),
            metavar="REASON",
            help="Only these: a rejection's reason or cause; of dead letters UNDELIVERED, EVENT_EXPIRED or "
            "MALFORMED_EVENT.",
        ),
        click.option("--user", "users", multiple=True, type=_USER, help="Only of these users."),
        click.option("--job", "jobs", multiple=True, type=_JOB, help="Only of these jobs."),
        click.option("--older-than", type=_Duration(), help="Only what came earlier, say 30m, 12h or 7d."),
        click.option("--newer-than", type=_Duration(), help="Only what came since."),
        click.option("--limit", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="At most."),
        click.option("--show", type=click.IntRange(0), default=20, show_default=True, help="How many to list."),
        click.option(
            "--wait",
            type=click.FloatRange(0.2, 60),
            default=5,
            show_default=True,
            help="Seconds for something new to come.",
        ),
        click.option("--subscription", metavar="NAME", help=f"Another than {' or '.join(SUBSCRIPTIONS.values())}."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_selection(
            *,
            source: str,
            reasons: tuple[str, ...],
            users: tuple[str, ...],
            jobs: tuple[str, ...],
            older_than: timedelta | None,
            newer_than: timedelta | None,
            subscription: str | None,
            limit: int,
            show: int,
            wait: float,
            as_json: bool,
            **others: Any,
        ) -> None:
            wanted = Filter(
                reasons=frozenset(reasons),
                users=frozenset(users),
                jobs=frozenset(jobs),
                older_than=timedelta.min if older_than is None else older_than,
                newer_than=timedelta.max if newer_than is None else newer_than,
            )
            selection = Selection(
                source=source,
                subscription=subscription or SUBSCRIPTIONS[source],
                wanted=wanted,
                limit=limit,
                show=show,
                wait=wait,
                as_json=as_json,
            )
            command(selection, **others)

        for option in reversed(options):
            with_selection = option(with_selection)
        return with_selection

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """See what became of failed archive jobs, and give them another try.

    \b
      python -m ops check                           what stands between an event and its follow-up
      python -m ops list                            the ledger: counted, and what nobody has answered yet
      python -m ops story JOB_ID                    what happened to a job, and what comes next
      python -m ops redrive rejected                what was rejected, counted by reason
      python -m ops redrive dead --go               put what Pub/Sub gave up on back
      python -m ops discard dead --job JOB_ID --go  throw a message away
      python -m ops forget --user ID                what there is of a user; with --go, delete it

    The function's settings are taken from the same environment variables as its own, and Google
    Cloud is used with your own account: gcloud auth application-default login. With
    PUBSUB_EMULATOR_HOST and FIRESTORE_EMULATOR_HOST, Google's emulators are used.
    """


@main.command(short_help="Put events back on the failed topic.")
@_which([UNDELIVERED, *Reason, *Cause])
@_go("Put them back")
@click.option("--rate", type=click.FloatRange(0.01, 1000), default=20, show_default=True, help="How many a second.")
@_where
def redrive(selection: Selection, *, go: bool, rate: float, project: str | None, database: str | None) -> None:
    """Put events back on the failed topic: from the dead letters, or from the rejections.

    It looks through the subscription (until nothing new came for --wait seconds), counts by reason,
    and lists what the options match. With --go it puts these back, each acknowledged when Pub/Sub has
    accepted its event. Everything else is available again at once, also when you stop it.

    \b
      python -m ops redrive rejected --reason ACCESS_DENIED --newer-than 12h
      python -m ops redrive rejected --user user-4711 --go
      python -m ops redrive dead --go --rate 5

    Four reasons of rejections are matched only by name: MALFORMED_EVENT and EVENT_EXPIRED, since such
    an event is rejected again; OUTCOME_UNKNOWN, since a person has to find out first whether a retry
    is running; and RETRY_BUDGET_EXHAUSTED, since a job's calls in doubt are forgiven with it, as after
    an outage of Google's. For the last two, the ledger's entry is reopened first.
    """
    if selection.source == "dead":
        selection = selection.of_every_reason()
    settings = _settings(project, database)
    _exit(commands.redrive(settings, selection, go=go, rate=rate), settings)


@main.command(short_help="Throw messages away.")
@_which([UNDELIVERED, UNREADABLE, *Reason, *Cause])
@_go("Throw them away")
@_where
def discard(selection: Selection, *, go: bool, project: str | None, database: str | None) -> None:
    """Throw away dead letters or rejections that nobody needs any more.

    Only what at least one option names: a reason, a user, a job or an age. They are gone for good,
    and no event of theirs is delivered again, unless its subscription is set back in time.

    \b
      python -m ops discard dead --job 7f0c5a52-8d4e-4b7a-9d6e-2f1f7a3a9c10 --go
      python -m ops discard rejected --reason MALFORMED_EVENT --older-than 1d
    """
    if selection.wanted == Filter():
        raise click.UsageError("Name what is to go: --reason, --user, --job, --older-than or --newer-than.")
    settings = _settings(project, database)
    _exit(commands.discard(settings, selection.of_every_reason(), go=go), settings)


@main.command(short_help="What happened to a job, and what comes next.")
@click.argument("job_id", type=_JOB)
@_where
def story(job_id: str, *, as_json: bool, project: str | None, database: str | None) -> None:
    """What happened to a job: its chain of retries as the ledger knows it, and what comes next.

    \b
      python -m ops story 7f0c5a52-8d4e-4b7a-9d6e-2f1f7a3a9c10
    """
    settings = _settings(project, database)
    _exit(commands.story(settings, job_id, as_json=as_json), settings)


@main.command("list", short_help="The ledger: counted, and what nobody has answered yet.")
@click.option("--state", "states", multiple=True, type=click.Choice(list(STATES)), help="Jobs in these states.")
@click.option("--user", "users", multiple=True, type=_USER, help="Jobs of these users.")
@click.option("--reason", "reasons", multiple=True, type=click.Choice([*Reason, "COOLDOWN"]), help="For these reasons.")
@_where
def list_jobs(
    states: tuple[str, ...],
    users: tuple[str, ...],
    reasons: tuple[str, ...],
    *,
    as_json: bool,
    project: str | None,
    database: str | None,
) -> None:
    """How many jobs are in which state, and the oldest thousand of those that an option names.

    Where an option names more than 10,000, the oldest of 10,000 of them.

    Without an option: jobs with a call in doubt, claimed, deferred and parked ones. An open job waits
    for its next delivery, or was made by a retry and nobody has reported it as failed.

    \b
      python -m ops list --user user-4711
      python -m ops list --state rejected --reason ACCESS_DENIED
    """
    settings = _settings(project, database)
    _exit(commands.list_jobs(settings, states, users, reasons, as_json=as_json), settings)


@main.command(short_help="What stands between an event and its follow-up.")
@click.option("--user", type=_USER, help="And this credential's grant, scopes and access type.")
@click.option("--region", default="", envvar="REGION", metavar="ID", help="Where the schedule's job is.  [env: REGION]")
@_where
def check(user: str | None, region: str, *, as_json: bool, project: str | None, database: str | None) -> None:
    """Look at all that the function needs, with your own rights. Nothing is changed, no retry is spent.

    A line each: ✓ is as it should be; ✗ is not, and what to do about it; ? could not be checked.
    Exits with 1 if there is a ✗.

    \b
      python -m ops check --user user-4711 --region europe-west1
    """
    settings = _settings(project, database)
    _exit(commands.check(settings, user or "", region, as_json=as_json), settings)


@main.command(short_help="Find and delete what there is of a user.")
@click.option("--user", required=True, type=_USER, help="Whose data.")
@click.option("--credential", "credentials", multiple=True, type=_USER, help="Further credentials of this user.")
@_go("Delete it for good")
@_where
def forget(
    user: str, credentials: tuple[str, ...], *, go: bool, as_json: bool, project: str | None, database: str | None
) -> None:
    """Delete a user's refresh tokens and ledger entries. It says what lives on, where, and for how long.

    Stop the producer for this user first: an event that comes afterwards is answered anew, and leaves
    an entry of its own. Run it once more on the next day, for events that were under way.

    \b
      python -m ops forget --user user-4711
      python -m ops forget --user user-4711 --credential user-4711-work --go
    """
    settings = _settings(project, database)
    _exit(commands.forget_user(settings, user, credentials, go=go, as_json=as_json), settings)


def _settings(project: str | None, database: str | None) -> Settings:
    given = {"GOOGLE_CLOUD_PROJECT": project, "FIRESTORE_DATABASE": database}
    try:
        return from_environment({**os.environ, **{name: value for name, value in given.items() if value}})
    except WrongSettings as wrong:
        raise click.ClickException(str(wrong)) from None


def _exit(work: Coroutine[Any, Any, int], settings: Settings) -> None:
    """Run it to its exit code, or until it is stopped by Ctrl-C, SIGTERM or the end of the terminal."""

    async def stoppable() -> int:
        task = asyncio.create_task(work)
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    export_proxies(os.environ)
    configure_logs("ERROR")  # and nothing of what Google's clients would log of their calls
    try:
        code = asyncio.run(stoppable())
    except StepError as fault:
        raise click.ClickException(printable(explain(fault, settings))) from None
    except CliError as error:
        raise click.ClickException(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = INTERRUPTED
    click.get_current_context().exit(code)


if __name__ == "__main__":
    main(prog_name="python -m ops")
