"""`python -m tests.simulation.explore`: what `make explore` runs. Every schedule of a small world within a bound.

A schedule is the choices that it makes, beside the default, at two kinds of points, which come up at every exchange
over the wire. *A switch*: the delivery is held as it has sent, and another one, or what was parked, runs on. *A fault*:
the exchange does not go as it should. N counts schedules: no two have the same choices.

What is left out, and why nothing is lost by it:

- Between two exchanges a process touches nothing but itself, so neither a switch nor a death there could be told from
  one at the next exchange, nor a freeze from one at the last. Deaths are before a request arrives and after it is
  carried out, SIGTERM is on the way there, and freezes are until the answer is read: whatever the process waits for.
- No delivery changes what Secret Manager and the token endpoint answer one at another instance, so a switch there is
  as one at the next exchange with the ledger, Google or Pub/Sub. (At the same instance they share what is fetched.)
- A read that is lost, late, or dies on the way there is as one on the way back. So is a token that nobody has seen.
- Two events of a job at instances of their own are alike until one of them has claimed: the first one is the first.
- Who waits for more than a second is not held by a switch: it goes on when its time has come, and so does a strand that
  was held by it. What is parked (a frozen instance, a late request) goes on at a switch, or when all is at rest.
- There is no fault behind the last exchange: nothing is sent any more.

What an enumeration is not: other latencies, back-offs, clocks and answers than these. They are the simulation's.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import get_context

from handlers.bootstrap import Container
from tests.simulation import mutants, story
from tests.simulation.command import cores, kind_of, prepare, without_interrupts
from tests.simulation.enumeration import Bound, Broken, Part, Result, explore, parts
from tests.simulation.mutants import MUTANTS
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.small import SmallWorld

_STORIES = 3  # broken schedules that are told; all are counted
_REPORT_EVERY = 30.0  # seconds
_PLANTED_WITHIN = (Bound(0, 0), Bound(1, 0), Bound(0, 1), Bound(2, 0), Bound(1, 1), Bound(0, 2))

# planted faults that no two deliveries of a scenario can show, and why
BEYOND: Mapping[type[Container], str] = {
    mutants.UnknownFieldsLost: "needs an entry that another version of the program has written to",
    mutants.DeferralEndsWithAnothersRejection: "needs an event with another credential",
    mutants.OneTokenForAll: "needs a user with another credential",
    mutants.FollowUpOfWhoeverAsks: "needs an event with another credential",
    mutants.DeferralWithoutAttributes: "needs an event with attributes",
    mutants.DueByTheInstancesClock: "needs a deferral, and clocks that differ",
    mutants.GrantBeforeBudget: "needs a grant that is no good once the budget is used up",
    mutants.PutsOffAfterA401: "needs an access token that new consent has ended",
    mutants.TokenBeforeTheEvent: "needs an event that is too old, or tells the whole budget",
    mutants.DeferralForgetsRetries: "needs an event that tells more retries",
    mutants.PutBackBeginsTheLeaseAnew: "needs a claim that a death has left long before the schedule runs",
    mutants.StopsAtWhatItCannotRead: "needs an entry that nobody can read, and no delivery: the schedule alone",
    **dict.fromkeys(
        (
            mutants.ForgetsAJobAfterADeath,
            mutants.EndsTwice,
            mutants.WatchLosesUnknownFields,
            mutants.TellsTheUrl,
            mutants.LooksEverySecond,
            mutants.OneCollectionForAll,
            mutants.LooksOnTheFailedTopic,
            mutants.OneTokenForAllLooks,
            mutants.KeepsWhatALookNeeds,
            mutants.LookForgetsAnotherCredential,
            mutants.WatchKeepsTheFirstCredential,
            mutants.UnknownForEver,
            mutants.UnknownAnswersNothing,
            mutants.WaitsWithoutAnAnswer,
            mutants.EndsWhenItIsTold,
            mutants.FaultsOfALookPass,
            mutants.OneSpoiltSecretStopsAll,
        ),
        "needs a watched job, and looks over hours",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make explore", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--switches", type=int, default=2, metavar="N", help="how many at most")
    parser.add_argument("--faults", type=int, default=2, metavar="N", help="how many at most")
    parser.add_argument("--seconds", type=float, default=1800.0, metavar="N", help="how long at most")
    parser.add_argument("--cores", type=int, default=cores(), metavar="N")
    parser.add_argument("--scenario", choices=SCENARIOS, help="this one alone")
    parser.add_argument("--schedule", metavar="CHOICES", help="run this one, and show every effect of it")
    parser.add_argument("--mutant", choices=[mutant.__name__ for mutant in MUTANTS], help="change the code like this")
    parser.add_argument("--planted", action="store_true", help="look for every mutant")
    asked = parser.parse_args()
    if asked.schedule:
        return _show(asked.schedule, asked.mutant)
    if asked.planted:
        return _planted(asked.cores)
    scenarios = [asked.scenario] if asked.scenario else list(SCENARIOS)
    return _all(scenarios, Bound(asked.switches, asked.faults), asked.mutant, asked.seconds, asked.cores)


def _all(scenarios: Sequence[str], most: Bound, mutant: str | None, seconds: float, processes: int) -> int:
    """Bound by bound, so that the small ones are whole however little time there is."""
    kind, until = kind_of(mutant), time.monotonic() + seconds
    bounds = [Bound(s, f) for f in range(most.faults + 1) for s in range(most.switches + 1)]
    bounds.sort(key=sum)
    explored, broken, interrupted = 0, 0, False
    with without_interrupts(lambda: get_context("spawn").Pool(processes, prepare)) as pool:
        for bound in bounds:
            if interrupted or time.monotonic() > until:
                print(f"{bound}: not begun")
                continue
            begun, number, is_whole = time.monotonic(), 0, True
            todo = [part for name in scenarios for part in parts(name, bound, kind)]
            try:
                for result in _told_of(pool.imap_unordered(partial(_explore, mutant, until), todo), bound):
                    number += result.explored
                    is_whole = is_whole and result.is_whole
                    for one in result.broken[: max(0, _STORIES - broken)]:
                        print(story_of(one, kind), flush=True)
                    broken += len(result.broken)
            except KeyboardInterrupt:
                is_whole, interrupted = False, True
            explored += number
            rate = f"{number / (time.monotonic() - begun):,.0f} a second"
            print(f"{bound}: {number:,} schedules{'' if is_whole else ', and not all of them'} ({rate})", flush=True)
    print(f"explored {explored:,} schedules, {broken:,} broken")
    return 130 if interrupted else int(bool(broken))


def _explore(mutant: str | None, until: float, part: Part) -> Result:
    return explore(part, kind_of(mutant), until=until)


def _told_of(results: Iterator[Result], bound: Bound) -> Iterator[Result]:
    """The results; how far it has come is told on the way."""
    number, reported = 0, time.monotonic()
    for result in results:
        number += result.explored
        if time.monotonic() > reported + _REPORT_EVERY:
            reported = time.monotonic()
            print(f"{bound}: {number:,} so far", file=sys.stderr, flush=True)
        yield result


def _planted(processes: int) -> int:
    """The smallest history of each mutant."""
    fitting = [mutant for mutant in MUTANTS if mutant not in BEYOND]
    missed = 0
    with without_interrupts(lambda: get_context("spawn").Pool(processes, prepare)) as pool:
        for mutant, found in zip(fitting, pool.imap(first_found, fitting), strict=True):
            told = story_of(found, mutant) if found else "not found"
            print(f"{mutant.__name__}: {mutant.__doc__}\n{told}\n", flush=True)
            missed += found is None
    for mutant, why in BEYOND.items():
        print(f"{mutant.__name__}: {mutant.__doc__}\nnot looked for: {why}\n")
    print(f"{len(fitting) - missed} of {len(fitting)} mutants found, {len(BEYOND)} not looked for")
    return int(missed > 0)


def first_found(mutant: type[Container], bounds: Sequence[Bound] = _PLANTED_WITHIN) -> Broken | None:
    """A schedule with the least choices that breaks what this mutant is said to break."""
    for bound in bounds:
        for scenario in SCENARIOS:
            for part in parts(scenario, bound, mutant):
                broken = explore(part, mutant, most=1, says=MUTANTS[mutant]).broken
                if broken:
                    return broken[0]
    return None


def story_of(broken: Broken, kind: type[Container]) -> str:
    run = SmallWorld(SCENARIOS[broken.scenario], broken.schedule, kind).run()
    choices = [f"  {number}. {run.points[number].where}: {option}" for number, option in broken.schedule]
    heading = f"Schedule {broken.text()} breaks an invariant: {SCENARIOS[broken.scenario].about}"
    return story.told("\n".join([heading, *choices]), run.violations, run.record.effects)


def _show(text: str, mutant: str | None) -> int:
    scenario, *choices = text.split("/")
    schedule = tuple((int(number), option) for number, _, option in (choice.partition("=") for choice in choices))
    run = SmallWorld(SCENARIOS[scenario], schedule, kind_of(mutant)).run()
    print(run.record.history())
    for number, point in enumerate(run.points):
        print(f"{number:4}. {point.where}: {', '.join(point.options)}")
    print("\n".join(run.violations) or "No invariant is broken.")
    return int(bool(run.violations))


if __name__ == "__main__":
    sys.exit(main())
