"""Secret Manager over gRPC, as far as the function and its operators use it: scripted and recording.

https://cloud.google.com/secret-manager/docs/reference/rpc/google.cloud.secretmanager.v1
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self

import google_crc32c
import grpc
from google.cloud.secretmanager_v1 import types
from google.protobuf.empty_pb2 import Empty

from local.grpc_service import Methods, Refused, service
from local.scripted import Scripts, Silence

PROJECT_NUMBER = 123456789  # Google answers with the project's number, whatever it was asked with
_NAME = re.compile(
    r"projects/(?P<project>[^/]+)(?P<location>/locations/[^/]+)?/secrets/(?P<secret>[A-Za-z0-9_-]{1,255})/versions/(?P<version>latest|\d+)"
)


class State(Enum):
    """Of a secret's version."""

    ENABLED = 1
    DISABLED = 2
    DESTROYED = 3


@dataclass(frozen=True, slots=True)
class Access:
    """One call of AccessSecretVersion as it came in."""

    name: str
    secret_id: str
    at: float  # time.monotonic()


@dataclass(frozen=True, slots=True)
class Fault:
    """The call fails with this status; a front end can make its trailers large."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "The service is currently unavailable."
    delay_seconds: float = 0.0
    trailer_bytes: int = 0


SecretStep = Fault | Silence


@dataclass(slots=True)
class _Version:
    payload: bytes
    state: State = State.ENABLED


class SecretManager(AbstractAsyncContextManager["SecretManager"]):
    """The secrets of one project; serves at `address` (`host:port`) while entered.

    Each call takes `latency_seconds`. `payload_of_any` gives the payload of secrets that nobody added, by their id.
    """

    def __init__(self, project: str, *, latency_seconds: float = 0.0) -> None:
        self.address = ""
        self.accesses: list[Access] = []
        self.payload_of_any: Callable[[str], bytes | None] = lambda _: None
        self._project = project
        self._latency_seconds = latency_seconds
        self._versions: defaultdict[str, list[_Version]] = defaultdict(list)
        self._scripts: Scripts[SecretStep] = Scripts()

    async def __aenter__(self) -> Self:
        """Serve on a free port of the loopback interface."""
        self._server = grpc.aio.server()
        methods: Methods = {
            "AccessSecretVersion": (types.AccessSecretVersionRequest, self._access),
            "ListSecrets": (types.ListSecretsRequest, self._list),
            "GetSecret": (types.GetSecretRequest, self._get),
            "DeleteSecret": (types.DeleteSecretRequest, self._delete),
        }
        self._server.add_generic_rpc_handlers((service("google.cloud.secretmanager.v1.SecretManagerService", methods),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._server.stop(grace=None)

    def add_version(self, secret_id: str, payload: bytes | str) -> int:
        """A new, enabled version, which is the latest from now on; gives its number. Makes the secret if need be."""
        self._versions[secret_id].append(_Version(payload.encode() if isinstance(payload, str) else payload))
        return len(self._versions[secret_id])

    def set_state(self, secret_id: str, state: State, version: int = 0) -> None:
        """Enable, disable or destroy a version (0: the latest)."""
        self._versions[secret_id][version - 1].state = state

    def script(self, secret_id: str, steps: Iterable[SecretStep]) -> None:
        """What the next accesses to this secret meet (ANY: those with no script of their own)."""
        self._scripts.set(secret_id, steps)

    def accesses_to(self, secret_id: str) -> list[Access]:
        """The calls so far for one secret."""
        return [access for access in self.accesses if access.secret_id == secret_id]

    async def _access(self, request: Any, _seconds: float | None) -> Any:
        name = _NAME.fullmatch(request.name)
        secret_id = name["secret"] if name else ""
        self.accesses.append(Access(request.name, secret_id, time.monotonic()))
        step = self._scripts.next(secret_id)
        if isinstance(step, Silence):
            return await asyncio.get_running_loop().create_future()
        if delay := self._latency_seconds + (step.delay_seconds if step else 0.0):
            await asyncio.sleep(delay)
        if step:
            raise Refused(step.code, step.message)
        full_name, payload = self._enabled_version(request.name)
        response = types.AccessSecretVersionResponse.pb()(name=full_name)
        response.payload.data, response.payload.data_crc32c = payload, google_crc32c.value(payload)
        return response

    def _list(self, request: Any) -> Any:
        part = request.filter.removeprefix("name:")
        named = (f"projects/{PROJECT_NUMBER}/secrets/{secret_id}" for secret_id in list(self._versions))
        return types.ListSecretsResponse.pb()(secrets=[{"name": name} for name in named if part in name])

    def _get(self, request: Any) -> Any:
        secret_id = request.name.rpartition("/")[2]
        if not self._versions.get(secret_id):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Secret [{request.name}] not found.")
        return types.Secret.pb()(name=f"projects/{PROJECT_NUMBER}/secrets/{secret_id}")

    def _delete(self, request: Any) -> Empty:
        del self._versions[self._get(request).name.rpartition("/")[2]]
        return Empty()

    def _enabled_version(self, asked: str) -> tuple[str, bytes]:
        name = _NAME.fullmatch(asked)
        if name is None:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"The provided name [{asked}] is invalid.")
        if name["project"] not in (self._project, str(PROJECT_NUMBER)):
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED,
                f"Permission 'secretmanager.versions.access' denied for resource '{asked}' (or it may not exist).",
            )
        secret = f"projects/{PROJECT_NUMBER}{name['location'] or ''}/secrets/{name['secret']}"
        versions = self._versions.get(name["secret"], [])
        if not versions and (payload := self.payload_of_any(name["secret"])) is not None:
            return f"{secret}/versions/1", payload
        number = len(versions) if name["version"] == "latest" else int(name["version"])
        if not 1 <= number <= len(versions):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Secret [{secret}] not found or has no versions.")
        version = versions[number - 1]
        if version.state is not State.ENABLED:
            message = f"Secret Version [{secret}/versions/{number}] is in {version.state.name} state."
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message)
        return f"{secret}/versions/{number}", version.payload
