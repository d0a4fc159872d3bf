locals {
  # topic → its schema in schemas/, where the function is the one that writes to it
  topics = {
    archive-job-dead           = null
    archive-job-failed         = null
    archive-job-retried        = "archive_job_retried"
    archive-job-retry-rejected = "archive_job_retry_rejected"
  }
  schemas = { for topic, schema in local.topics : topic => schema if schema != null }
}

resource "google_pubsub_schema" "this" {
  for_each = local.schemas

  name       = each.key
  type       = "AVRO"
  definition = file("${path.module}/schemas/${each.value}.avsc")
}

resource "google_pubsub_topic" "this" {
  for_each = local.topics

  name         = each.key
  kms_key_name = var.kms_key_name

  dynamic "schema_settings" {
    for_each = each.value == null ? [] : [google_pubsub_schema.this[each.key].name]

    content {
      schema   = "projects/${var.project_id}/schemas/${schema_settings.value}"
      encoding = "JSON"
    }
  }
}

# The function publishes its results, and the scheduled one puts events back: nothing else.
resource "google_pubsub_topic_iam_member" "run_publishes" {
  for_each = local.schemas

  topic  = google_pubsub_topic.this[each.key].name
  role   = "roles/pubsub.publisher"
  member = data.google_service_account.run.member
}

resource "google_pubsub_topic_iam_member" "resume_publishes" {
  topic  = google_pubsub_topic.this["archive-job-failed"].name
  role   = "roles/pubsub.publisher"
  member = data.google_service_account.resume.member
}

resource "google_pubsub_topic_iam_member" "pubsub_moves_dead_letters" {
  topic  = google_pubsub_topic.this["archive-job-dead"].name
  role   = "roles/pubsub.publisher"
  member = local.pubsub_agent
}

# The smoke test's event
resource "google_pubsub_topic_iam_member" "deploy_publishes" {
  topic  = google_pubsub_topic.this["archive-job-failed"].name
  role   = "roles/pubsub.publisher"
  member = local.deploy
}
