# Metrics that Cloud Logging makes of the functions' lines; the program's table of log fields says what each means. One
# counts lines or gathers one number of each, so every step has a metric of its own. They go by the functions' names, not
# by the functions, and so are made first: a new metric takes minutes to be known (slo.tf).
locals {
  # The smoke test's events come with every deployment. Hidden by their credential, which is no user's: hidden by the
  # user, an event could name that user and somebody's credential, and be in no metric.
  deliveries = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"${local.functions.retry.name}\"",
    "NOT jsonPayload.credentialId=\"${local.canary}\"",
  ])
  runs = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"${local.functions.resume.name}\"",
  ])

  looks = join(" AND ", [
    "resource.type=\"cloud_run_revision\"",
    "resource.labels.service_name=\"archive-job-retry-watch\"", # lines that nobody writes where `watch` is off
  ])

  any_function = join(" OR ", [for function in values(local.functions) : "\"${function.name}\""])

  follow_up_within_seconds = 600

  seconds = [1, 2, 5, 10, 30, 60, 120, 300, local.follow_up_within_seconds, 1200, 3600, 10800, 43200, 86400]

  # name → what it says, the lines, the field whose value is gathered ("": the lines are counted), labels → their fields
  metrics = merge(
    {
      calls = {
        says   = "Deliveries that called archiveJobs.retry"
        filter = "${local.deliveries} AND jsonPayload.calls>0"
      }
      calls-unknown = {
        says   = "Deliveries that found a call without a known outcome: it may have used up a retry"
        filter = "${local.deliveries} AND jsonPayload.callsUnknown>0"
      }
      delay = {
        says   = "From a job's failure to its accepted follow-up"
        filter = "${local.deliveries} AND jsonPayload.delaySeconds>=0"
        value  = "delaySeconds"
        unit   = "s"
      }
      deliveries = {
        says   = "Deliveries, by how they ended"
        filter = "${local.deliveries} AND jsonPayload.outcome:*"
        labels = { outcome = "outcome", reason = "reason", cause = "cause", republished = "republished" }
      }
      faults = {
        says   = "Faults of ours: lines of severity ERROR, of a delivery, a run or neither; Cloud Run's own have no message"
        filter = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${local.any_function}) AND severity>=ERROR AND jsonPayload.message:*"
        labels = { step = "failedStep" }
      }
      late = {
        says   = "Follow-ups that took longer than the SLO has it"
        filter = "${local.deliveries} AND jsonPayload.delaySeconds>${local.follow_up_within_seconds}"
      }
      latency = {
        says   = "A whole delivery"
        filter = "${local.deliveries} AND jsonPayload.latencyMs>=0"
        value  = "latencyMs"
        unit   = "ms"
      }
      looks = {
        says   = "Deliveries of the watch, by how they ended"
        filter = "${local.looks} AND jsonPayload.outcome:*"
        labels = { outcome = "outcome", state = "state", cause = "cause" }
      }
      rejected = {
        says   = "Jobs that were rejected, by the last character of the user"
        filter = "${local.deliveries} AND jsonPayload.outcome=\"rejected\" AND NOT jsonPayload.republished=\"true\""
        last   = { user = "userId" }
      }
      runs = {
        says   = "Runs of the schedule, by how they ended"
        filter = "${local.runs} AND jsonPayload.outcome:*"
        labels = { outcome = "outcome" }
      }
      tokens = {
        says   = "Deliveries that needed an access token, by whether it was at hand"
        filter = "${local.deliveries} AND jsonPayload.tokenCached:*"
        labels = { cached = "tokenCached" }
      }
      unreadable = {
        says   = "Due entries that a run of the schedule cannot read"
        filter = "${local.runs} AND severity>=WARNING AND jsonPayload.message:\"cannot be read\""
      }
    },
    {
      for step in ["claim", "token", "retry", "record", "publish"] : "step-${step}" => {
        says   = "The step ${step} of a delivery"
        filter = "${local.deliveries} AND jsonPayload.stepsMs.${step}>=0"
        value  = "stepsMs.${step}"
        unit   = "ms"
      }
    },
  )
}

resource "google_logging_metric" "this" {
  for_each = local.metrics

  name        = "archive-job-retry/${each.key}"
  description = "${each.value.says}."
  filter      = each.value.filter
  # Of a user only the last character: two that differ are two users, and the metric keeps 64 series at most.
  label_extractors = merge(
    { for label, field in try(each.value.labels, {}) : label => "EXTRACT(jsonPayload.${field})" },
    { for label, field in try(each.value.last, {}) : label => "REGEXP_EXTRACT(jsonPayload.${field}, \"(.)$\")" },
  )
  value_extractor = try("EXTRACT(jsonPayload.${each.value.value})", null)

  metric_descriptor {
    display_name = each.value.says
    metric_kind  = "DELTA"
    unit         = try(each.value.unit, "1")
    value_type   = can(each.value.value) ? "DISTRIBUTION" : "INT64"

    dynamic "labels" {
      for_each = merge(try(each.value.labels, {}), try(each.value.last, {}))

      content {
        key         = labels.key
        value_type  = "STRING"
        description = "The field ${labels.value}"
      }
    }
  }

  dynamic "bucket_options" {
    for_each = can(each.value.value) ? [each.value.unit] : []

    content {
      dynamic "explicit_buckets" {
        for_each = bucket_options.value == "s" ? [local.seconds] : []

        content {
          bounds = explicit_buckets.value
        }
      }

      # from a millisecond to three minutes, each bucket half as wide again
      dynamic "exponential_buckets" {
        for_each = bucket_options.value == "ms" ? [30] : []

        content {
          num_finite_buckets = exponential_buckets.value
          growth_factor      = 1.5
          scale              = 1
        }
      }
    }
  }
}
