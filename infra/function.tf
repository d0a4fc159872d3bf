# What all functions share: one archive, one image repository, one set of settings.
locals {
  build_environment = {
    # The buildpack compiles the source, and the image then gets new file times, so that bytecode which goes by the
    # time is stale in it, and compiled again at every cold start. With this, Python goes by the content instead.
    SOURCE_DATE_EPOCH = "315532801"

    # In the service's environment it tells what runs (delivery/deploy.py). Google is sent the source with the build's
    # settings, and these only where they differ: without it, an update that Google has refused would be made up for
    # with the service's settings alone, and an earlier archive would run under this one's name.
    SOURCE_OBJECT = var.source_object
  }

  # The credential of the smoke test's event; bootstrap/secrets.tf makes its secret
  canary = "deployment-smoke-test"

  settings = merge(local.tracing_settings, local.watch_settings, length(var.token_hosts) == 0 ? {} : { TOKEN_HOSTS = join(",", var.token_hosts) }, {
    AMBIGUOUS_RETRY               = var.ambiguous_retry
    CANARY_CREDENTIAL             = local.canary
    CLAIM_LEASE_SECONDS           = tostring(var.claim_lease_seconds)
    DATA_PORTABILITY_API_ENDPOINT = "https://dataportability.googleapis.com"
    DOUBT_PAUSE_SECONDS           = tostring(var.doubt_pause_seconds)
    EVENT_MAX_AGE_DAYS            = tostring(var.event_max_age_days)
    FAILED_TOPIC                  = "archive-job-failed"
    FIRESTORE_DATABASE            = var.ledger_database
    GOOGLE_CLOUD_PROJECT          = var.project_id
    HANDLER_DEADLINE_SECONDS      = tostring(var.handler_deadline_seconds)
    LOG_LEVEL                     = var.log_level
    OAUTH_CLIENT_SECRET           = var.oauth_client_secret
    REFRESH_TOKEN_SECRET_PREFIX   = var.refresh_token_secret_prefix
    REJECTED_TOPIC                = "archive-job-retry-rejected"
    RETRIED_TOPIC                 = "archive-job-retried"
    RETRY_BUDGET                  = tostring(var.retry_budget)
    RETRY_LEDGER                  = "firestore"
    RETRY_LEDGER_COLLECTION       = "archiveJobRetries"
    SOURCE_OBJECT                 = var.source_object
    WATCH                         = var.watch ? "on" : "off"
  })

  # function → its entry point in main.py, the account that it runs as, and how much of it there may be
  functions = merge(
    {
      retry = {
        name        = "archive-job-retry"
        description = "Retries failed Data Portability archive jobs."
        entry_point = "retry_failed_archive_job"
        account     = "run"
        concurrency = var.concurrency
        instances   = [var.min_instances, var.max_instances]
      }
      resume = {
        name        = "archive-job-retry-resume"
        description = "Puts deferred retries back when their time has come."
        entry_point = "resume_deferred_retries"
        account     = "resume"
        concurrency = 1
        instances   = [0, 1]
      }
    },
    local.watch_function,
  )
}

resource "google_cloudfunctions2_function" "this" {
  for_each = local.functions

  name         = each.value.name
  location     = var.region
  description  = each.value.description
  kms_key_name = var.kms_key_name

  build_config {
    runtime               = trimspace(file("${path.module}/runtime.txt"))
    entry_point           = each.value.entry_point
    service_account       = "projects/${var.project_id}/serviceAccounts/${local.accounts["build"]}"
    docker_repository     = "projects/${var.project_id}/locations/${var.region}/repositories/archive-job-retry"
    environment_variables = local.build_environment

    source {
      storage_source {
        bucket     = coalesce(var.source_bucket, "${var.project_id}-archive-job-retry-source")
        object     = var.source_object
        generation = var.source_generation
      }
    }
  }

  service_config {
    available_cpu                    = "1"
    available_memory                 = var.memory
    environment_variables            = local.settings
    ingress_settings                 = "ALLOW_INTERNAL_ONLY"
    max_instance_count               = each.value.instances[1]
    max_instance_request_concurrency = each.value.concurrency
    min_instance_count               = each.value.instances[0]
    service_account_email            = local.accounts[each.value.account]
    timeout_seconds                  = var.function_timeout_seconds
  }
}
