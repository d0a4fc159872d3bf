# The secrets, and the right to read them. What the OAuth client's holds is added by a person (README.md), and neither
# Terraform nor its state ever sees it.
locals {
  # A short name is of a secret in this project; a full one may be in another project or of one region.
  name_form = "^(?:projects/(?P<project>[^/]+)/(?:locations/(?P<location>[^/]+)/)?secrets/)?(?P<id>[A-Za-z0-9_-]+)$"
  client    = regex(local.name_form, var.oauth_client_secret)
  tokens    = regex(local.name_form, var.refresh_token_secret_prefix)

  client_project = coalesce(local.client.project, var.project_id)
  tokens_project = coalesce(local.tokens.project, var.project_id)

  # IAM knows secrets by the project's number.
  client_is    = "projects/${data.google_project.secrets[local.client_project].number}/${join("", formatlist("locations/%s/", local.client.location[*]))}secrets/${local.client.id}"
  tokens_begin = "projects/${data.google_project.secrets[local.tokens_project].number}/${join("", formatlist("locations/%s/", local.tokens.location[*]))}secrets/${local.tokens.id}"

  # The credential of the smoke test's event; infra/function.tf names it too
  canary = "deployment-smoke-test"
  made   = merge(local.client.project == null ? { client = local.client.id } : {}, local.tokens.location == null ? { canary = "${local.tokens.id}${local.canary}" } : {})
}

data "google_project" "secrets" {
  for_each   = toset([local.client_project, local.tokens_project])
  project_id = each.key
}

# An OAuth client's secret with a full name is there already; a canary's of one region is made by hand (README.md).
resource "google_secret_manager_secret" "this" {
  for_each = local.made

  project             = each.key == "canary" ? local.tokens_project : var.project_id
  secret_id           = each.value
  deletion_protection = each.key == "client" && var.deletion_protection

  replication {
    user_managed {
      dynamic "replicas" {
        for_each = local.storage_regions

        content {
          location = replicas.value

          # A key is of one region; with one, `storage_regions` is that region.
          dynamic "customer_managed_encryption" {
            for_each = var.kms_key_name[*]

            content {
              kms_key_name = customer_managed_encryption.value
            }
          }
        }
      }
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_service.this]
}

# Nobody's refresh token, and made up: Google has to answer invalid_grant to it. That answer proves that the function
# finds secrets by the prefix, may read them, and has a client that Google knows.
resource "google_secret_manager_secret_version" "canary" {
  for_each = { for name, id in local.made : name => id if name == "canary" }

  secret      = "projects/${local.tokens_project}/secrets/${google_secret_manager_secret.this[each.key].secret_id}"
  secret_data = "1//made-up-for-the-deployment-smoke-test"
}

resource "google_secret_manager_secret_iam_member" "client" {
  for_each = { for name in local.readers : name => name if local.client.project == null }

  secret_id = google_secret_manager_secret.this["client"].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.members[each.key]
}

resource "google_project_iam_member" "client" {
  for_each = { for name in local.readers : name => name if local.client.project != null }

  project = local.client_project
  role    = "roles/secretmanager.secretAccessor"
  member  = local.members[each.key]

  condition {
    title      = "OAuth client only"
    expression = "resource.name.startsWith(\"${local.client_is}/versions/\")"
  }
}

# The products that use this add a secret for each user; this is the right to read those, and no other secret.
resource "google_project_iam_member" "refresh_tokens" {
  for_each = toset(local.readers)

  project = local.tokens_project
  role    = "roles/secretmanager.secretAccessor"
  member  = local.members[each.key]

  condition {
    title       = "refresh tokens only"
    description = "Secrets whose id begins with ${local.tokens.id}"
    expression  = "resource.name.startsWith(\"${local.tokens_begin}\")"
  }
}
