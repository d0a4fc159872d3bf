# The accounts themselves, and who may act as them, are made by bootstrap/: the pipeline can create no identity and
# act as none but these.

data "google_project" "this" {}

data "google_service_account" "build" {
  account_id = "archive-job-retry-build"
}

data "google_service_account" "invoke" {
  account_id = "archive-job-retry-invoke"
}

data "google_service_account" "resume" {
  account_id = "archive-job-retry-resume"
}

data "google_service_account" "run" {
  account_id = "archive-job-retry-run"
}

locals {
  # By its name: the pipeline may not look accounts up, its own included, but for those that it may act as.
  deploy = "serviceAccount:${var.deploy_account_id}@${var.project_id}.iam.gserviceaccount.com"

  # Google's own account that delivers pushes and moves dead letters
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
