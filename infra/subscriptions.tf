# Pub/Sub pushes each failed job to the function. An explicit subscription, since the one behind an event trigger keeps
# events for a day only and knows neither dead letters nor back-off. What is pulled is in bootstrap/subscriptions.tf.
locals {
  pushes = merge(
    { archive-job-failed-push = { topic = "archive-job-failed", function = "retry", dead = "archive-job-dead", filter = "" } },
    local.watch_pushes,
  )
}

resource "google_pubsub_subscription" "push" {
  for_each = local.pushes

  name                       = each.key
  topic                      = each.value.topic
  filter                     = each.value.filter
  ack_deadline_seconds       = var.ack_deadline_seconds
  message_retention_duration = "604800s" # seven days

  push_config {
    # The run.app address: Cloud Run takes Pub/Sub for internal traffic on no other.
    push_endpoint = google_cloudfunctions2_function.this[each.value.function].service_config[0].uri

    oidc_token {
      service_account_email = local.accounts["invoke"]
      audience              = google_cloudfunctions2_function.this[each.value.function].service_config[0].uri
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  # Pub/Sub's own account moves what has used up its attempts; bootstrap/agents.tf lets it. Without that right a message
  # is delivered on and on.
  dead_letter_policy {
    dead_letter_topic     = "projects/${var.project_id}/topics/${each.value.dead}"
    max_delivery_attempts = var.max_delivery_attempts
  }

  expiration_policy {
    ttl = "" # never
  }
}
