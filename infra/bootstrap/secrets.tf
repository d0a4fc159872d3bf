# The secret, not its content: how that is added is in the README, and neither Terraform nor its state ever sees it. It
# is made here and not in infra/, since it has to be filled before the first deployment can be verified.
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

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_service.this]
}

resource "google_secret_manager_secret_iam_member" "oauth_client" {
  secret_id = google_secret_manager_secret.oauth_client.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this["run"].member
}
