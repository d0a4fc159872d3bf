# What this function and the one in resume.tf share: one archive, one image repository, one set of settings.
locals {
  build_environment = {
    # The buildpack compiles the source, and the image then gets new file times, so that bytecode which goes by the
    # time is stale in it, and compiled again at every cold start. With this, Python goes by the content instead.
    SOURCE_DATE_EPOCH = "315532801"
  }

  image_repository = "projects/${var.project_id}/locations/${var.region}/repositories/archive-job-retry"
  runtime          = trimspace(file("${path.module}/runtime.txt"))

  settings = merge(local.tracing_settings, {
    AMBIGUOUS_RETRY               = var.ambiguous_retry
    CLAIM_LEASE_SECONDS           = tostring(var.claim_lease_seconds)
    DATA_PORTABILITY_API_ENDPOINT = "https://dataportability.googleapis.com"
    EVENT_MAX_AGE_DAYS            = tostring(var.event_max_age_days)
    FAILED_TOPIC                  = google_pubsub_topic.this["archive-job-failed"].name
    FIRESTORE_DATABASE            = google_firestore_database.ledger.name
    GOOGLE_CLOUD_PROJECT          = var.project_id
    HANDLER_DEADLINE_SECONDS      = tostring(var.handler_deadline_seconds)
    LOG_LEVEL                     = var.log_level
    OAUTH_CLIENT_SECRET           = var.oauth_client_secret
    REFRESH_TOKEN_SECRET_PREFIX   = var.refresh_token_secret_prefix
    REJECTED_TOPIC                = google_pubsub_topic.this["archive-job-retry-rejected"].name
    RETRIED_TOPIC                 = google_pubsub_topic.this["archive-job-retried"].name
    RETRY_BUDGET                  = tostring(var.retry_budget)
    RETRY_LEDGER                  = "firestore"
    RETRY_LEDGER_COLLECTION       = local.ledger_collection
  })

  source_bucket = coalesce(var.source_bucket, "${var.project_id}-archive-job-retry-source")
}

resource "google_cloudfunctions2_function" "retry" {
  name         = "archive-job-retry"
  location     = var.region
  description  = "Retries failed Data Portability archive jobs."
  kms_key_name = var.kms_key_name

  build_config {
    runtime               = local.runtime
    entry_point           = "retry_failed_archive_job"
    service_account       = data.google_service_account.build.id
    docker_repository     = local.image_repository
    environment_variables = local.build_environment

    source {
      storage_source {
        bucket = local.source_bucket
        object = var.source_object
      }
    }
  }

  service_config {
    available_cpu                    = "1"
    available_memory                 = var.memory
    environment_variables            = local.settings
    ingress_settings                 = "ALLOW_INTERNAL_ONLY"
    max_instance_count               = var.max_instances
    max_instance_request_concurrency = var.concurrency
    min_instance_count               = 0
    service_account_email            = data.google_service_account.run.email
    timeout_seconds                  = var.function_timeout_seconds
  }

  depends_on = [
    google_firestore_field.ledger,
    google_project_iam_member.ledger,
    google_project_iam_member.refresh_tokens,
    google_pubsub_topic_iam_member.run_publishes,
  ]
}

# Whoever calls the function has to show a token of this account. Pub/Sub does.
resource "google_cloud_run_service_iam_member" "invoke" {
  location = google_cloudfunctions2_function.retry.location
  service  = google_cloudfunctions2_function.retry.name
  role     = "roles/run.invoker"
  member   = data.google_service_account.invoke.member
}
