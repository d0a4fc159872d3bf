"""infra/, initialised and planned once for the whole run, however many workers there are."""

import fcntl
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.pubsub import PubSub, serving
from tests.infra.terraform import Module, Plan, prepare


@dataclass(frozen=True, slots=True)
class Prepared:
    """A copy of infra/, and what infra/ and infra/bootstrap/ make of their examples, without and with the watch."""

    module: Module
    infra: Plan
    bootstrap: Plan
    watch: Plan


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def prepared(shared_folder: Path) -> Prepared:
    result = shared_folder / "infra.pickle"
    with (shared_folder / "infra.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            (shared_folder / "terraform").mkdir()
            module = prepare(shared_folder / "terraform")
            plans = module.plan("."), module.plan("bootstrap"), module.whole_plan("watch")
            result.write_bytes(pickle.dumps(Prepared(module, *plans)))
    found: Prepared = pickle.loads(result.read_bytes())
    return found


@pytest.fixture(scope="session")
def module(prepared: Prepared) -> Module:
    """A copy of infra/ to run terraform in. Not to be changed: take a copy of it."""
    return prepared.module


@pytest.fixture(scope="session")
def infra_plan(prepared: Prepared) -> Plan:
    """What infra/ makes of its example."""
    return prepared.infra


@pytest.fixture(scope="session")
def bootstrap_plan(prepared: Prepared) -> Plan:
    """What infra/bootstrap/ makes of its example."""
    return prepared.bootstrap


@pytest.fixture(scope="session")
def plan(infra_plan: Plan, bootstrap_plan: Plan) -> Plan:
    """What both make together."""
    return infra_plan + bootstrap_plan


@pytest.fixture(scope="session")
def watch_plan(prepared: Prepared) -> Plan:
    """What both make together where the watch is on."""
    return prepared.watch


@pytest.fixture
def pubsub() -> Iterator[PubSub]:
    """A double of Pub/Sub's REST API."""
    with serving() as double:
        yield double
