# Jobs that Google would not retry before a certain time wait in the ledger, and running ones between two looks of the
# watch; on a schedule, those whose time has come are put back on their topic.
resource "google_cloud_scheduler_job" "resume" {
  name             = "archive-job-retry-resume"
  region           = var.region
  description      = "Puts deferred retries back when their time has come."
  schedule         = var.resume_schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "${max(15, var.function_timeout_seconds)}s" # the least that Cloud Scheduler takes

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.this["resume"].service_config[0].uri

    oidc_token {
      service_account_email = local.accounts["invoke"]
      audience              = google_cloudfunctions2_function.this["resume"].service_config[0].uri
    }
  }
}
