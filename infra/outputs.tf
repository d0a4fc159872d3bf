output "function_uri" {
  description = "Where Pub/Sub delivers. Not reachable from the internet."
  value       = google_cloudfunctions2_function.retry.service_config[0].uri
}

output "run_account" {
  description = "The account that the function runs as."
  value       = data.google_service_account.run.email
}

output "smoke_subscription" {
  description = "Where the smoke test finds the answer to its event."
  value       = google_pubsub_subscription.pull["archive-job-retry-smoke"].name
}

output "smoke_user" {
  description = "The user of the smoke test's event, who does not exist."
  value       = local.smoke_user
}

output "source_object" {
  description = "The archive that is deployed."
  value       = var.source_object
}
