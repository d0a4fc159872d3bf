# Jobs that Google would not retry before a certain time wait in the ledger; on a schedule, those whose time has come
# are put back on the failed topic.
resource "google_cloudfunctions2_function" "resume" {
  name         = "archive-job-retry-resume"
  location     = var.region
  description  = "Puts deferred retries back when their time has come."
  kms_key_name = var.kms_key_name

  build_config {
    runtime               = local.runtime
    entry_point           = "resume_deferred_retries"
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
    max_instance_count               = 1
    max_instance_request_concurrency = 1
    min_instance_count               = 0
    service_account_email            = data.google_service_account.resume.email
    timeout_seconds                  = var.function_timeout_seconds
  }

  depends_on = [
    google_firestore_field.ledger,
    google_project_iam_member.ledger,
    google_pubsub_topic_iam_member.resume_publishes,
  ]
}

resource "google_cloud_run_service_iam_member" "invoke_resume" {
  location = google_cloudfunctions2_function.resume.location
  service  = google_cloudfunctions2_function.resume.name
  role     = "roles/run.invoker"
  member   = data.google_service_account.invoke.member
}

resource "google_cloud_scheduler_job" "resume" {
  name             = "archive-job-retry-resume"
  region           = var.region
  description      = "Puts deferred retries back when their time has come."
  schedule         = var.resume_schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "${var.function_timeout_seconds}s"

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.resume.service_config[0].uri

    oidc_token {
      service_account_email = data.google_service_account.invoke.email
      audience              = google_cloudfunctions2_function.resume.service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_service_iam_member.invoke_resume]
}
