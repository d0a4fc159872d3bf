"""Rules of the settings: the defaults that README.md names, and every problem told at once."""

import pytest

from handlers.settings import Settings, WrongSettings, from_environment

LEAST = {"GOOGLE_CLOUD_PROJECT": "a-project"}


def test_all_but_the_project_have_the_defaults_of_the_contract() -> None:
    settings = from_environment(LEAST)
    assert settings == Settings(google_cloud_project="a-project")
    assert (
        settings.retried_topic,
        settings.rejected_topic,
        settings.failed_topic,
    ) == ("archive-job-retried", "archive-job-retry-rejected", "archive-job-failed")
    assert (
        settings.refresh_token_secret_prefix,
        settings.oauth_client_secret,
    ) == ("dataportability-refresh-token-", "dataportability-oauth-client")
    assert (
        settings.retry_ledger,
        settings.firestore_database,
        settings.retry_ledger_collection,
    ) == ("firestore", "(default)", "archiveJobRetries")
    assert (
        settings.retry_budget,
        settings.event_max_age_days,
        settings.ambiguous_retry,
        settings.handler_deadline_seconds,
        settings.claim_lease_seconds,
    ) == (3, 14, "resend", 90, 150)
    assert (
        settings.data_portability_api_endpoint,
        settings.log_level,
    ) == ("https://dataportability.googleapis.com", "INFO")


def test_a_variable_set_to_nothing_counts_as_unset() -> None:
    assert from_environment(LEAST | {"RETRY_BUDGET": " ", "PUBSUB_EMULATOR_HOST": ""}) == from_environment(LEAST)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RETRIED_TOPIC", "projects/another/topics/a-topic"),
        ("RETRY_BUDGET", "0"),
        ("EVENT_MAX_AGE_DAYS", "0.5"),
        ("HANDLER_DEADLINE_SECONDS", "2.5"),
        ("DATA_PORTABILITY_API_ENDPOINT", "http://127.0.0.1:8080"),
        ("DATA_PORTABILITY_API_ENDPOINT", "https://private.example:8443/"),
        ("PUBSUB_EMULATOR_HOST", "[::1]:8085"),
        ("FIRESTORE_DATABASE", "retry-ledger"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),  # of no consequence while traces are off
        ("DATA_PORTABILITY_API_ENDPOINT", "http://localhost:65535"),
    ],
)
def test_sound_values_are_taken(variable: str, value: str) -> None:
    from_environment(LEAST | {variable: value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GOOGLE_CLOUD_PROJECT", ""),
        ("GOOGLE_CLOUD_PROJECT", "a/b"),
        ("RETRIED_TOPIC", "topics/x"),
        ("RETRIED_TOPIC", "google-retried"),
        ("RETRY_LEDGER_COLLECTION", ".."),
        ("RETRY_LEDGER_COLLECTION", "__retries__"),
        ("FIRESTORE_EMULATOR_HOST", "localhost:65536"),
        ("REFRESH_TOKEN_SECRET_PREFIX", "a/b"),
        ("OAUTH_CLIENT_SECRET", "projects/p/secrets/s"),
        ("RETRY_LEDGER", "redis"),
        ("RETRY_BUDGET", "three"),
        ("RETRY_BUDGET", "-1"),
        ("RETRY_BUDGET", "1.5"),
        ("EVENT_MAX_AGE_DAYS", "0"),
        ("EVENT_MAX_AGE_DAYS", "inf"),
        ("AMBIGUOUS_RETRY", "retry"),
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
        ("PUBSUB_EMULATOR_HOST", "localhost"),
    ],
)
def test_a_wrong_value_is_told_by_its_name_and_without_the_value(variable: str, value: str) -> None:
    with pytest.raises(WrongSettings) as caught:
        from_environment(LEAST | {variable: value})
    problem = str(caught.value).splitlines()[1]
    assert variable in problem
    assert len(value) < 5 or value not in problem


def test_a_ledger_in_memory_is_refused_for_more_than_one_process() -> None:
    with pytest.raises(WrongSettings):
        from_environment(LEAST | {"RETRY_LEDGER": "memory", "WORKERS": "2"})


@pytest.mark.parametrize("name", ["archive-job-failed", "projects/another/topics/archive-job-failed"])
def test_what_goes_out_does_not_come_in_again(name: str) -> None:
    with pytest.raises(WrongSettings, match="three topics"):
        from_environment(LEAST | {"REJECTED_TOPIC": name})


def test_traces_go_over_http_or_are_refused() -> None:
    with pytest.raises(WrongSettings, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        from_environment(LEAST | {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(WrongSettings) as caught:
        from_environment({"RETRY_BUDGET": "x", "LOG_LEVEL": "x", "HANDLER_DEADLINE_SECONDS": "200"})
    told = str(caught.value)
    for variable in ("GOOGLE_CLOUD_PROJECT", "RETRY_BUDGET", "LOG_LEVEL", "CLAIM_LEASE_SECONDS"):
        assert variable in told
