# Pub/Sub pushes each failed job to the function. An explicit subscription, since the one behind an event trigger keeps
# events for a day only and knows neither dead letters nor back-off.
resource "google_pubsub_subscription" "push" {
  name                       = "archive-job-failed-push"
  topic                      = google_pubsub_topic.this["archive-job-failed"].name
  ack_deadline_seconds       = var.ack_deadline_seconds
  message_retention_duration = local.seven_days

  push_config {
    # The run.app address: Cloud Run takes Pub/Sub for internal traffic on no other.
    push_endpoint = google_cloudfunctions2_function.retry.service_config[0].uri

    oidc_token {
      service_account_email = data.google_service_account.invoke.email
      audience              = google_cloudfunctions2_function.retry.service_config[0].uri
    }
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = "projects/${var.project_id}/topics/${google_pubsub_topic.this["archive-job-dead"].name}"
    max_delivery_attempts = var.max_delivery_attempts
  }

  expiration_policy {
    ttl = "" # never
  }

  depends_on = [google_cloud_run_service_iam_member.invoke]
}

locals {
  seven_days = "604800s"

  # The smoke test's rejections have a subscription of their own, so that those of real users stay unread, and a
  # person who looks through the rejections does not meet the tests'.
  smoke_user = "deployment-smoke-test"

  # What waits for people or other programs: subscription → topic and filter
  pull_subscriptions = {
    archive-job-dead           = { topic = "archive-job-dead", filter = "" }
    archive-job-retried        = { topic = "archive-job-retried", filter = "" }
    archive-job-retry-rejected = { topic = "archive-job-retry-rejected", filter = "NOT attributes.userId = \"${local.smoke_user}\"" }
    archive-job-retry-smoke    = { topic = "archive-job-retry-rejected", filter = "attributes.userId = \"${local.smoke_user}\"" }
  }
}

resource "google_pubsub_subscription" "pull" {
  for_each = local.pull_subscriptions

  name                       = each.key
  topic                      = google_pubsub_topic.this[each.value.topic].name
  filter                     = each.value.filter
  ack_deadline_seconds       = 60
  message_retention_duration = local.seven_days

  expiration_policy {
    ttl = "" # never
  }
}

# Without this right, a message that has used up its attempts is neither moved nor dropped, but delivered on and on.
resource "google_pubsub_subscription_iam_member" "pubsub_moves_dead_letters" {
  subscription = google_pubsub_subscription.push.name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "deploy_reads_smoke" {
  subscription = google_pubsub_subscription.pull["archive-job-retry-smoke"].name
  role         = "roles/pubsub.subscriber"
  member       = local.deploy
}
