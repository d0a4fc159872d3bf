# What waits for people and other programs. The push subscriptions are infra/'s.
locals {
  # The smoke test's messages have a subscription of their own, so that a person or a product does not meet them. Filters
  # know attributes only, and of these the user is the one that tells.
  not_smoke = "NOT attributes.userId = \"${local.canary}\""

  # subscription → topic and filter
  subscriptions = merge(
    {
      archive-job-dead           = { topic = "archive-job-dead", filter = "" }
      archive-job-retried        = { topic = "archive-job-retried", filter = local.not_smoke }
      archive-job-retry-rejected = { topic = "archive-job-retry-rejected", filter = local.not_smoke }
      archive-job-retry-smoke    = { topic = "archive-job-retry-rejected", filter = trimprefix(local.not_smoke, "NOT ") }
    },
    var.watch ? {
      archive-job-ended      = { topic = "archive-job-ended", filter = local.not_smoke }
      archive-job-watch-dead = { topic = "archive-job-watch-dead", filter = "" }
    } : {},
  )
  operated = [for name in keys(local.subscriptions) : name if strcontains(name, "dead") || name == "archive-job-retry-rejected"]
}

resource "google_pubsub_subscription" "this" {
  for_each = local.subscriptions

  name                       = each.key
  topic                      = google_pubsub_topic.this[each.value.topic].name
  filter                     = each.value.filter
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s" # seven days

  expiration_policy {
    ttl = "" # never
  }
}
