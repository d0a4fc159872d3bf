# The secret, not its content: how that is added is in the README, and neither Terraform nor its state ever sees it.
resource "google_secret_manager_secret" "oauth_client" {
  secret_id           = var.oauth_client_secret
  deletion_protection = var.deletion_protection

  replication {
    dynamic "auto" {
      for_each = var.kms_key_name == null ? [1] : []
      content {}
    }

    # A regional key cannot encrypt a secret that Google replicates where it likes.
    dynamic "user_managed" {
      for_each = var.kms_key_name[*]

      content {
        replicas {
          location = var.region

          customer_managed_encryption {
            kms_key_name = user_managed.value
          }
        }
      }
    }
  }
}

resource "google_secret_manager_secret_iam_member" "oauth_client" {
  secret_id = google_secret_manager_secret.oauth_client.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = data.google_service_account.run.member
}

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
