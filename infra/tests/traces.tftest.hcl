# Traces: off, to Google Cloud or to a collector; the right to write them only where Google's own are meant.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id    = "my-portability-project"
  region        = "europe-west1"
  source_object = "archive-job-retry-0000000000000000000000000000000000000000000000000000000000000000.zip"
}

run "off" {
  command = plan

  assert {
    condition     = length([for name, value in local.settings : name if startswith(name, "OTEL_")]) == 0 && length(google_project_iam_member.traces) == 0
    error_message = "Without tracing nothing of it may be set or granted."
  }
}

run "to_google_cloud" {
  command = plan

  variables {
    tracing = "cloud_trace"
  }

  assert {
    condition     = google_cloudfunctions2_function.retry.service_config[0].environment_variables["OTEL_TRACES_EXPORTER"] == "otlp"
    error_message = "Traces must be on."
  }

  assert {
    condition     = google_cloudfunctions2_function.retry.service_config[0].environment_variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://telemetry.googleapis.com"
    error_message = "Traces must go to Google."
  }

  assert {
    condition     = google_project_iam_member.traces[0].role == "roles/telemetry.tracesWriter"
    error_message = "The function must be allowed to write traces."
  }
}

run "to_a_collector" {
  command = plan

  variables {
    tracing = "https://collector.example:4318"
  }

  assert {
    condition     = google_cloudfunctions2_function.retry.service_config[0].environment_variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://collector.example:4318"
    error_message = "Traces must go to the collector."
  }

  assert {
    condition     = length(google_project_iam_member.traces) == 0
    error_message = "A collector of one's own needs no right in the project."
  }
}

run "nowhere" {
  command = plan

  variables {
    tracing = "on"
  }

  expect_failures = [var.tracing]
}
