"""The simulation from the command line: `make simulate`."""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from handlers.bootstrap import Container
from tests.simulation import story
from tests.simulation.lapses import Lapses, in_schedule
from tests.simulation.liveness import LivenessWorld
from tests.simulation.mutants import HINTS, MUTANTS, ClaimsBeforeTheToken, first_seed_that_finds
from tests.simulation.versions import VersionsWorld
from tests.simulation.watched import watched_seeds
from tests.simulation.world import World

_CHUNK = 50  # schedules that a worker runs before it reports
_REPORT_EVERY = 30.0  # seconds, where the output is no terminal
_FEW, _SEEDS_TO_SHRINK = 6, 5  # deviations, and seeds that are tried where one takes more
_STORIES = 3  # violations that are told in full; all are counted

_T = TypeVar("_T")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=_number, default=10_000, metavar="N", help="how many schedules to run")
    parser.add_argument("--from", type=_number, default=0, dest="begin", metavar="SEED", help="the first of them")
    parser.add_argument("--seed", type=_number, metavar="SEED", help="run this one alone, and show what happens in it")
    parser.add_argument("--whole", action="store_true", help="with --seed: every effect of it, broken or not")
    parser.add_argument("--mutant", choices=[mutant.__name__ for mutant in MUTANTS], help="change the code like this")
    parser.add_argument("--versions", action="store_true", help="let releases replace each other over one ledger")
    parser.add_argument("--liveness", action="store_true", help="one fault in each, which never heals")
    parser.add_argument("--watched", action="store_true", help="run only schedules with watched jobs")
    parser.add_argument("--planted", action="store_true", help="look for every mutant, or for the one named")
    parser.add_argument("--lapses", action="store_true", help="count claims that lapse with nothing sent")
    asked = parser.parse_args()
    world = VersionsWorld if asked.versions else LivenessWorld if asked.liveness else World
    if asked.seed is not None:
        return _show(world, asked.seed, asked.mutant, whole=asked.whole)
    if asked.planted:
        return _planted([kind_of(asked.mutant)] if asked.mutant else list(MUTANTS))
    seeds = range(asked.begin, asked.begin + asked.seeds)
    if asked.watched:
        seeds = watched_seeds(asked.begin, asked.seeds)
    return _lapses(seeds) if asked.lapses else _many(seeds, world, asked.mutant)


def _number(text: str) -> int:
    return int(text.replace("_", "").replace(",", ""))


def kind_of(mutant: str | None) -> type[Container]:
    return next((kind for kind in MUTANTS if kind.__name__ == mutant), Container)


def _show(world: type[World], seed: int, mutant: str | None, *, whole: bool) -> int:
    run = world(seed, kind_of(mutant)).run()
    if run.violations and not whole:
        print(story.of_seed(seed, kind_of(mutant), world))
        return 1
    print(run.record.history())
    print("\n".join(run.violations) or f"Seed {seed} breaks no invariant.")
    return int(bool(run.violations))


def _planted(mutants: Sequence[type[Container]]) -> int:
    """Whether each is found, in a run that takes few deviations."""
    good = 0
    with without_interrupts(lambda: get_context("spawn").Pool(cores(), prepare)) as pool:
        for mutant, told in zip(mutants, pool.imap(_few_deviations, mutants), strict=True):
            said = "needs {} deviations of seed {}".format(*told) if told else "not found"
            good += told is not None and told[0] <= _FEW
            print(f"{mutant.__name__:<30} {said:<40} {mutant.__doc__}", flush=True)
    print(f"{good} of {len(mutants)} mutants found, with {_FEW} deviations at most")
    return int(good < len(mutants))


def _few_deviations(mutant: type[Container]) -> tuple[int, int] | None:
    """How many it takes, at the first of some seeds that shrinks to a few, and that seed."""
    found, begin = list[tuple[int, int]](), HINTS.get(mutant, 0)
    while len(found) < _SEEDS_TO_SHRINK and (not found or found[-1][0] > _FEW):
        seed = first_seed_that_finds(mutant, MUTANTS[mutant], begin)
        if seed is None:
            break
        found.append((story.shortest(seed, mutant)[1], seed))
        begin = seed + 1
    return min(found, default=None)


def _many(seeds: range, world: type[World], mutant: str | None) -> int:
    """All these schedules on all cores, on after those that break an invariant: how rare they are is worth knowing."""
    begun, broken = time.perf_counter(), list[int]()
    done, interrupted = 0, False
    try:
        for chunk, found in _on_all_cores(partial(_broken, world, mutant), seeds):
            done += len(chunk)
            for seed in found[: max(0, _STORIES - len(broken))]:
                print(story.of_seed(seed, kind_of(mutant), world), flush=True)
            broken += found
    except KeyboardInterrupt:
        interrupted = True
    rate = f"{done / (time.perf_counter() - begun):,.0f} a second on {cores()} cores"
    if broken:
        print(f"Seeds that break an invariant: {', '.join(map(str, broken))}")
    print(
        f"{done:,} schedules simulated{' until it was interrupted' if interrupted else ''},"
        f" {len(broken)} violation{'' if len(broken) == 1 else 's'} ({rate})"
    )
    return 130 if interrupted else int(bool(broken))


def _broken(world: type[World], mutant: str | None, seeds: range) -> list[int]:
    kind = kind_of(mutant)
    return [seed for seed in seeds if world(seed, kind).run().violations]


def _lapses(seeds: range) -> int:
    """Claims that lapse with nothing sent, in today's order of steps and in the old one, over the same schedules."""
    numbers = []
    for order, kind in (("token before claim", Container), ("claim before token", ClaimsBeforeTheToken)):
        total = sum((counted for _, counted in _on_all_cores(partial(_count, kind), seeds)), Lapses())
        print(f"{order}: {total}", flush=True)
        numbers.append(total.unsent)
    print(f"{len(seeds):,} schedules: {numbers[0] / numbers[1]:.2f} of the number in the old order")
    return 0


def _count(kind: type[Container], seeds: range) -> Lapses:
    return sum((in_schedule(World(seed, kind).run().record.effects) for seed in seeds), Lapses())


def _on_all_cores(work: Callable[[range], _T], seeds: range) -> Iterator[tuple[range, _T]]:
    """The results of chunks of these seeds, in their order; how far it has come is told on the way."""
    chunks: Sequence[range] = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    workers = ProcessPoolExecutor(cores(), get_context("spawn"), initializer=prepare)
    begun, done, reported = time.perf_counter(), 0, 0.0
    try:
        for chunk, result in zip(chunks, without_interrupts(lambda: workers.map(work, chunks)), strict=True):
            done += len(chunk)
            seconds = time.perf_counter() - begun
            if sys.stderr.isatty() or seconds > reported + _REPORT_EVERY or done == len(seeds):
                reported = seconds
                end = "\r" if sys.stderr.isatty() and done < len(seeds) else "\n"
                said = f"{done:,} of {len(seeds):,}, up to seed {chunk[-1]:,}, {done / seconds:,.0f} a second"
                print(said, end=end, file=sys.stderr, flush=True)
            yield chunk, result
    finally:
        workers.shutdown(cancel_futures=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def without_interrupts(start: Callable[[], _T]) -> _T:
    """Start workers that leave interrupts to the parent, from their first moment: the mask is inherited."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def prepare() -> None:
    """A worker does not look for garbage among what was imported."""
    gc.freeze()
    gc.set_threshold(20_000)
