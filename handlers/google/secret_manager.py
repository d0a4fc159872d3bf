"""Secret Manager: one secret's latest version, checked for damage on the way.

https://cloud.google.com/secret-manager/docs/access-secret-version and .../data-integrity
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import google_crc32c
from google.api_core.exceptions import FailedPrecondition, GoogleAPIError, NotFound, ServiceUnavailable
from google.api_core.retry_async import AsyncRetry, if_exception_type
from google.cloud.secretmanager_v1.types import AccessSecretVersionRequest, AccessSecretVersionResponse
from msgspec import Struct

from handlers.domain.outcomes import Cause, RedactedRepr, Transient
from handlers.google.grpc_errors import to_step_error
from handlers.telemetry.tracing import span

_TIMEOUT = 10.0  # seconds for one try, and after them none is begun
_RETRY: Any = AsyncRetry(predicate=if_exception_type(ServiceUnavailable), initial=0.2, maximum=2.0, timeout=_TIMEOUT)

# A failed precondition is "Secret Version […] is in DISABLED state", or DESTROYED. Where a project encrypts its secrets
# with a key of its own, it can be that key too, and no user is to blame for that, or for anything else.
_DISABLED = re.compile(
    r"(?i)(secret version \[[^]]*\]|(?!.*(\bkms\b|crypto ?key))).*\b(disabled|destroyed)\b", re.DOTALL
)
_Request = AccessSecretVersionRequest.pb()
_LOCATION = re.compile(r"projects/[^/]+/locations/([^/]+)/secrets/")


class SecretVersion(RedactedRepr, Struct, frozen=True):
    """`version` is its resource name, which changes with every version that is added."""

    payload: bytes
    version: str


class SecretStore:
    """The secrets of one project, and any that is given by its full name."""

    def __init__(self, client: Callable[[str], Awaitable[Any]], project: str) -> None:
        self._client = client
        self._project = project

    async def read(self, name: str) -> SecretVersion | Cause:
        """The latest version of a secret, by id or by full name; NO_SECRET or SECRET_DISABLED where there is none."""
        full = name if "/" in name else f"projects/{self._project}/secrets/{name}"
        location = _LOCATION.match(full)
        with span("secret", secretId=name):
            client = await self._client(location[1] if location else "")
            request = AccessSecretVersionRequest.wrap(_Request(name=f"{full}/versions/latest"))
            try:
                answer = await client.access_secret_version(request, retry=_RETRY, timeout=_TIMEOUT)
            except NotFound:
                return Cause.NO_SECRET
            except GoogleAPIError as error:
                if isinstance(error, FailedPrecondition) and _DISABLED.match(error.message or ""):
                    return Cause.SECRET_DISABLED
                raise to_step_error(error, f"reading secret {name}") from None
        version = AccessSecretVersionResponse.pb(answer)
        payload = version.payload
        if payload.data_crc32c and google_crc32c.value(payload.data) != payload.data_crc32c:
            raise Transient(f"reading secret {name}: its checksum does not match")
        return SecretVersion(bytes(payload.data), version.name)
