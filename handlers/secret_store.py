"""Secret Manager: one secret's latest version, checked for damage on the way.

https://cloud.google.com/secret-manager/docs/access-secret-version and .../data-integrity
"""

import re
from typing import Any

import google_crc32c
from google.api_core.exceptions import FailedPrecondition, GoogleAPIError, NotFound
from google.api_core.exceptions import ServiceUnavailable as RpcUnavailable
from google.api_core.retry_async import AsyncRetry, if_exception_type

from handlers.generated import message_module
from handlers.outcomes import Unavailable
from handlers.rpc import Service, fault_of

_TIMEOUT = 10.0  # seconds for one try, and after them none is begun
_RETRY: Any = AsyncRetry(predicate=if_exception_type(RpcUnavailable), initial=0.2, maximum=2.0, timeout=_TIMEOUT)

_types = message_module("google.cloud.secretmanager_v1", "service")
_Request, _Answer = (each.pb() for each in (_types.AccessSecretVersionRequest, _types.AccessSecretVersionResponse))

# A precondition that fails is "Secret Version […] is in DISABLED state", or DESTROYED; but where a project encrypts its
# secrets with a key of its own, also that key. No user is to blame for that.
_KMS = re.compile(r"(?!Secret Version \[)(?s:.*)(\bKMS\b|cryptoKeys/)")


class NoSecret(Exception):
    """There is no such secret, or its latest version is disabled or destroyed."""


class SecretManagerClient:
    """The method of Secret Manager that the store needs."""

    HOST, SERVICE = "secretmanager.googleapis.com", "google.cloud.secretmanager.v1.SecretManagerService"

    def __init__(self, service: Service) -> None:
        self.access_secret_version = service.unary(
            "AccessSecretVersion", _Request, _Answer, routed_by="name", seconds=_TIMEOUT, retry=_RETRY
        )


class SecretStore:
    """The secrets of one project, by id."""

    def __init__(self, client: SecretManagerClient, project: str) -> None:
        self._client = client
        self._project = project

    async def read(self, secret_id: str) -> bytes:
        """The payload. Raises NoSecret, Unavailable or Misconfigured."""
        name = f"projects/{self._project}/secrets/{secret_id}/versions/latest"
        try:
            version = await self._client.access_secret_version(_Request(name=name))
        except NotFound:
            raise NoSecret("not there") from None
        except GoogleAPIError as error:
            if isinstance(error, FailedPrecondition) and not _KMS.match(error.message or ""):
                raise NoSecret("disabled or destroyed") from None
            raise fault_of(error, f"reading secret {secret_id}") from None
        payload = version.payload
        if payload.data_crc32c and google_crc32c.value(payload.data) != payload.data_crc32c:
            raise Unavailable(f"reading secret {secret_id}: its checksum does not match")
        return bytes(payload.data)
