# From top to bottom the way of an event. `make dashboard` draws the same file with a local run's data (docs/dashboard.svg).
# What lies at 0 says no position: the API leaves it out, and each plan would show a change.
resource "google_monitoring_dashboard" "this" {
  # no template: legends have ${} of their own
  dashboard_json = replace(replace(file("${path.module}/dashboard.json"), "PROJECT_ID", var.project_id), "7200", local.oldest_event_seconds)
}
