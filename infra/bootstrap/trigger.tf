# Three builds for each push: the tests, with an account that can do nothing; the deployment, which waits for them; and a
# look at what is deployed then, which waits for that.
locals {
  builds = {
    check  = { file = "infra/delivery/check.yaml", does = "Look at what the archive job retry functions need", given = { _LEDGER_DATABASE = var.ledger_database, _REGION = var.region } }
    deploy = { file = "cloudbuild.yaml", does = "Deploy and verify the archive job retry functions", given = { _REGION = var.region } }
    test   = { file = "infra/delivery/test.yaml", does = "Test the archive job retry functions", given = {} }
  }
}

resource "google_cloudbuild_trigger" "this" {
  for_each = { for name, build in local.builds : name => build if var.repository != null }

  name            = "archive-job-retry-${each.key}"
  description     = each.value.does
  location        = var.region
  filename        = each.value.file
  service_account = "projects/${var.project_id}/serviceAccounts/${local.emails[each.key]}"
  substitutions   = each.value.given

  repository_event_config {
    repository = var.repository

    push {
      branch = var.branch
    }
  }
}
