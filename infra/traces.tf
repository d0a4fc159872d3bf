# Traces are off unless they are asked for. The right to write them to Google Cloud is bootstrap/'s `cloud_trace`.
locals {
  tracing_settings = {
    for name, value in {
      OTEL_EXPORTER_OTLP_ENDPOINT = var.tracing == "cloud_trace" ? "https://telemetry.googleapis.com" : var.tracing
      OTEL_TRACES_EXPORTER        = "otlp"
    } : name => value if var.tracing != "off"
  }
}
