# The OAuth client's secret, and the function's right to read it, are made by bootstrap/: it has to be filled before the
# first deployment is verified, and so the pipeline needs no right on any secret.

# The products that use this function add a secret per user; this is the right to read those, and no other secret of
# the project. IAM knows secrets by the project's number.
resource "google_project_iam_member" "refresh_tokens" {
  project = var.project_id
  role    = "roles/secretmanager.secretAccessor"
  member  = data.google_service_account.run.member

  condition {
    title       = "refresh tokens only"
    description = "Secrets whose id begins with ${var.refresh_token_secret_prefix}"
    expression  = "resource.name.startsWith(\"projects/${data.google_project.this.number}/secrets/${var.refresh_token_secret_prefix}\")"
  }
}
