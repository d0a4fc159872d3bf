# Few, and none that fires in a healthy week; docs/alerts.md reckons how seldom one is wrong. What each means, what to look
# at and what to do stands in its documentation, which comes with the notification; docs/runbook.md has the whole of it.
# CRITICAL is for what wakes somebody: work came, and for fifteen minutes none was done. One odd job is never that.
locals {
  # The metrics of metrics.tf as PromQL has them: https://cloud.google.com/monitoring/promql/promql-mapping
  promql = {
    for name, metric in google_logging_metric.this :
    name => "logging_googleapis_com:user_${replace(metric.name, "/[^a-zA-Z0-9]/", "_")}"
  }
  of_functions = "monitored_resource=\"cloud_run_revision\""
  waiting      = "pubsub_googleapis_com:subscription_num_undelivered_messages{monitored_resource=\"pubsub_subscription\",subscription_id=\"archive-job-failed-push\"}"
  oldest       = "pubsub_googleapis_com:subscription_oldest_unacked_message_age{monitored_resource=\"pubsub_subscription\",subscription_id="

  # Forward progress, at any volume: two events wait, one of them for fifteen minutes, and none was settled meanwhile.
  done    = "(sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=~\"retried|rejected|deferred\"}[15m])) or vector(0))"
  stalled = "max(${local.oldest}\"archive-job-failed-push\"}) > 900 and max(${local.waiting}) > 1.5 and ${local.done} < 0.5"

  # Most of what was settled is rejected: within an hour where there is much, within a day where there is less.
  reauthorize_only = "outcome=\"rejected\",reason=\"REAUTHORIZATION_REQUIRED\",republished=\"false\""
  others_only      = "outcome=\"rejected\",reason=~\"ACCESS_DENIED|EVENT_EXPIRED|JOB_NOT_FOUND|JOB_NOT_RETRYABLE|MALFORMED_EVENT|OUTCOME_UNKNOWN|RETRY_BUDGET_EXHAUSTED\",republished=\"false\""
  mostly = {
    for name, labels in { reauthorization = local.reauthorize_only, rejections = local.others_only } : name => join(" or ", [
      for window in ["1h", "24h"] : join(" and ", [
        "sum(increase(${local.promql["deliveries"]}{${local.of_functions},${labels}}[${window}])) >= 20",
        "sum(increase(${local.promql["deliveries"]}{${local.of_functions},${labels}}[${window}])) > 0.5 * sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=~\"retried|rejected\",republished=\"false\"}[${window}]))",
      ])
    ])
  }

  # Where there is little: the last five settled jobs, of three users at least, were all rejected. Which window they lie in
  # depends on the volume. PromQL looks back that far: https://cloud.google.com/monitoring/alerts/using-promql
  last_five = join(" or ", [
    for window in ["6h", "24h", "72h", "168h"] : join(" and ", [
      "sum(increase(${local.promql["rejected"]}{${local.of_functions}}[${window}])) > 4.5",
      "count(sum by (user) (increase(${local.promql["rejected"]}{${local.of_functions}}[${window}])) > 0.5) > 2.5",
      "(sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=\"retried\",republished=\"false\"}[${window}])) or vector(0)) < 0.5",
    ])
  ])

  unread  = "sum(increase(${local.promql["unreadable"]}{${local.of_functions}}[2h]))"
  parked  = "sum(increase(${local.promql["deliveries"]}{${local.of_functions},outcome=\"rejected\",reason=\"OUTCOME_UNKNOWN\",republished=\"false\"}[1h]))"
  unknown = "sum(increase(${local.promql["calls-unknown"]}{${local.of_functions}}[1h]))"
  called  = "(sum(increase(${local.promql["calls"]}{${local.of_functions}}[1h])) or vector(0))"
  resumed = "sum(increase(${local.promql["runs"]}{${local.of_functions},outcome=\"resumed\"}[2h]))"

  # How much faster than the SLO allows its budget is used up, over a window, for at least three late follow-ups: one
  # alone says nothing where there are few (https://sre.google/workbook/alerting-on-slos/).
  late = join(" or ", [
    for window, rate in { "1h" = 10, "24h" = 2 } : join(" and ", [
      "sum(increase(${local.promql["late"]}{${local.of_functions}}[${window}])) > ${rate} * ${format("%.3f", 1 - local.slo_goal)} * sum(increase(${local.promql["delay"]}_count{${local.of_functions}}[${window}]))",
      "sum(increase(${local.promql["late"]}{${local.of_functions}}[${window}])) > 2.5",
    ])
  ])

  # Forward progress of the watch: events wait for an hour and no look succeeds; or jobs that were looked at two days ago
  # are looked at still, and not one job has ended since. How long a single job runs is Google's affair.
  looked        = "(sum(increase(${local.promql["looks"]}{${local.of_functions},outcome=~\"watching|failed|ended|rejected\"}[1h])) or vector(0))"
  ended         = "(sum(increase(${local.promql["looks"]}{${local.of_functions},outcome=~\"failed|ended\"}[72h])) or vector(0))"
  looked_before = "sum(increase(${local.promql["looks"]}{${local.of_functions},outcome=\"watching\"}[24h] offset 48h))"
  looked_since  = "sum(increase(${local.promql["looks"]}{${local.of_functions},outcome=\"watching\"}[24h]))"
  watch_stalled = join(" or ", [
    "max(${local.oldest}\"archive-job-started-watch\"}) > 3600 and ${local.looked} < 0.5",
    "max(${local.oldest}\"archive-job-retried-watch\"}) > 3600 and ${local.looked} < 0.5",
    "${local.looked_before} > 0.5 and ${local.looked_since} > 0.5 and ${local.ended} < 0.5",
  ])

  # After the second call in doubt a job waits for 30 pauses by design.
  oldest_event_seconds = max(7200, 60 * var.doubt_pause_seconds)

  read      = "gcloud logging read --project=${var.project_id} --limit=20"
  lines     = "--format='table(timestamp,severity,resource.labels.service_name,jsonPayload.outcome,jsonPayload.failedStep,jsonPayload.message,textPayload)'"
  rejection = "--format='table(timestamp,jsonPayload.reason,jsonPayload.cause,jsonPayload.userId,jsonPayload.archiveJobId,jsonPayload.message)'"

  # The back-off doubles from 10 s to 600 s: the first seven deliveries take 630 s.
  delivered_for_hours = max(1, floor((630 + (var.max_delivery_attempts - 7) * 600) / 3600))

  # threshold: of a metric of Google's. query: PromQL over our own. filter: on log lines.
  alerts = merge(local.watch_alerts, {
    dead-letters = {
      says      = "Dead letters: events that Pub/Sub gave up on"
      severity  = "ERROR"
      metric    = "pubsub.googleapis.com/subscription/num_undelivered_messages"
      labels    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"archive-job-dead\""
      threshold = 0
      doc       = <<-EOT
        **${var.max_delivery_attempts} deliveries of an event failed.** It is kept for seven days in `archive-job-dead`; nothing is lost yet, but nothing goes on by itself.

        Which, and why (no `--go`: nothing is changed):

            .venv/bin/python -m ops redrive dead
            ${local.read} --freshness=7d ${local.lines} 'resource.labels.service_name="archive-job-retry" AND jsonPayload.deliveryAttempt>=${var.max_delivery_attempts} AND severity>=WARNING'

        Mend what `failedStep` and `message` name, then put them back:

            .venv/bin/python -m ops redrive dead --go
      EOT
    }
    faults = {
      says     = "A fault of ours: its log line names it"
      severity = "ERROR"
      filter   = local.metrics.faults.filter
      doc      = <<-EOT
        **The function answered 500, did not start, or wrote another line of severity ERROR.** Every event that meets the fault is delivered again for about ${local.delivered_for_hours} hours, then it is a dead letter. No user is at fault. No retry is wasted, unless the line says `in archiveJobs.retry` or `without a job's id`. It may be one odd job; where nothing else succeeds either, `stalled` fires. Right after the first deployment it may pass by itself, since rights take minutes to reach everywhere.

        What it says:

            ${local.read} --freshness=1d ${local.lines} '${local.metrics.faults.filter}'

        The runbook's table has a row for each `failedStep` and `message`. `unexpected …` is a bug, whatever the step: its stack trace stands in Error Reporting, and the rest goes on without that job. If it came with a deployment: `make rollback PROJECT_ID=${var.project_id} REGION=${var.region} OBJECT=archive-job-retry-….zip`; the runbook, Putting an earlier archive back, says which.
      EOT
    }
    follow-ups-late = {
      says     = "SLO: more follow-ups are late than the month allows"
      severity = "ERROR"
      query    = local.late
      doc      = <<-EOT
        **More than 10 % of the last hour's follow-ups, or 2 % of the last day's, took longer than ten minutes** from their job's failure, three at least.

        Which step takes the time, and what came before:

            ${local.read} --freshness=1d --format='table(timestamp,jsonPayload.delaySeconds,jsonPayload.deliveryAttempt,jsonPayload.stepsMs)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.delaySeconds>${local.follow_up_within_seconds}'
            ${local.read} --freshness=1d ${local.lines} 'resource.labels.service_name="archive-job-retry" AND jsonPayload.outcome="not_now"'

        All of them first deliveries: the product told us late, its clock is slow (`failedAt`), or there are too few instances (`max_instances`). Later deliveries: what the second command names was not available. An instance's own clock does not count.
      EOT
    }
    last-five = {
      says     = "The last five jobs were all rejected"
      severity = "ERROR"
      query    = local.last_five
      every    = "300s"
      doc      = <<-EOT
        **The last five jobs that were settled within seven days, of at least three users, were all rejected.** One user revokes consent; several in a row, and nothing else, is our mistake more likely than theirs.

        Which reason and cause, and what was said:

            ${local.read} --freshness=7d ${local.rejection} 'resource.labels.service_name="archive-job-retry" AND jsonPayload.outcome="rejected"'
            .venv/bin/python -m ops redrive rejected

        The runbook's table has a row for each cause. Once it is mended, put those of this incident back, by reason or cause, from its beginning on:

            .venv/bin/python -m ops redrive rejected --reason REAUTHORIZATION_REQUIRED --newer-than 3d --go
      EOT
    }
    oldest-event = {
      says      = "An event has waited for more than two hours"
      severity  = "ERROR"
      metric    = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
      labels    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"archive-job-failed-push\""
      threshold = local.oldest_event_seconds
      doc       = <<-EOT
        **Pub/Sub has delivered an event for two hours without success**, or not delivered it at all. It becomes a dead letter after ${var.max_delivery_attempts} deliveries. It may be one odd job.

        What the function and Cloud Run say:

            ${local.read} --freshness=3h ${local.lines} 'resource.type="cloud_run_revision" AND resource.labels.service_name="archive-job-retry" AND severity>=WARNING'

        `not_now` with one `failedStep`: the runbook's table says whether waiting helps. Nothing at all: the push does not arrive (ingress, the invoker's right), or the function does not start.
      EOT
    }
    reauthorization = {
      says     = "Most users are asked for consent again"
      severity = "ERROR"
      query    = local.mostly["reauthorization"]
      doc      = <<-EOT
        **More than half of what was settled in an hour or in a day was rejected as REAUTHORIZATION_REQUIRED**, 20 or more. Single users revoke their consent; this many at once is one cause.

        Which cause, and what was said:

            ${local.read} --freshness=6h ${local.rejection} 'resource.labels.service_name="archive-job-retry" AND jsonPayload.reason="REAUTHORIZATION_REQUIRED"'

        `NO_SECRET`: the prefix or the product that stores the tokens. `SECRET_DISABLED`: versions that somebody disabled; enable them again. `INVALID_GRANT`: the publishing status is *Testing*, so that refresh tokens end after seven days. `OTHER_CLIENT`: the client was replaced. `ADMIN_POLICY`, `NO_SCOPE`: *Google Auth Platform › Audience* and *Data access*. When it is mended, put those of this incident back, by their cause:

            .venv/bin/python -m ops redrive rejected --reason NO_SECRET --newer-than 1d --go
      EOT
    }
    rejections = {
      says     = "Most jobs are rejected"
      severity = "ERROR"
      query    = local.mostly["rejections"]
      doc      = <<-EOT
        **More than half of what was settled in an hour or in a day was rejected**, 20 or more, and not for want of consent. Single jobs are rejected every day; this many at once is a producer that sends something else, an outage of Google's, or an API that has changed.

        Which reason, and what was said:

            ${local.read} --freshness=6h ${local.rejection} 'resource.labels.service_name="archive-job-retry" AND jsonPayload.outcome="rejected"'
            .venv/bin/python -m ops redrive rejected

        `MALFORMED_EVENT`, `EVENT_EXPIRED`: the producer. `RETRY_BUDGET_EXHAUSTED` with `callsUnknown` lines before: calls without an answer. `ACCESS_DENIED`, `JOB_NOT_FOUND`, `JOB_NOT_RETRYABLE`: what Google answers, in brackets. Each rejection waits for seven days, with its event whole; once the cause is mended, put those of this incident back:

            .venv/bin/python -m ops redrive rejected --reason JOB_NOT_RETRYABLE --newer-than 1d --go
      EOT
    }
    schedule = {
      says     = "Deferred jobs are not put back"
      severity = "ERROR"
      query    = "(${local.resumed} or vector(0)) < 1 or ${local.unread} > 0.5"
      duration = "3600s"
      doc      = <<-EOT
        **No run of the schedule has succeeded for about three hours, or a run within the last two hours has passed by an entry that cannot be read.** Jobs that Google would not retry before a certain time wait in the ledger for longer than they have to, and watched jobs are not looked at. Nothing is lost.

            .venv/bin/python -m ops check
            gcloud scheduler jobs describe archive-job-retry-resume --location=${var.region} --project=${var.project_id}
            ${local.read} --freshness=3h ${local.lines} 'resource.labels.service_name="archive-job-retry-resume" AND severity>=WARNING'

        `ops check` names an entry: it holds the only copy of its event; do not delete it, the runbook's row `cannot be read` says what to do. No lines at all: the job is paused, or may not call the function. `due`: the ledger's query; the runbook's table says more. Once it is mended, the next run puts back all that is due.
      EOT
    }
    stalled = {
      says     = "Nothing succeeds: jobs wait, and none was settled for fifteen minutes"
      severity = "CRITICAL"
      query    = local.stalled
      doc      = <<-EOT
        **Two events or more wait, one of them for fifteen minutes or longer, and none was settled in that time.** Nothing is lost: each is delivered again for about ${local.delivered_for_hours} hours.

        What the functions and Cloud Run say:

            ${local.read} --freshness=1h ${local.lines} 'resource.type="cloud_run_revision" AND resource.labels.service_name=(${local.any_function}) AND severity>=WARNING'

        The runbook has a row for each line with an `outcome`, and for those of Cloud Run. No lines: the push does not arrive:

            gcloud pubsub subscriptions describe archive-job-failed-push --project=${var.project_id}
            .venv/bin/python -m ops check

        If it came with a deployment: `make rollback PROJECT_ID=${var.project_id} REGION=${var.region}` (it may ask for `OBJECT=`, and names the archives).
      EOT
    }
    unknown-calls = {
      says     = "Calls to Google end without a known outcome"
      severity = "WARNING"
      query    = "${local.unknown} >= 5 and ${local.unknown} > 0.02 * ${local.called} or ${local.parked} > 0.5"
      doc      = <<-EOT
        **More than 2 % of an hour's calls to archiveJobs.retry, five or more, may or may not have been carried out; with `ambiguous_retry = "park"`, one is enough.** Each counts as one of a job's three retries. A job that is parked waits for a person, as a rejection `OUTCOME_UNKNOWN`.

        What came instead of an answer:

            ${local.read} --freshness=2h --format='table(timestamp,jsonPayload.archiveJobId,jsonPayload.message)' 'resource.labels.service_name="archive-job-retry" AND jsonPayload.callsUnknown>0'

        5xx: Google's, see its status page. No answer: the network, or calls cut off by the handler's deadline. `retried` lines among them: instances died in their calls (out of memory, see the dashboard). To spare retries until it is over, set `ambiguous_retry = "park"`. Of parked jobs, look whether an export runs; then put each back:

            .venv/bin/python -m ops redrive rejected --reason OUTCOME_UNKNOWN --job 7f0c5a52-8d4e-4b7a-9d6e-2f1f7a3a9c10 --go
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

          Which, and why (no `--go`: nothing is changed):

              .venv/bin/python -m ops redrive dead --subscription archive-job-watch-dead --json
              ${local.read} --freshness=7d 'resource.labels.service_name="archive-job-retry-watch" AND severity>=WARNING'

          Mend what `failedStep` and `message` name. Then the product publishes these jobs to `archive-job-started` once more, and the runbook says how to throw away what was listed here, and nothing that came since.
        EOT
      }
      watch-stalled = {
        says     = "Watched jobs stop ending"
        severity = "ERROR"
        query    = local.watch_stalled
        every    = "300s"
        doc      = <<-EOT
          **Started jobs wait for an hour and no look succeeds, or jobs have been looked at for two days and not one has ended since.** No retry is lost, but the product does not hear of ends, nor do failed jobs come in.

          How the looks end, and what keeps them from ending:

              ${local.read} --freshness=1d --format='table(timestamp,jsonPayload.outcome,jsonPayload.state,jsonPayload.failedStep,jsonPayload.message)' 'resource.labels.service_name="archive-job-retry-watch" AND jsonPayload.outcome:*'
              ${local.read} --freshness=1d ${local.lines} 'resource.labels.service_name=("archive-job-retry-watch" OR "archive-job-retry-resume") AND severity>=WARNING'

          `watching` alone: compare one job with what Google says of it (`.venv/bin/python -m ops list`); a state that is not known here counts as running. Faults: the runbook's table.
        EOT
      }
    } : name => alert if var.watch
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  display_name          = "archive-job-retry: ${each.key}"
  combiner              = "OR"
  notification_channels = concat(var.notification_channels, each.value.severity == "CRITICAL" ? var.pager_channels : [])
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
        evaluation_interval = try(each.value.every, "60s")

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
