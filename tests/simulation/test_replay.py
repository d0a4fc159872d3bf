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
from tests.simulation.record import Froze, Trouble
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
