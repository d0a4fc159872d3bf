locals {
  accounts = {
    build  = "Builds the function's image from its archive"
    deploy = "Runs the pipeline: tests, applies infra/, verifies"
    invoke = "Pub/Sub and Cloud Scheduler show a token of this account to the functions"
    resume = "The scheduled function: looks into the ledger, puts events back"
    run    = "The function itself: reads refresh tokens, keeps the ledger, publishes"
  }
}

resource "google_service_account" "this" {
  for_each = local.accounts

  account_id   = "archive-job-retry-${each.key}"
  display_name = "Archive job retry: ${each.key}"
  description  = each.value

  depends_on = [google_project_service.this]
}

# The pipeline gives the functions their accounts, and so has to be allowed to act as them; as no others.
resource "google_service_account_iam_member" "deploy_acts_as" {
  for_each = toset(["build", "invoke", "resume", "run"])

  service_account_id = google_service_account.this[each.key].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.this["deploy"].member
}

resource "google_project_iam_member" "writes_build_logs" {
  for_each = toset(["build", "deploy"])

  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.this[each.key].member
}
