# What the inputs change, beside the example.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id    = "my-portability-project"
  region        = "europe-west1"
  source_object = "archive-job-retry-0000000000000000000000000000000000000000000000000000000000000000.zip"
}

run "traces_to_google_cloud" {
  command = plan

  variables {
    tracing = "cloud_trace"
  }

  assert {
    condition     = google_cloudfunctions2_function.this["retry"].service_config[0].environment_variables["OTEL_TRACES_EXPORTER"] == "otlp"
    error_message = "Traces must be on."
  }

  assert {
    condition     = google_cloudfunctions2_function.this["retry"].service_config[0].environment_variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://telemetry.googleapis.com"
    error_message = "Traces must go to Google."
  }
}

run "who_is_told_of_alerts" {
  command = plan

  variables {
    notification_channels = ["projects/p/notificationChannels/1"]
    pager_channels        = ["projects/p/notificationChannels/2"]
  }

  assert {
    condition = alltrue([
      for alert in google_monitoring_alert_policy.this :
      alert.notification_channels == concat(var.notification_channels, alert.severity == "CRITICAL" ? var.pager_channels : [])
    ])
    error_message = "CRITICAL alerts alone must go to the pager."
  }
}

run "other_values" {
  command = plan

  variables {
    doubt_pause_seconds = 240
    kms_key_name        = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"
    labels              = { team = "privacy" }
    min_instances       = 1
    source_generation   = 1700000000000001
    token_hosts         = ["oauth.example.com", "localhost"]
    tracing             = "https://collector.example:4318"
  }

  assert {
    condition     = google_monitoring_alert_policy.this["oldest-event"].conditions[0].condition_threshold[0].threshold_value == 14400 && strcontains(google_monitoring_dashboard.this.dashboard_json, "\"value\": 14400")
    error_message = "The alert on the oldest event must leave the pauses to pass, and the dashboard must show its threshold."
  }

  assert {
    condition     = google_cloudfunctions2_function.this["retry"].service_config[0].environment_variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://collector.example:4318"
    error_message = "Traces must go to the collector."
  }

  assert {
    condition     = google_cloudfunctions2_function.this["retry"].service_config[0].environment_variables["TOKEN_HOSTS"] == "oauth.example.com,localhost"
    error_message = "Hosts must be handed on."
  }

  assert {
    condition     = alltrue([for function in google_cloudfunctions2_function.this : function.kms_key_name == var.kms_key_name && function.build_config[0].source[0].storage_source[0].generation == var.source_generation])
    error_message = "Functions must be encrypted with the key, and made of the very object that was verified."
  }

  assert {
    condition     = google_cloudfunctions2_function.this["retry"].service_config[0].min_instance_count == 1 && google_cloudfunctions2_function.this["resume"].service_config[0].min_instance_count == 0
    error_message = "Instances must be kept of the retrying function, and of no other."
  }
}
