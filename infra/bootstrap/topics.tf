locals {
  # topic → its schema in ../schemas/, where the functions are the ones that write to it
  topics = merge(
    {
      archive-job-dead           = null
      archive-job-failed         = null
      archive-job-retried        = "archive_job_retried"
      archive-job-retry-rejected = "archive_job_retry_rejected"
    },
    var.watch ? {
      archive-job-ended      = "archive_job_ended"
      archive-job-started    = null
      archive-job-watch-dead = null
    } : {},
  )
  schemas   = { for topic, schema in local.topics : topic => schema if schema != null }
  results   = keys(local.schemas)                                                      # for products to read
  published = concat(["archive-job-failed"], var.watch ? ["archive-job-started"] : []) # by products
  pushed    = concat(local.published, var.watch ? ["archive-job-retried"] : [])        # to functions

  # account → the topics that its function writes to
  written = merge(
    {
      resume = local.published
      run    = ["archive-job-retried", "archive-job-retry-rejected"]
    },
    var.watch ? { watch = ["archive-job-ended", "archive-job-failed", "archive-job-retry-rejected"] } : {},
  )

  storage_regions = coalescelist(var.storage_regions, [var.region])
}

# The first revision. The pipeline commits later ones (infra/delivery/deploy.py), before it deploys what needs them.
resource "google_pubsub_schema" "this" {
  for_each = local.schemas

  name       = each.key
  type       = "AVRO"
  definition = file("${path.module}/../schemas/${each.value}.avsc")

  lifecycle {
    ignore_changes = [definition]
  }

  depends_on = [google_project_service.this]
}

resource "google_pubsub_topic" "this" {
  for_each = local.topics

  name         = each.key
  kms_key_name = var.kms_key_name

  # So that a push subscription that was deleted and is made anew can be set back in time (docs/runbook.md).
  message_retention_duration = contains(local.pushed, each.key) ? "604800s" : null

  message_storage_policy {
    allowed_persistence_regions = local.storage_regions
  }

  # Any revision: what the last version of a function publishes stays valid, so that it can be put back.
  dynamic "schema_settings" {
    for_each = each.value == null ? [] : ["projects/${var.project_id}/schemas/${google_pubsub_schema.this[each.key].name}"]

    content {
      schema   = schema_settings.value
      encoding = "JSON"
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_iam_member.agents, google_project_service.this]
}

# Each function may publish to the topics that it writes to, and to no others.
resource "google_pubsub_topic_iam_member" "functions_publish" {
  for_each = merge([for name, topics in local.written : { for topic in topics : "${name} ${topic}" => { account = name, topic = topic } }]...)

  topic  = google_pubsub_topic.this[each.value.topic].name
  role   = "roles/pubsub.publisher"
  member = local.members[each.value.account]
}

resource "google_pubsub_topic_iam_member" "pubsub_moves_dead_letters" {
  for_each = toset([for topic in keys(local.topics) : topic if strcontains(topic, "dead")])

  topic  = google_pubsub_topic.this[each.key].name
  role   = "roles/pubsub.publisher"
  member = local.agent_members["pubsub"]

  depends_on = [google_project_iam_member.agents]
}
