"""The settings: the contract's defaults, sound and wrong values, and the line of a started server."""

from typing import Any

import pytest

from handlers.settings import WrongSettings, from_environment, summary

LEAST = {"GOOGLE_CLOUD_PROJECT": "a-project"}
DEFAULTS: dict[str, Any] = {
    "retried_topic": "archive-job-retried",
    "rejected_topic": "archive-job-retry-rejected",
    "failed_topic": "archive-job-failed",
    "started_topic": "archive-job-started",
    "ended_topic": "archive-job-ended",
    "refresh_token_secret_prefix": "dataportability-refresh-token-",
    "canary_credential": "",
    "oauth_client_secret": "dataportability-oauth-client",
    "retry_ledger": "firestore",
    "firestore_database": "(default)",
    "retry_ledger_collection": "archiveJobRetries",
    "retry_budget": 3,
    "event_max_age_days": 14,
    "ambiguous_retry": "resend",
    "doubt_pause_seconds": 120,
    "handler_deadline_seconds": 90,
    "claim_lease_seconds": 150,
    "watch_interval_seconds": 300,
    "data_portability_api_endpoint": "https://dataportability.googleapis.com",
    "token_hosts": "",
    "log_level": "INFO",
    "otel_traces_exporter": "none",
    "pubsub_emulator_host": "",
    "firestore_emulator_host": "",
    "secret_manager_emulator_host": "",
}


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(map(str.upper, DEFAULTS), " ")])
def test_defaults_are_the_contracts(empty: dict[str, str]) -> None:
    settings = from_environment(LEAST | empty)
    assert DEFAULTS == {name: getattr(settings, name) for name in DEFAULTS}


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("RETRY_BUDGET", "0", 0),
        ("EVENT_MAX_AGE_DAYS", "0.5", 0.5),
        ("HANDLER_DEADLINE_SECONDS", "2.5", 2.5),
        ("DOUBT_PAUSE_SECONDS", "0.1", 0.1),
        ("WATCH_INTERVAL_SECONDS", "0.1", 0.1),
        *[
            (variable, value, value)
            for variable, value in (
                ("RETRIED_TOPIC", "projects/another/topics/a-topic"),
                ("DATA_PORTABILITY_API_ENDPOINT", "http://127.0.0.1:8080"),
                ("DATA_PORTABILITY_API_ENDPOINT", "https://private.example:8443/"),
                ("DATA_PORTABILITY_API_ENDPOINT", "http://localhost:65535"),
                ("PUBSUB_EMULATOR_HOST", "[::1]:8085"),
                ("FIRESTORE_DATABASE", "retry-ledger"),
                ("OAUTH_CLIENT_SECRET", "projects/p/secrets/s"),
                ("OAUTH_CLIENT_SECRET", "projects/p/locations/europe-west3/secrets/s"),
                ("REFRESH_TOKEN_SECRET_PREFIX", "projects/p/locations/europe-west3/secrets/token-"),
                ("CANARY_CREDENTIAL", "the-canary_1"),
                ("TOKEN_HOSTS", "oauth.example, login.example other.example"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
                ("OTEL_SDK_DISABLED", "TRUE"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),  # of no consequence while traces are off
            )
        ],
    ],
)
def test_sound_value_is_read(variable: str, value: str, read: Any) -> None:
    assert read == getattr(from_environment(LEAST | {variable: value}), variable.lower())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "http://user:pass@proxy.example:3128"),
        ("HTTPS_PROXY", "http://[::1]:3128/"),
        ("https_proxy", "proxy.example:3128"),
    ],
)
def test_sound_proxy_is_no_problem(variable: str, value: str) -> None:
    from_environment(LEAST | {variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "http://proxy.example"),  # gRPC takes another default port than HTTP clients
        ("HTTPS_PROXY", "http://user:p#ss@proxy.example:3128"),
        ("GOOGLE_CLOUD_PROJECT", ""),
        ("GOOGLE_CLOUD_PROJECT", "a/b"),
        ("RETRIED_TOPIC", "topics/x"),
        ("RETRIED_TOPIC", "google-retried"),
        ("REJECTED_TOPIC", "archive-job-failed"),
        ("REJECTED_TOPIC", "projects/another/topics/archive-job-started"),
        ("RETRY_LEDGER_COLLECTION", ".."),
        ("RETRY_LEDGER_COLLECTION", "__retries__"),
        ("FIRESTORE_EMULATOR_HOST", "localhost:65536"),
        ("PUBSUB_EMULATOR_HOST", "localhost"),
        ("REFRESH_TOKEN_SECRET_PREFIX", "a/b"),
        ("REFRESH_TOKEN_SECRET_PREFIX", "projects/p/secrets/"),
        ("OAUTH_CLIENT_SECRET", "projects/p/secrets/s/versions/1"),
        ("CANARY_CREDENTIAL", "a/b"),
        ("TOKEN_HOSTS", "https://oauth.example/token"),
        ("RETRY_LEDGER", "redis"),
        ("RETRY_BUDGET", "three"),
        ("RETRY_BUDGET", "-1"),
        ("RETRY_BUDGET", "1.5"),
        ("EVENT_MAX_AGE_DAYS", "0"),
        ("EVENT_MAX_AGE_DAYS", "inf"),
        ("AMBIGUOUS_RETRY", "retry"),
        ("DOUBT_PAUSE_SECONDS", "0.05"),
        ("WATCH_INTERVAL_SECONDS", "0"),
        ("HANDLER_DEADLINE_SECONDS", "nan"),
        ("HANDLER_DEADLINE_SECONDS", "150"),
        ("CLAIM_LEASE_SECONDS", "90"),
        ("DATA_PORTABILITY_API_ENDPOINT", "http://dataportability.googleapis.com"),
        ("DATA_PORTABILITY_API_ENDPOINT", "http://localhost.evil.example"),
        ("DATA_PORTABILITY_API_ENDPOINT", "dataportability.googleapis.com"),
        ("DATA_PORTABILITY_API_ENDPOINT", "https://dataportability.googleapis.com/v1"),
        ("DATA_PORTABILITY_API_ENDPOINT", "https://host.example:65536"),
        ("DATA_PORTABILITY_API_ENDPOINT", "https://[x"),
        ("LOG_LEVEL", "LOUD"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("HTTPS_PROXY", "https://proxy.example:3128"),
        ("HTTPS_PROXY", "http://proxy.example:port"),
        ("HTTPS_PROXY", "http://proxy.example:3128/path"),
    ],
)
def test_wrong_value_is_named_and_not_quoted(variable: str, value: str) -> None:
    with pytest.raises(WrongSettings) as caught:
        from_environment(LEAST | {variable: value})
    problem = str(caught.value).splitlines()[1]
    assert variable in problem
    assert len(value) < 5 or value not in problem


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"RETRY_LEDGER": "memory", "WORKERS": "2"}, "WORKERS"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
    ],
)
def test_settings_that_do_not_go_together(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(WrongSettings, match=problem):
        from_environment(LEAST | environment)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(WrongSettings) as caught:
        from_environment({"RETRY_BUDGET": "x", "LOG_LEVEL": "x", "HANDLER_DEADLINE_SECONDS": "200"})
    for variable in ("GOOGLE_CLOUD_PROJECT", "RETRY_BUDGET", "LOG_LEVEL", "CLAIM_LEASE_SECONDS"):
        assert variable in str(caught.value)


def test_summary_of_a_started_server() -> None:
    told = summary(from_environment(LEAST | {"FIRESTORE_DATABASE": "ledger"}), "retry_failed_archive_job")
    for value in ("retry_failed_archive_job", "a-project", "firestore ledger/archiveJobRetries", "archive-job-retried"):
        assert value in told.values()
    for value in ("https://dataportability.googleapis.com", "archive-job-started", "archive-job-ended"):
        assert value in told.values()
