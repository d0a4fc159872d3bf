"""Whether traces are made. While they are off nothing of OpenTelemetry is loaded, and each part is itself."""

from collections.abc import Mapping
from typing import Any, Protocol

from handlers.delivery import Delivery
from handlers.ports import Http, Portability, Publisher, Tokens
from handlers.settings import Settings
from handlers.telemetry import Journal, log, trace_fields
from handlers.user_credentials import Secrets


class Tracing(Protocol):
    """Gives each part as the use case is to have it."""

    def journal(self, delivery: Delivery, headers: Mapping[str, str], **fields: Any) -> Journal:
        """For one delivery. The trace is the event's, or else the request's; `write` ends the delivery's span."""

    def portability(self, api: Portability) -> Portability: ...
    def publisher(self, topic: Publisher) -> Publisher: ...
    def secrets(self, store: Secrets) -> Secrets: ...
    def token_endpoint(self, http: Http) -> Http: ...
    def tokens(self, credentials: Tokens) -> Tokens: ...


class NoTracing:
    """Traces are off."""

    def __init__(self, project: str) -> None:
        self._project = project

    def journal(self, delivery: Delivery, headers: Mapping[str, str], **fields: Any) -> Journal:
        return Journal(**fields, **trace_fields(headers, self._project, delivery.attributes))

    def portability(self, api: Portability) -> Portability:
        return api

    def publisher(self, topic: Publisher) -> Publisher:
        return topic

    def secrets(self, store: Secrets) -> Secrets:
        return store

    def token_endpoint(self, http: Http) -> Http:
        return http

    def tokens(self, credentials: Tokens) -> Tokens:
        return credentials


def load(settings: Settings) -> None:
    """Import what traces need, before the fork; nothing is built, and no thread started."""
    if settings.traces:
        import handlers.exporting  # noqa: F401, PLC0415, not while they are off


def build(settings: Settings) -> Tracing:
    """In the worker: what the settings ask for. Traces that cannot be made are no reason to fail a delivery."""
    if settings.traces:
        try:
            from handlers.exporting import spans  # noqa: PLC0415

            return spans(settings)
        except Exception as error:  # the SDK raises whatever it likes about its variables
            log.error("Traces are off, some OTEL_* variable is wrong: %s", type(error).__name__)  # its text quotes it
    return NoTracing(settings.google_cloud_project)
