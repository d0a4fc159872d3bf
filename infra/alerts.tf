# Few, and none that fires in a healthy week. What each means, what to look at and what to do stands in its documentation,
# which comes with the notification; docs/runbook.md has the whole of it.
locals {
  # The metrics of metrics.tf as PromQL has them: https://cloud.google.com/monitoring/promql/promql-mapping
  promql = {
    for name, metric in google_logging_metric.this :
    name => "logging_googleapis_com:user_${replace(metric.name, "/[^a-zA-Z0-9]/", "_")}"
  }
  of_functions = "monitored_resource=\"cloud_run_revision\""

  reauthorize = "sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=\"rejected\",reason=\"REAUTHORIZATION_REQUIRED\"}[6h]))"
  settled     = "sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=~\"retried|rejected\",republished=\"false\"}[6h]))"
  rejected    = "sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=\"rejected\",reason=~\"ACCESS_DENIED|EVENT_EXPIRED|JOB_NOT_FOUND|JOB_NOT_RETRYABLE|MALFORMED_EVENT|OUTCOME_UNKNOWN|RETRY_BUDGET_EXHAUSTED\"}[6h]))"
  unknown     = "sum(increase(${local.promql["calls-unknown"]}{${local.of_functions}}[1h]))"
  called      = "sum(increase(${local.promql["calls"]}{${local.of_functions}}[1h]))"
  resumed     = "sum(increase(${local.promql["runs"]}{${local.of_functions},outcome=\"resumed\"}[2h]))"

  # How much faster than the SLO allows its budget is used up, over a window, for at least three late follow-ups: one
  # alone says nothing where there are few (https://sre.google/workbook/alerting-on-slos/).
  burns = {
    for window, rate in { "1h" = 10, "24h" = 2 } : window => join(" and ", [
      "sum(increase(${local.promql["late"]}{${local.of_functions}}[${window}])) > ${rate} * ${format("%.3f", 1 - local.slo_goal)} * sum(increase(${local.promql["delay"]}_count{${local.of_functions}}[${window}]))",
      "sum(increase(${local.promql["late"]}{${local.of_functions}}[${window}])) > 2.5",
    ])
  }

  read = "gcloud logging read --project=${var.project_id} --limit=20"

  # The back-off doubles from 10 s to 600 s: the first seven deliveries take 630 s.
  delivered_for_hours = max(1, floor((630 + (var.max_delivery_attempts - 7) * 600) / 3600))

  # threshold: of a metric of Google's. query: PromQL over our own. filter: on log lines.
  alerts = merge(local.watch_alerts, {
    dead-letters = {
      says      = "Dead letters: events that Pub/Sub gave up on"
      severity  = "CRITICAL"
      metric    = "pubsub.googleapis.com/subscription/num_undelivered_messages"
      labels    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"archive-job-dead\""
      threshold = 0
      doc       = <<-EOT
        **${var.max_delivery_attempts} deliveries of an event failed.** It is kept for seven days in `archive-job-dead`; nothing is lost yet, but nothing goes on by itself.

        Which, and why (no `--go`: nothing is changed):

            .venv/bin/python -m ops redrive dead
            ${local.read} --freshness=7d 'resource.labels.service_name="archive-job-retry" AND jsonPayload.deliveryAttempt>=${var.max_delivery_attempts} AND severity>=WARNING'

        Mend what `failedStep` and `message` name, then put them back:

            .venv/bin/python -m ops redrive dead --go
      EOT
    }
    faults = {
      says     = "A fault of ours: settings, permissions, the OAuth client or a bug"
      severity = "CRITICAL"
      filter   = local.metrics.faults.filter
      doc      = <<-EOT
        **The function answered 500.** Every event that meets the fault is delivered again for about ${local.delivered_for_hours} hours, then it is a dead letter. No user is at fault, and no retry is wasted. Right after the first deployment it may pass by itself, since rights take minutes to reach everywhere.

        What it says:

            ${local.read} --freshness=1d --format='table(timestamp,jsonPayload.failedStep,jsonPayload.message)' 'resource.labels.service_name=(${local.any_function}) AND jsonPayload.outcome="fault"'

        `failedStep` token: the OAuth client or a right on secrets; retry: the Data Portability API is disabled or this project is refused; claim, record: the ledger; publish: a right on a topic; none of them: a bug, with its stack trace in Error Reporting. If it came with a deployment: `make rollback PROJECT_ID=${var.project_id}`.
      EOT
    }
    follow-up-fast-burn = {
      says     = "SLO: follow-ups are late, the month's allowance is gone within three days"
      severity = "CRITICAL"
      query    = local.burns["1h"]
      doc      = <<-EOT
        **More than 10 % of the last hour's follow-ups took longer than ten minutes** from their job's failure.

        Which step takes the time, and what came before:

            ${local.read} --freshness=2h --format='table(timestamp,jsonPayload.delaySeconds,jsonPayload.deliveryAttempt,jsonPayload.stepsMs)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.delaySeconds>${local.follow_up_within_seconds}'
            ${local.read} --freshness=2h 'resource.labels.service_name="archive-job-retry" AND jsonPayload.outcome="not_now"'

        All of them first deliveries: the product told us late (its watcher), or there are too few instances (`max_instances`). Later deliveries: what the second command names was not available.
      EOT
    }
    follow-up-slow-burn = {
      says     = "SLO: more follow-ups are late than the month allows"
      severity = "WARNING"
      query    = local.burns["24h"]
      doc      = <<-EOT
        **More than 2 % of the last day's follow-ups took longer than ten minutes** from their job's failure. Not tonight's work, but it goes on.

        Which step takes the time:

            ${local.read} --freshness=1d --format='table(timestamp,jsonPayload.delaySeconds,jsonPayload.deliveryAttempt,jsonPayload.stepsMs)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.delaySeconds>${local.follow_up_within_seconds}'
      EOT
    }
    oldest-event = {
      says      = "An event has waited for more than an hour"
      severity  = "ERROR"
      metric    = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
      labels    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"archive-job-failed-push\""
      threshold = 3600
      doc       = <<-EOT
        **Pub/Sub has delivered an event for an hour without success**, or not delivered it at all. It becomes a dead letter after ${var.max_delivery_attempts} deliveries.

        What the function says, and whether it starts:

            ${local.read} --freshness=2h 'resource.labels.service_name="archive-job-retry" AND jsonPayload.outcome=("not_now" OR "fault")'
            ${local.read} --freshness=2h 'resource.type="cloud_run_revision" AND resource.labels.service_name="archive-job-retry" AND severity>=ERROR'

        `not_now` with one `failedStep`: that service is down, and it goes on by itself when it is back. Nothing at all: the push does not arrive (ingress, the invoker's right), or the function does not start.
      EOT
    }
    reauthorization = {
      says     = "Most users are asked for consent again"
      severity = "ERROR"
      query    = "${local.reauthorize} >= 20 and ${local.reauthorize} > 0.5 * ${local.settled}"
      doc      = <<-EOT
        **More than half of what was settled in six hours was rejected as REAUTHORIZATION_REQUIRED**, 20 or more. Single users revoke their consent; this many at once is the OAuth client: its publishing status is *Testing* (refresh tokens end after seven days), it was replaced, or a scope lost its verification.

        Whether it is one user or all of them, and what Google said:

            ${local.read} --freshness=6h --format='table(timestamp,jsonPayload.userId,jsonPayload.message)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.reason="REAUTHORIZATION_REQUIRED"'

        Look at *Google Auth Platform › Audience* in the console. When users have consented again, put theirs back:

            .venv/bin/python -m ops redrive rejected --reason REAUTHORIZATION_REQUIRED --go
      EOT
    }
    rejections = {
      says     = "Most jobs are rejected"
      severity = "ERROR"
      query    = "${local.rejected} >= 20 and ${local.rejected} > 0.5 * ${local.settled}"
      doc      = <<-EOT
        **More than half of what was settled in six hours was rejected**, 20 or more, and not for want of consent. Single jobs are rejected every day; this many at once is a producer that sends something else, or an API that has changed.

        Which reason, and what was said:

            ${local.read} --freshness=6h --format='table(timestamp,jsonPayload.reason,jsonPayload.archiveJobId,jsonPayload.message)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.outcome="rejected"'
            .venv/bin/python -m ops redrive rejected

        `MALFORMED_EVENT`, `EVENT_EXPIRED`: the producer. `ACCESS_DENIED`, `JOB_NOT_FOUND`, `JOB_NOT_RETRYABLE`: what Google answers, in brackets. Each rejection waits for seven days, with its event whole; once the cause is mended, put them back:

            .venv/bin/python -m ops redrive rejected --reason JOB_NOT_RETRYABLE --go
      EOT
    }
    schedule = {
      says     = "Deferred jobs are not put back"
      severity = "ERROR"
      query    = "(${local.resumed} or vector(0)) < 1"
      duration = "3600s"
      doc      = <<-EOT
        **No run of the schedule has succeeded for about three hours.** Jobs that Google would not retry before a certain time wait in the ledger for longer than they have to. Nothing is lost.

            gcloud scheduler jobs describe archive-job-retry-resume --location=${var.region} --project=${var.project_id}
            ${local.read} --freshness=3h 'resource.labels.service_name="archive-job-retry-resume" AND severity>=WARNING'

        No lines at all: the job is paused, or may not call the function. Once it is mended, the next run puts back all that is due.
      EOT
    }
    unknown-calls = {
      says     = "Calls to Google end without a known outcome"
      severity = "WARNING"
      query    = "${local.unknown} >= 5 and ${local.unknown} > 0.02 * ${local.called}"
      doc      = <<-EOT
        **More than 2 % of an hour's calls to archiveJobs.retry, five or more, may or may not have been carried out.** Each counts as one of a job's three retries.

        What came instead of an answer:

            ${local.read} --freshness=2h --format='table(timestamp,jsonPayload.archiveJobId,jsonPayload.message)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.callsUnknown>0'

        5xx: Google's, see its status page. No answer: the network, or calls cut off by the handler's deadline. `retried` lines among them: instances died in their calls (out of memory, see the dashboard). To spare retries until it is over, set `ambiguous_retry = "park"`.
      EOT
    }
  })

  watch_alerts = {
    for name, alert in {
      watch-dead-letters = {
        says      = "Dead letters of the watch: running jobs that nobody looks at any more"
        severity  = "ERROR"
        metric    = "pubsub.googleapis.com/subscription/num_undelivered_messages"
        labels    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"archive-job-watch-dead\""
        threshold = 0
        doc       = <<-EOT
          **${var.max_delivery_attempts} deliveries of a started job failed.** It is kept for seven days in `archive-job-watch-dead`. No retry is lost, but the product does not hear of the job's end.

          Which, and why:

              gcloud pubsub subscriptions pull archive-job-watch-dead --limit=10 --project=${var.project_id}
              ${local.read} --freshness=7d 'resource.labels.service_name="archive-job-retry-watch" AND severity>=WARNING'

          Mend what `failedStep` and `message` name. Then the product publishes these jobs to `archive-job-started` once more.
        EOT
      }
    } : name => alert if var.watch
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  display_name          = "archive-job-retry: ${each.key}"
  combiner              = "OR"
  notification_channels = var.notification_channels
  severity              = each.value.severity

  conditions {
    display_name = each.value.says

    dynamic "condition_threshold" {
      for_each = try([each.value.metric], [])

      content {
        filter          = "metric.type=\"${condition_threshold.value}\" AND ${each.value.labels}"
        comparison      = "COMPARISON_GT"
        threshold_value = each.value.threshold
        duration        = "0s"

        aggregations {
          alignment_period   = "300s"
          per_series_aligner = "ALIGN_MAX"
        }
      }
    }

    dynamic "condition_prometheus_query_language" {
      for_each = try([each.value.query], [])

      content {
        query               = condition_prometheus_query_language.value
        duration            = try(each.value.duration, "0s")
        evaluation_interval = "60s"

        # A metric that was just made is not known yet, and the policy would be refused.
        disable_metric_validation = true
      }
    }

    dynamic "condition_matched_log" {
      for_each = try([each.value.filter], [])

      content {
        filter           = condition_matched_log.value
        label_extractors = { step = "EXTRACT(jsonPayload.failedStep)" }
      }
    }
  }

  alert_strategy {
    auto_close = "3600s"

    dynamic "notification_rate_limit" {
      for_each = try([each.value.filter], [])

      content {
        period = "3600s"
      }
    }
  }

  documentation {
    content   = "${each.value.doc}\nMore, also on single jobs and users: `docs/runbook.md` in the repository, *${each.key}*."
    mime_type = "text/markdown"
    subject   = each.value.says
  }
}
