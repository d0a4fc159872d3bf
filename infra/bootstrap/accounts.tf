locals {
  accounts = merge(
    {
      build  = "Builds the functions' images from their archive"
      check  = "Runs ops check after each deployment: reads settings, and no message, secret or ledger"
      deploy = "Runs the pipeline: applies infra/, verifies"
      invoke = "Pub/Sub and Cloud Scheduler show a token of this account to the functions"
      resume = "The scheduled function: looks into the ledger, puts events back"
      run    = "The function itself: reads refresh tokens, keeps the ledger, publishes"
      test   = "Runs the tests of each push. Has no rights but to write their log and report"
    },
    var.watch ? { watch = "The watch: reads refresh tokens, looks at running jobs, publishes" } : {},
  )

  # those that run the project's code in Google Cloud
  functions = [for name in ["resume", "run", "watch"] : name if contains(keys(local.accounts), name)]
  readers   = [for name in local.functions : name if name != "resume"]
}

resource "google_service_account" "this" {
  for_each = local.accounts

  account_id   = "archive-job-retry-${each.key}"
  display_name = "Archive job retry: ${each.key}"
  description  = each.value

  depends_on = [google_project_service.this]
}

locals {
  emails  = { for name, account in google_service_account.this : name => "${account.account_id}@${var.project_id}.iam.gserviceaccount.com" }
  members = { for name, email in local.emails : name => "serviceAccount:${email}" }
}

# The pipeline gives the functions their accounts, and so has to be allowed to act as them; as no others.
resource "google_service_account_iam_member" "deploy_acts_as" {
  for_each = toset(concat(["build", "invoke"], local.functions))

  service_account_id = "projects/${var.project_id}/serviceAccounts/${local.emails[each.key]}"
  role               = "roles/iam.serviceAccountUser"
  member             = local.members["deploy"]
}

# On the project without a condition: Cloud Logging has no resource to tie it to.
resource "google_project_iam_member" "writes_build_logs" {
  for_each = toset(["build", "check", "deploy", "test"])

  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = local.members[each.key]
}

# On the project without a condition: IAM conditions do not know Cloud Run's services
# (https://cloud.google.com/iam/docs/conditions-resource-attributes), and the functions do not exist yet. Granted on each
# service by the pipeline, it would need the right to open any service of the project to anybody.
resource "google_project_iam_member" "invokes" {
  project = var.project_id
  role    = "roles/run.invoker"
  member  = local.members["invoke"]
}

resource "google_project_iam_member" "traces" {
  for_each = toset(var.cloud_trace ? local.functions : [])

  project = var.project_id
  role    = "roles/telemetry.tracesWriter"
  member  = local.members[each.key]
}
