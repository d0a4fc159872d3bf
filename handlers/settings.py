"""The environment, read once into one frozen object (contract, section 6)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit


class WrongSettings(ValueError):
    """Everything that is wrong with the settings, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the function is told by its environment. Times are in seconds unless the name says otherwise."""

    project: str
    retried_topic: str
    rejected_topic: str
    failed_topic: str
    refresh_token_secret_prefix: str
    oauth_client_secret: str
    ledger: str
    firestore_database: str
    ledger_collection: str
    retry_budget: int
    event_max_age: timedelta
    park_ambiguous: bool
    handler_deadline: float
    claim_lease: float
    api_endpoint: str
    log_level: str
    pubsub_emulator: str
    firestore_emulator: str
    secret_manager_emulator: str


def _text(pattern: str, form: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(form)
        return value

    return read


def _number(kind: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    def read(value: str) -> Any:
        form = f"a{' whole' if kind is int else ''} number from {low:g} to {high:g}"
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(form) from None
        if not low <= number <= high:
            raise ValueError(form)
        return number

    return read


def is_safe_url(url: str) -> bool:
    """Whether a token may be sent there: https, or http that does not leave this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))
    )


def _endpoint(value: str) -> str:
    if not is_safe_url(value):
        raise ValueError("an https:// URL (http:// for this machine only)")
    return value.rstrip("/")


def _days(value: str) -> timedelta:
    return timedelta(days=_number(float, 0.001, 365)(value))


_topic = _text(r"(projects/[^/\s]+/topics/)?[A-Za-z][A-Za-z0-9._~+%-]{2,254}", "a topic's short or full name")
_address = _text(r"|[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", "host:port")

# variable → (field, default, how it is read); a default of None means that it has to be set
VARIABLES: Mapping[str, tuple[str, str | None, Callable[[str], Any]]] = {
    "GOOGLE_CLOUD_PROJECT": ("project", None, _text(r"[a-z0-9.:-]{1,64}", "a project's id")),
    "RETRIED_TOPIC": ("retried_topic", "archive-job-retried", _topic),
    "REJECTED_TOPIC": ("rejected_topic", "archive-job-retry-rejected", _topic),
    "FAILED_TOPIC": ("failed_topic", "archive-job-failed", _topic),
    "REFRESH_TOKEN_SECRET_PREFIX": (
        "refresh_token_secret_prefix",
        "dataportability-refresh-token-",
        _text(r"[A-Za-z0-9_-]{1,127}", "the beginning of a secret's id (letters, digits, - and _; at most 127)"),
    ),
    "OAUTH_CLIENT_SECRET": (
        "oauth_client_secret",
        "dataportability-oauth-client",
        _text(r"[A-Za-z0-9_-]{1,255}", "a secret's id"),
    ),
    "RETRY_LEDGER": ("ledger", "firestore", _text("firestore|memory", "firestore or memory")),
    "FIRESTORE_DATABASE": ("firestore_database", "(default)", _text(r"\(default\)|[a-z0-9-]{4,63}", "a database's id")),
    "RETRY_LEDGER_COLLECTION": ("ledger_collection", "archiveJobRetries", _text(r"[^/\s]{1,200}", "a collection's id")),
    "RETRY_BUDGET": ("retry_budget", "3", _number(int, 0, 100)),
    "EVENT_MAX_AGE_DAYS": ("event_max_age", "14", _days),
    "AMBIGUOUS_RETRY": (
        "park_ambiguous",
        "resend",
        lambda value: _text("resend|park", "resend or park")(value) == "park",
    ),
    "HANDLER_DEADLINE_SECONDS": ("handler_deadline", "90", _number(float, 0.1, 540)),
    "CLAIM_LEASE_SECONDS": ("claim_lease", "150", _number(float, 0.1, 86400)),
    "DATA_PORTABILITY_API_ENDPOINT": ("api_endpoint", "https://dataportability.googleapis.com", _endpoint),
    "LOG_LEVEL": ("log_level", "INFO", _text("DEBUG|INFO|WARNING|ERROR|CRITICAL", "DEBUG, INFO, WARNING or ERROR")),
    "PUBSUB_EMULATOR_HOST": ("pubsub_emulator", "", _address),
    "FIRESTORE_EMULATOR_HOST": ("firestore_emulator", "", _address),
    "SECRET_MANAGER_EMULATOR_HOST": ("secret_manager_emulator", "", _address),
}


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises WrongSettings with every problem. A variable that is set to nothing counts as unset."""
    values: dict[str, Any] = {}
    problems = []
    for variable, (field, default, read) in VARIABLES.items():
        value = environment.get(variable, "").strip() or default
        if value is None:
            problems.append(f"{variable} has to be set.")
            continue
        try:
            values[field] = read(value)
        except ValueError as form:
            problems.append(f"{variable} has to be {form}.")  # without its value: it may be a misplaced secret
    deadline, lease = values.get("handler_deadline"), values.get("claim_lease")
    if deadline is not None and lease is not None and lease <= deadline:
        problems.append(f"CLAIM_LEASE_SECONDS ({lease:g}) has to be above HANDLER_DEADLINE_SECONDS ({deadline:g}).")
    if problems:
        raise WrongSettings("\n".join(["The settings are wrong:", *(f"- {problem}" for problem in problems)]))
    return Settings(**values)
