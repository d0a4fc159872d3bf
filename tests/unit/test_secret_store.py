"""Reading a secret, from a Secret Manager that answers as Google's does."""

from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode

from handlers.outcomes import Misconfigured, Unavailable
from handlers.rpc import Channels
from handlers.secret_store import NoSecret, SecretManagerClient, SecretStore
from local.secrets import Fault, SecretManager, State, Success

SECRET = "token-alice"


@pytest.fixture
async def manager() -> AsyncIterator[SecretManager]:
    async with SecretManager("a-project") as manager:
        manager.add_version(SECRET, "an old one")
        manager.add_version(SECRET, "the newest")
        yield manager


@pytest.fixture
async def store(manager: SecretManager) -> AsyncIterator[SecretStore]:
    async with Channels() as channels:
        yield SecretStore(channels.client(SecretManagerClient, manager.address), "a-project")


async def test_the_latest_version_is_read(store: SecretStore) -> None:
    assert b"the newest" == await store.read(SECRET)


@pytest.mark.parametrize("state", [State.DISABLED, State.DESTROYED])
async def test_a_latest_version_that_is_disabled_or_destroyed_is_no_secret(
    store: SecretStore, manager: SecretManager, state: State
) -> None:
    manager.set_state(SECRET, state)
    with pytest.raises(NoSecret, match="disabled or destroyed"):
        await store.read(SECRET)


@pytest.mark.parametrize("secret", ["token-bob", "KMS"])
async def test_one_that_is_not_there_is_no_secret(store: SecretStore, secret: str) -> None:
    with pytest.raises(NoSecret, match="not there"):
        await store.read(secret)


async def test_a_disabled_version_is_none_whatever_its_secret_is_called(
    store: SecretStore, manager: SecretManager
) -> None:
    manager.add_version("a-KMS-token", "x")
    manager.set_state("a-KMS-token", State.DISABLED)
    with pytest.raises(NoSecret):
        await store.read("a-KMS-token")


@pytest.mark.parametrize(
    "message",
    [
        "Cloud KMS key is not enabled.",
        "projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1 is in DISABLED state.",
    ],
)
async def test_a_key_that_cannot_be_used_is_no_users_fault(
    store: SecretStore, manager: SecretManager, message: str
) -> None:
    manager.script(SECRET, [Fault(StatusCode.FAILED_PRECONDITION, message)])
    with pytest.raises(Misconfigured, match=r"reading secret token-alice: FAILED_PRECONDITION$"):
        await store.read(SECRET)


async def test_a_payload_that_was_damaged_on_the_way_is_not_used(store: SecretStore, manager: SecretManager) -> None:
    manager.script(SECRET, [Success(damaged=True)])
    with pytest.raises(Unavailable, match="checksum"):
        await store.read(SECRET)
    assert b"the newest" == await store.read(SECRET)


async def test_a_payload_without_a_checksum_is_taken_as_it_is(store: SecretStore, manager: SecretManager) -> None:
    manager.script(SECRET, [Success(checksum=False)])
    assert b"the newest" == await store.read(SECRET)


async def test_a_service_that_is_away_for_a_moment_is_asked_again(store: SecretStore, manager: SecretManager) -> None:
    manager.script(SECRET, [Fault(), Fault()])
    assert b"the newest" == await store.read(SECRET)
    assert 3 == len(manager.accesses_to(SECRET))


@pytest.mark.parametrize(
    ("code", "fault"),
    [(StatusCode.PERMISSION_DENIED, Misconfigured), (StatusCode.RESOURCE_EXHAUSTED, Unavailable)],
)
async def test_any_other_failure_is_told_at_once(
    store: SecretStore, manager: SecretManager, code: StatusCode, fault: type[Exception]
) -> None:
    manager.script(SECRET, [Fault(code)])
    with pytest.raises(fault, match=code.name):
        await store.read(SECRET)
    assert 1 == len(manager.accesses_to(SECRET))
