"""The simulation from the command line: `make simulate`."""

import argparse
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.simulation.instance import Composition
from tests.simulation.planted import FAULTS, first_seed_that_finds
from tests.simulation.world import World

_AT_ONCE = 50  # schedules that a worker runs before it reports


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=_number, default=10_000, metavar="N", help="how many schedules to run")
    parser.add_argument("--begin", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--seed", type=int, metavar="SEED", help="run this one alone, and show what happens in it")
    parser.add_argument("--fault", choices=[fault.__name__ for fault in FAULTS], help="plant this fault")
    parser.add_argument("--planted", action="store_true", help="look for every planted fault")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _show(asked.seed, asked.fault)
    if asked.planted:
        return _planted()
    return _many(range(asked.begin, asked.begin + asked.seeds), asked.fault)


def _number(text: str) -> int:
    return int(text.replace("_", "").replace(",", ""))


def _compose(fault: str | None) -> type[Composition]:
    return next((planted for planted in FAULTS if planted.__name__ == fault), Composition)


def _show(seed: int, fault: str | None) -> int:
    run = World(seed, _compose(fault)).run()
    if run.violations:
        print(run.story())
        return 1
    print(run.record.history())
    print(f"Seed {seed} breaks no promise.")
    return 0


def _planted() -> int:
    found = {fault: first_seed_that_finds(fault, said) for fault, said in FAULTS.items()}
    for fault, seed in found.items():
        print(f"{fault.__name__:<30} {'not found' if seed is None else f'found by seed {seed}':<20} {fault.__doc__}")
    seeds = [seed for seed in found.values() if seed is not None]
    print(f"{len(seeds)} of {len(found)} planted faults found, the hardest of them after {max(seeds) + 1} schedules")
    return 0 if len(seeds) == len(found) else 1


def _many(seeds: range, fault: str | None) -> int:
    """All these schedules on all cores, up to the first that breaks a promise."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    begun, done, broken, interrupted = time.perf_counter(), 0, -1, False
    chunks = [range(at, min(at + _AT_ONCE, seeds.stop)) for at in range(seeds.start, seeds.stop, _AT_ONCE)]
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    workers = ProcessPoolExecutor(cores, get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=len(seeds), rate="")
        try:
            for ran, broken in workers.map(partial(_run, fault), chunks):
                done += ran
                progress.update(task, completed=done, rate=f"{done / (time.perf_counter() - begun):,.0f} a second")
                if broken >= 0:
                    break
        except KeyboardInterrupt:
            interrupted = True
        workers.shutdown(cancel_futures=True)
    seconds = time.perf_counter() - begun
    if broken >= 0:
        print(World(broken, _compose(fault)).run().story())
    violations = "1 violation, of which the history is above" if broken >= 0 else "0 violations"
    print(
        f"{done:,} schedules simulated{' until it was interrupted' if interrupted else ''}, {violations}"
        f" ({done / seconds:,.0f} a second on {cores} cores)"
    )
    return 130 if interrupted else int(broken >= 0)


def _run(fault: str | None, seeds: range) -> tuple[int, int]:
    """How many ran, and the seed that broke a promise, or -1."""
    compose = _compose(fault)
    for ran, seed in enumerate(seeds, 1):
        if World(seed, compose).run().violations:
            return ran, seed
    return len(seeds), -1


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
