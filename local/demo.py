"""`make demo`: the main job on this machine, with failed jobs of every kind, and a summary of what became of them.

Ends by itself: 0 when everything came out as promised, 1 when not, 130 or 143 when it is told to stop.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from local import emulators
from local.demo_events import ONE_USER, Event, Events, Story
from local.function_server import ROOT
from local.stage import RESUME, WATCH, Stage
from local.topics import WATCH_DEAD

QUIET_SECONDS = 1.0  # after the last outcome, for anything that should not come any more


def main() -> int:
    """Run the demo. Gives the exit code."""
    options = argparse.ArgumentParser(prog="demo", description=__doc__)
    options.add_argument("--source", type=Path, default=ROOT / "main.py", help="the function's source: main.py")
    options.add_argument("--seconds", type=float, default=45.0, help="the time limit for all of it")
    chosen = options.parse_args()
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    try:
        with emulators.available(lambda said: console.print(said, markup=False)) as at:
            stage = Stage(
                pubsub=at.get("pubsub"),
                firestore=at.get("firestore"),
                secret_latency=0.01,
                token_latency=0.1,
                retry_latency=0.2,
                settings={"WATCH_INTERVAL_SECONDS": "0.5"},
            )
            return asyncio.run(_run(stage, chosen, console, resumes="firestore" in at))
    except KeyboardInterrupt:
        console.print("Interrupted. Everything that was started is gone.")
        return 130
    except asyncio.CancelledError:
        return 143
    except RuntimeError as error:
        console.print(str(error), markup=False)
        return 1


async def _run(stage: Stage, options: argparse.Namespace, console: Console, *, resumes: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    begun = time.monotonic()
    async with stage:
        console.print("Starting the function …")
        await stage.start_function(source=options.source)
        events = Events(stage, resumes=resumes)
        await events.publish()
        works = [events.watch(), *([_circle(stage, options.source, events)] if resumes else [])]
        try:
            async with asyncio.TaskGroup() as beside:
                tasks = [beside.create_task(work) for work in works]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(options.seconds):
                        await _show(events, console)
                await asyncio.sleep(QUIET_SECONDS)
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return _summarise(stage, events, console, time.monotonic() - begun)


async def _circle(stage: Stage, source: Path, events: Events) -> None:
    """The schedule and the watch, and what a product says when it has started an export."""
    schedule = await stage.start_function(target=RESUME, source=source)

    async def watch() -> None:
        await stage.start_function(target=WATCH, source=source)
        await events.start()

    await asyncio.gather(schedule.be_called(every_seconds=1), watch())


async def _show(events: Events, console: Console) -> None:
    """Show how things stand until all is settled."""
    told: set[str] = set()
    with Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else _nothing() as live:
        while True:
            stories = [(event, events.story(event)) for event in events.all]
            if live:
                live.update(Group(*_lines(_collapsed(stories))), refresh=True)
            for event, story in stories:
                if not live and story.settled and event.name not in told:
                    told.add(event.name)
                    console.print(f"  {event.name}: {story.outcome}", markup=False)
            if all(story.settled for _, story in stories):
                return
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _summarise(stage: Stage, events: Events, console: Console, seconds: float) -> int:
    stories = [(event, events.story(event)) for event in events.all]
    console.print()
    for line in _lines([(event.name, story) for event, story in stories]):
        console.print(line, soft_wrap=True)
    calls, dead = stage.google.counts, len(stage.dead_letters) + len(stage.arrived[WATCH_DEAD])
    console.print(
        f"\n{sum(story.deliveries for _, story in stories)} deliveries; {calls['retry']} calls to archiveJobs.retry,"
        f" {calls['state']} looks,\n{calls['token']} token refreshes, {len(stage.secrets.accesses)} secret accesses;\n"
        f"{len(stage.follow_ups)} follow-ups, {len(stage.rejections)} rejections, {dead} dead letters."
    )
    if faults := events.faults():
        lines = [f"Not as promised, after {seconds:.0f} s:", *(f"- {fault}" for fault in faults)]
        console.print("\n".join(lines), markup=False)
        return 1
    console.print(f"Everything came out as promised, in {seconds:.0f} s.")
    console.print("To publish events of your own to all this: make local")
    return 0


def _collapsed(stories: list[tuple[Event, Story]]) -> list[tuple[str, Story]]:
    """The jobs of one user as one row, so that the table fits a terminal."""
    rows = [(event.name, story) for event, story in stories if event.user != ONE_USER]
    same = [story for event, story in stories if event.user == ONE_USER]
    done = sum(story.settled for story in same)
    faults = [fault for story in same for fault in story.faults]
    summed = Story(
        sum(story.deliveries for story in same),
        sum(story.calls for story in same),
        f"{done} of {len(same)} retried",
        done == len(same),
        faults,
    )
    return [*rows, (f"{ONE_USER}, {len(same)} jobs", summed)]


def _lines(rows: list[tuple[str, Story]]) -> Iterator[Text]:
    """A table that fits 80 columns; what does not is cut off while it changes."""
    yield _line("  ", "failed job", "deliveries", "calls", "outcome (→ the new job)")
    for name, story in rows:
        mark, style = "…", "dim"
        if story.settled:
            mark, style = ("✗", "red") if story.faults else ("✓", "green")
        yield _line(Text(f"{mark} ", style), name, str(story.deliveries), str(story.calls), story.outcome)


def _line(mark: str | Text, name: str, deliveries: str, calls: str, outcome: str) -> Text:
    text = f"{name:<20} {deliveries:>10}  {calls:>5}  {outcome}"
    return Text.assemble(mark, text, no_wrap=True, overflow="ellipsis")


if __name__ == "__main__":
    sys.exit(main())
