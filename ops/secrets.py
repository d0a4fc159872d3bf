"""Secrets as an operator sees them: counted under a prefix, and deleted. None is read here."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.cloud.secretmanager_v1.types import DeleteSecretRequest, GetSecretRequest, ListSecretsRequest

from handlers.google.grpc_errors import to_step_error
from handlers.settings import Settings
from ops.cloud import Cloud

_CALL: Any = {"retry": None, "timeout": 30.0}
_MAX_PAGE = 25_000


def full_name(settings: Settings, secret: str) -> str:
    return secret if "/" in secret else f"projects/{settings.google_cloud_project}/secrets/{secret}"


async def count_secrets(cloud: Cloud, prefix: str, without: str) -> int:
    """Secrets whose id begins with it, but for the one that ends as `without`. Raises Transient or Misconfigured."""
    parent, _, start = full_name(cloud.settings, prefix).partition("/secrets/")
    # a filter matches anywhere in the name (https://cloud.google.com/secret-manager/docs/filtering)
    request = ListSecretsRequest(parent=parent, filter=f"name:{start}", page_size=_MAX_PAGE)
    try:
        client = await cloud.clients.secret_manager(_location(parent))
        names = [secret.name.rpartition("/")[2] async for secret in await client.list_secrets(request, **_CALL)]
    except GoogleAPIError as error:
        raise to_step_error(error, f"listing secrets {start}…") from None
    return sum(name.startswith(start) and name != start + without for name in names)


async def secret_exists(cloud: Cloud, name: str) -> bool:
    """By its full name. Raises Transient or Misconfigured."""
    return await _found(cloud, name, lambda client: client.get_secret(GetSecretRequest(name=name), **_CALL))


async def delete_secret(cloud: Cloud, name: str) -> None:
    """With all its versions, where there is one. Raises Transient or Misconfigured."""
    await _found(cloud, name, lambda client: client.delete_secret(DeleteSecretRequest(name=name), **_CALL))


async def _found(cloud: Cloud, name: str, call: Callable[[Any], Awaitable[Any]]) -> bool:
    try:
        await call(await cloud.clients.secret_manager(_location(name)))
    except NotFound:
        return False
    except GoogleAPIError as error:
        raise to_step_error(error, f"calling Secret Manager for secret {name}") from None
    return True


def _location(name: str) -> str:
    parts = name.split("/")
    return parts[3] if parts[2:3] == ["locations"] else ""
