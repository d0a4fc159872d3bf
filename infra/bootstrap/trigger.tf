# Two builds for each push: the tests, with an account that can do nothing, and the deployment, which waits for them.
resource "google_cloudbuild_trigger" "this" {
  for_each = { for name, file in { deploy = "cloudbuild.yaml", test = "infra/delivery/test.yaml" } : name => file if var.repository != null }

  name            = "archive-job-retry-${each.key}"
  description     = each.key == "test" ? "Test the archive job retry functions" : "Deploy and verify the archive job retry functions"
  location        = var.region
  filename        = each.value
  service_account = "projects/${var.project_id}/serviceAccounts/${local.emails[each.key]}"
  substitutions   = each.key == "test" ? {} : { _REGION = var.region }

  repository_event_config {
    repository = var.repository

    push {
      branch = var.branch
    }
  }
}
