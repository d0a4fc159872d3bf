"""The environment, read once into one frozen object. README.md says what each variable is for."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

_PORT = r"(:\d{1,4}|:[1-5]\d{4}|:6[0-4]\d{3}|:65[0-4]\d\d|:655[0-2]\d|:6553[0-5])"
# where a token may be sent: over TLS, or to this very machine
_ORIGIN = r"^(https://[A-Za-z0-9.-]+|http://(localhost|127\.0\.0\.1|\[::1\]))" + _PORT + "?"
SAFE_URL = _ORIGIN + r"(/\S*)?\Z"
SAFE_ORIGIN = _ORIGIN + r"/?\Z"

Topic = Annotated[
    str,
    Meta(
        pattern=r"^(projects/[^/\s]+/topics/)?(?!goog)[A-Za-z][\w.~+%-]{2,254}\Z",
        description="a topic's short or full name",
    ),
]
SecretId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,255}\Z", description="a secret's id: letters, digits, - and _")
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
    refresh_token_secret_prefix: SecretId = "dataportability-refresh-token-"
    oauth_client_secret: SecretId = "dataportability-oauth-client"
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
    handler_deadline_seconds: Seconds = 90
    claim_lease_seconds: Seconds = 150
    data_portability_api_endpoint: Annotated[
        str, Meta(pattern=SAFE_ORIGIN, description="https:// and a host, with no path (http:// for this machine only)")
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
    def event_max_age(self) -> timedelta:
        return timedelta(days=self.event_max_age_days)

    @property
    def traces(self) -> bool:
        """Whether spans are made (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/)."""
        return self.otel_traces_exporter != "none" and self.otel_sdk_disabled.lower() != "true"


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
    topics = [values[name] for name in ("retried_topic", "rejected_topic", "failed_topic") if name in values]
    if len({topic.rpartition("/")[2] for topic in topics}) < len(topics):
        problems.append("RETRIED_TOPIC, REJECTED_TOPIC and FAILED_TOPIC have to be three topics.")
    deadline, lease = values.get("handler_deadline_seconds"), values.get("claim_lease_seconds")
    if deadline and lease and lease <= deadline:
        problems.append(f"CLAIM_LEASE_SECONDS ({lease:g}) has to be above HANDLER_DEADLINE_SECONDS ({deadline:g}).")
    if values.get("retry_ledger") == "memory" and environment.get("WORKERS", "1").strip() not in ("", "1"):
        problems.append("RETRY_LEDGER=memory is for one process: WORKERS has to be 1.")
    if values.get("otel_traces_exporter") == "otlp" and values["otel_exporter_otlp_protocol"] != "http/protobuf":
        problems.append("OTEL_EXPORTER_OTLP_PROTOCOL has to be http/protobuf.")
    if problems:
        raise WrongSettings("\n- ".join(["The settings are wrong:", *problems]))
    return Settings(**values)
