"""What Google's front ends refuse and its emulators take."""

import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs

import grpc
from google.pubsub_v1 import types

from local.grpc_service import Refused

# https://cloud.google.com/pubsub/quotas#resource_limits
MOST_PUBLISHED_BYTES = 10_000_000
MOST_ATTRIBUTES, MOST_KEY_BYTES, MOST_VALUE_BYTES = 100, 256, 1024
_DATABASE = re.compile(rb"projects/([a-z0-9:.-]+)/databases/(\(default\)|[a-z0-9-]+)")
_OF_CLIENTS = "googclient_"  # of what begins with goog, Google's own clients may use these: the trace's context


def publishing(method: str, _metadata: Mapping[str, str], request: bytes) -> None:
    """The limits of a message and of a request."""
    if method != "Publish":
        return
    if len(request) > MOST_PUBLISHED_BYTES:
        _too_large("request_size", len(request), MOST_PUBLISHED_BYTES)
    for message in types.PublishRequest.pb().FromString(request).messages:
        if len(message.attributes) > MOST_ATTRIBUTES:
            _too_large("attributes", len(message.attributes), MOST_ATTRIBUTES)
        for key, value in message.attributes.items():
            if not key or (key.startswith("goog") and not key.startswith(_OF_CLIENTS)):
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"The attribute key is not allowed: {key}")
            if len(key.encode()) > MOST_KEY_BYTES:
                _too_large("attribute key", len(key.encode()), MOST_KEY_BYTES)
            if len(value.encode()) > MOST_VALUE_BYTES:
                _too_large("attribute value", len(value.encode()), MOST_VALUE_BYTES)


class Routing:
    """Firestore's: a call says in its metadata which database it is for, one with a name of its own says it twice.

    https://github.com/apache/beam/issues/25851, https://github.com/googleapis/google-cloud-rust/issues/4033
    """

    def __init__(self, databases: Collection[str]) -> None:
        self._databases = databases

    def __call__(self, method: str, metadata: Mapping[str, str], request: bytes) -> None:
        """Check one call."""
        if (named := _DATABASE.search(request)) is None:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{method} names no database.")
        full, (project, database) = named[0].decode(), (part.decode() for part in named.groups())
        routed = parse_qs(metadata.get("x-goog-request-params", ""))
        by_name = any(value == full or value.startswith(f"{full}/") for values in routed.values() for value in values)
        by_ids = (routed.get("project_id"), routed.get("database_id")) == ([project], [database])
        prefixed = database == "(default)" or metadata.get("google-cloud-resource-prefix") == full
        if not prefixed or not (by_name or by_ids):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Invalid request routing header")
        if database not in self._databases:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"The database {database} does not exist for project {project}.")


def _too_large(what: str, passed: int, most: int) -> None:
    raise Refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"The value for {what} is too large. You passed {passed} in the request, but the maximum value is {most}.",
    )
