resource "google_cloudbuild_trigger" "deploy" {
  for_each = toset(var.repository[*])

  name            = "archive-job-retry-deploy"
  description     = "Test, deploy and verify the archive job retry function"
  location        = var.region
  filename        = "cloudbuild.yaml"
  service_account = google_service_account.this["deploy"].id
  substitutions   = { _REGION = var.region }

  repository_event_config {
    repository = each.key

    push {
      branch = var.branch
    }
  }
}
