"""infra/, initialised and applied once for the whole run, however many workers there are."""

import fcntl
import os
import pickle
from pathlib import Path

import pytest

from tests.infra.terraform import Module, Plan, prepare


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def prepared(shared_folder: Path) -> tuple[Module, Plan, Plan]:
    """A copy of infra/, and what infra/ and infra/bootstrap/ make of their examples."""
    result = shared_folder / "infra.pickle"
    with (shared_folder / "infra.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            (shared_folder / "terraform").mkdir()
            module = prepare(shared_folder / "terraform")
            result.write_bytes(pickle.dumps((module, module.plan(), module.plan("bootstrap"))))
    found: tuple[Module, Plan, Plan] = pickle.loads(result.read_bytes())
    return found


@pytest.fixture(scope="session")
def module(prepared: tuple[Module, Plan, Plan]) -> Module:
    """A copy of infra/ to run terraform in. Not to be changed: take a copy of it."""
    return prepared[0]


@pytest.fixture(scope="session")
def plan(prepared: tuple[Module, Plan, Plan]) -> Plan:
    """What infra/ makes of its example."""
    return prepared[1]


@pytest.fixture(scope="session")
def bootstrap_plan(prepared: tuple[Module, Plan, Plan]) -> Plan:
    """What infra/bootstrap/ makes of its example."""
    return prepared[2]
