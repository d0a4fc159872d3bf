# Traces are off unless they are asked for: where they go, and the right to send them there.
locals {
  tracing_settings = {
    for name, value in {
      OTEL_EXPORTER_OTLP_ENDPOINT = var.tracing == "cloud_trace" ? "https://telemetry.googleapis.com" : var.tracing
      OTEL_TRACES_EXPORTER        = "otlp"
    } : name => value if var.tracing != "off"
  }
}

resource "google_project_iam_member" "traces" {
  count = var.tracing == "cloud_trace" ? 1 : 0

  project = var.project_id
  role    = "roles/telemetry.tracesWriter"
  member  = data.google_service_account.run.member
}
