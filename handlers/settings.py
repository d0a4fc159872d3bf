"""The environment, read once into one frozen object. docs/settings.md says what each variable is for."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from handlers import __version__
from handlers.domain.decisions import RetryPolicy

_PORT = r"(:\d{1,4}|:[1-5]\d{4}|:6[0-4]\d{3}|:65[0-4]\d\d|:655[0-2]\d|:6553[0-5])"
# where an access token may be sent: over TLS, or to this very machine
_ORIGIN = r"^(https://[A-Za-z0-9.-]+|http://(localhost|127\.0\.0\.1|\[::1\]))" + _PORT + r"?/?\Z"
# what both aiohttp and gRPC reach the same proxy by; `export_proxies` adds a scheme that is missing
_PROXY = re.compile(rf"(http://)?([^\s/?#@]+@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]){_PORT}/?")
_TOKEN_RESERVE = 30.0  # seconds that a token outlives the delivery that uses it
_SECRET = r"^(projects/[a-z0-9.:-]{1,64}/(locations/[a-z0-9-]{1,40}/)?secrets/)?[A-Za-z0-9_-]{1,255}\Z"

_TOPIC = r"^(projects/[^/\s]+/topics/)?(?!goog)[A-Za-z][\w.~+%-]{2,254}\Z"

Topic = Annotated[str, Meta(pattern=_TOPIC, description="a topic's short or full name")]
Secret = Annotated[
    str, Meta(pattern=_SECRET, description="a secret's id, or projects/P/secrets/ID, or .../locations/L/secrets/ID")
]
Address = Annotated[str, Meta(pattern=rf"^([^\s/]+{_PORT})?\Z", description="host:port")]
Seconds = Annotated[float, Meta(ge=0.1, le=86_400, description="seconds: a number from 0.1 to 86400")]


class WrongSettings(ValueError):
    """Everything that is wrong with the settings, a line each. Values are left out: one may be a misplaced secret."""


class Settings(Struct, frozen=True, kw_only=True, rename="upper"):
    """Each field is the environment variable of the same name in capitals, with its default and what it has to be."""

    google_cloud_project: Annotated[str, Meta(pattern=r"^[a-z0-9.:-]{1,64}\Z", description="a project's id")]
    retried_topic: Topic = "archive-job-retried"
    rejected_topic: Topic = "archive-job-retry-rejected"
    failed_topic: Topic = "archive-job-failed"
    started_topic: Topic = "archive-job-started"
    ended_topic: Topic = "archive-job-ended"
    refresh_token_secret_prefix: Secret = "dataportability-refresh-token-"
    canary_credential: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_-]{0,128}\Z", description="a credential's id: letters, digits, - and _")
    ] = ""
    oauth_client_secret: Secret = "dataportability-oauth-client"
    token_hosts: Annotated[
        str, Meta(pattern=r"^([A-Za-z0-9.-]+([ ,]+|\Z))*\Z", description="hosts, with commas between them")
    ] = ""
    retry_ledger: Annotated[Literal["firestore", "memory"], Meta(description="firestore or memory")] = "firestore"
    firestore_database: Annotated[
        str, Meta(pattern=r"^(\(default\)|[a-z0-9-]{4,63})\Z", description="a database's id")
    ] = "(default)"
    retry_ledger_collection: Annotated[
        str, Meta(pattern=r"^(?!\.{1,2}\Z|__.*__\Z)[^/\s]{1,200}\Z", description="a collection's id")
    ] = "archiveJobRetries"
    retry_budget: Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")] = 3
    event_max_age_days: Annotated[float, Meta(gt=0, le=365, description="days: a number above 0, up to 365")] = 14
    ambiguous_retry: Annotated[Literal["resend", "park"], Meta(description="resend or park")] = "resend"
    doubt_pause_seconds: Seconds = 120
    handler_deadline_seconds: Seconds = 90
    claim_lease_seconds: Seconds = 150
    watch_interval_seconds: Seconds = 300
    watch: Annotated[Literal["on", "off"], Meta(description="on or off")] = "on"  # off: the schedule does not look
    data_portability_api_endpoint: Annotated[
        str, Meta(pattern=_ORIGIN, description="https:// and a host, with no path (http:// for this machine only)")
    ] = "https://dataportability.googleapis.com"
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        Meta(description="DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ] = "INFO"
    # OpenTelemetry's own, as far as they decide whether and where to; its SDK reads the others itself
    otel_traces_exporter: Annotated[Literal["none", "otlp"], Meta(description="none or otlp")] = "none"
    otel_exporter_otlp_endpoint: Annotated[
        str, Meta(pattern=r"^(https?://[^\s/]+\S*)?\Z", description="an http:// or https:// URL")
    ] = ""
    otel_exporter_otlp_protocol: str = "http/protobuf"
    otel_sdk_disabled: str = "false"  # the specification takes anything but true for false
    pubsub_emulator_host: Address = ""
    firestore_emulator_host: Address = ""
    secret_manager_emulator_host: Address = ""

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            budget=self.retry_budget,
            event_max_age=self.event_max_age,
            park_ambiguous=self.ambiguous_retry == "park",
            doubt_pause=self.doubt_pause_seconds,
        )

    @property
    def token_margin(self) -> float:
        """Seconds before its end at which an access token counts as over: one delivery has to fit in."""
        return self.handler_deadline_seconds + _TOKEN_RESERVE

    @property
    def event_max_age(self) -> timedelta:
        return timedelta(days=self.event_max_age_days)

    @property
    def ledger_days(self) -> float:
        """How long an entry is kept after its last write: the age of the oldest event that is taken, and the 31 days in
        which it may come again (https://cloud.google.com/pubsub/docs/subscription-message-retention).
        """
        return self.event_max_age_days + 31

    @property
    def token_host_names(self) -> frozenset[str]:
        return frozenset(self.token_hosts.lower().replace(",", " ").split())

    @property
    def traces(self) -> bool:
        """Whether spans are made (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/)."""
        return self.otel_traces_exporter != "none" and self.otel_sdk_disabled.lower() != "true"


_TOPICS = ("retried_topic", "rejected_topic", "failed_topic", "started_topic", "ended_topic")


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings. Raises WrongSettings with every problem. A variable that is set to nothing counts as unset."""
    values: dict[str, Any] = {}
    problems = []
    for field in msgspec.structs.fields(Settings):
        value = environment.get(field.encode_name, "").strip()
        if value:
            try:
                values[field.name] = msgspec.convert(value, field.type, strict=False)
            except msgspec.ValidationError:
                problems.append(f"{field.encode_name} has to be {field.type.__metadata__[0].description}.")
        elif field.required:
            problems.append(f"{field.encode_name} has to be set.")
        else:
            values[field.name] = field.default
    names = [name for name in _TOPICS if name in values]
    if len({values[name].rpartition("/")[2] for name in names}) < len(names):
        problems.append(f"{', '.join(map(str.upper, _TOPICS))} have to be five topics.")
    deadline, lease = values.get("handler_deadline_seconds"), values.get("claim_lease_seconds")
    if deadline and lease and lease <= deadline:
        problems.append(f"CLAIM_LEASE_SECONDS ({lease:g}) has to be above HANDLER_DEADLINE_SECONDS ({deadline:g}).")
    if values.get("retry_ledger") == "memory" and environment.get("WORKERS", "1").strip() not in ("", "1"):
        problems.append("RETRY_LEDGER=memory is for one process: WORKERS has to be 1.")
    proxy = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
    if proxy and not _PROXY.fullmatch(proxy):
        problems.append("HTTPS_PROXY has to be http://host:port.")
    if values.get("otel_traces_exporter") == "otlp" and values["otel_exporter_otlp_protocol"] != "http/protobuf":
        problems.append("OTEL_EXPORTER_OTLP_PROTOCOL has to be http/protobuf.")
    if problems:
        raise WrongSettings("\n- ".join(["The settings are wrong:", *problems]))
    return Settings(**values)


def summary(settings: Settings, target: str) -> dict[str, str]:
    """What a started server will do, for its log: nothing of it is a secret."""
    ledger = "memory"
    if settings.retry_ledger == "firestore":
        ledger = f"firestore {settings.firestore_database}/{settings.retry_ledger_collection}"
    return {
        "target": target,
        "project": settings.google_cloud_project,
        "ledger": ledger,
        "failedTopic": settings.failed_topic,
        "retriedTopic": settings.retried_topic,
        "rejectedTopic": settings.rejected_topic,
        "startedTopic": settings.started_topic,
        "endedTopic": settings.ended_topic,
        "endpoint": settings.data_portability_api_endpoint,
        "version": __version__,
    }
