"""A seed is the whole of a run: whoever has it sees the same, anywhere; and the command that runs many of them."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from handlers.bootstrap import Container
from tests.simulation import story
from tests.simulation.command import cores
from tests.simulation.deviations import Rehearsal
from tests.simulation.mutants import AsksAgain, NoDoubtPause, RejectionForEver
from tests.simulation.record import Effect, Froze, Trouble
from tests.simulation.watch_record import (
    EndTold,
    FailureTold,
    LookAnswered,
    LookSent,
    StartedPublished,
    StateChanged,
    WatchDelivered,
)
from tests.simulation.world import World

_SEEDS = 10
_DIGEST = (
    "import hashlib; from tests.simulation.world import World; "
    f"print([hashlib.sha256(World(seed).run().record.history().encode()).hexdigest() for seed in range({_SEEDS})])"
)


def _digests() -> str:
    histories = (World(seed).run().record.history().encode() for seed in range(_SEEDS))
    return str([hashlib.sha256(history).hexdigest() for history in histories])


def test_seed_replays_exactly_in_another_process() -> None:
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # this process has one of its own
    ran = subprocess.run([sys.executable, "-c", _DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert _digests() == ran.stdout.strip()


def test_seed_replays_exactly_after_others_ran() -> None:
    first = World(7).run().record.history()
    World(8).run()
    assert first == World(7).run().record.history()


def test_two_seeds_give_two_histories() -> None:
    assert World(7).run().record.history() != World(8).run().record.history()


@pytest.mark.parametrize(("seed", "mutant"), [(2, AsksAgain), (12, RejectionForEver), (3, NoDoubtPause)], ids=str)
def test_story_of_a_violation_has_six_deviations_at_most_in_fifteen_lines(seed: int, mutant: type[Container]) -> None:
    whole = Rehearsal(seed)
    World(seed, mutant, whole).run()
    lines = story.of_seed(seed, mutant).splitlines()
    heading = re.match(rf"Seed {seed} breaks an invariant: (\d+) of what went wrong in it are enough", lines[0])
    assert heading
    assert int(heading[1]) <= 6 < len(whole.happened)
    assert re.match(r"  - job-\d+: ", lines[1])
    assert all(re.match(r" +(\d+\.\d{3}  \S+|\.\.\.)", line) for line in lines[2:])
    assert len(lines) <= 15


def test_story_tells_started_events_looks_and_what_comes_of_them() -> None:
    user = "user-1", "user-1"
    effects: list[Effect] = [
        StartedPublished(0.0, "w1", "job-1", *user, "", 0, 0.0, False, "", b""),
        StateChanged(0.5, "job-1", "COMPLETE"),
        WatchDelivered(1.0, "w1#1", "w1", "i1"),
        LookSent(1.1, "w1#1/1", "w1#1", "job-1", "user-1"),
        LookAnswered(1.2, "w1#1/1", "w1#1", "job-1", "COMPLETE"),
        EndTold(1.3, "w1#1", "job-1", "job-1", *user, 0, "COMPLETE", ""),
        FailureTold(1.4, "w1#1", b"", ""),
    ]
    assert story.told("heading", ["broken (at 2.000)"], effects).splitlines()[2:] == [
        "      0.000  the world: w1 says that job-1 started, job-1 is COMPLETE",
        "      1.100  w1#1 at i1: look at job-1, its answer: COMPLETE, ended event COMPLETE, failed event",
    ]


def test_rehearsal_of_everything_replays_the_seed() -> None:
    assert World(7).run().record.history() == World(7, rehearsal=Rehearsal(7)).run().record.history()


def test_rehearsal_that_keeps_nothing_goes_well() -> None:
    effects = World(97, rehearsal=Rehearsal(97, None, [])).run().record.effects
    assert not [effect for effect in effects if isinstance(effect, Trouble | Froze)]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.simulation", *arguments]


def test_command_ends_with_one_line_of_figures_and_tells_progress() -> None:
    ran = subprocess.run(_command("--seeds", "60", "--from", "1_000"), capture_output=True, text=True, check=True)
    expected = r"60 schedules simulated, 0 violations \([\d,]+ a second on \d+ cores\)"
    assert re.fullmatch(expected, _last_line(ran.stdout))
    assert "60 of 60, up to seed 1,059" in _last_line(ran.stderr)


def test_command_fails_on_violations_counts_them_and_tells_stories() -> None:
    ran = subprocess.run(
        _command("--seeds", "60", "--mutant", "AsksAgain"), capture_output=True, text=True, check=False
    )
    assert 1 == ran.returncode
    assert 3 == ran.stdout.count("breaks an invariant:")
    [listed] = re.findall("^Seeds that break an invariant: (.*)$", ran.stdout, re.MULTILINE)
    assert f"{len(listed.split(', '))} violations" in _last_line(ran.stdout)


def test_command_tells_for_a_mutant_how_few_deviations_it_needs() -> None:
    command = _command("--planted", "--mutant", "AsksAgain")
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.match(r"AsksAgain +needs [0-6] deviations of seed \d+ +A job that is answered", ran.stdout)
    assert "1 of 1 mutants found, with 6 deviations at most" == _last_line(ran.stdout)


def test_interrupt_ends_command_and_workers() -> None:
    with subprocess.Popen(
        _command("--seeds", "1000000"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as running:
        while _processes(running.pid) <= cores():  # one that is still being loaded leaves it to the command, too
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    assert 130 == running.returncode
    assert "until it was interrupted, 0 violations" in _last_line(output)
    for _ in range(50):
        if not _lives(running.pid):
            return
        time.sleep(0.1)
    pytest.fail("a worker outlives the command")


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _processes(group: int) -> int:
    listed = subprocess.run(["ps", "-eo", "pgid="], capture_output=True, text=True, check=True).stdout
    return listed.split().count(str(group))


def _last_line(output: str) -> str:
    return output.strip().splitlines()[-1]
