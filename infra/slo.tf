# 99 % of the jobs that can be retried have their follow-up within ten minutes of their failure. What waited for Google's
# cooldown or for a person, and what only repeats an outcome, has no delay in the logs and does not count. What has no
# follow-up yet does not count either: the alerts on the oldest event and on dead letters speak for it.
locals {
  slo_goal = 0.99
}

resource "google_monitoring_custom_service" "this" {
  service_id   = "archive-job-retry"
  display_name = "Archive job retry"
}

# A new metric is not known at once where metrics are read, but within ten minutes
# (https://github.com/hashicorp/terraform-provider-google/issues/11102). The wait passes while the functions are built.
resource "terraform_data" "metrics_are_known" {
  triggers_replace = google_logging_metric.this["delay"].id

  provisioner "local-exec" {
    command = "sleep 600"
  }
}

resource "google_monitoring_slo" "follow_up" {
  service             = google_monitoring_custom_service.this.service_id
  slo_id              = "follow-up-within-ten-minutes"
  display_name        = "Follow-up within ten minutes of the failure"
  goal                = local.slo_goal
  rolling_period_days = 28

  request_based_sli {
    distribution_cut {
      distribution_filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.this["delay"].name}\" AND resource.type=\"cloud_run_revision\""

      range {
        max = local.follow_up_within_seconds
      }
    }
  }

  depends_on = [terraform_data.metrics_are_known]
}
