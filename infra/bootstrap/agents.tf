# Google's own accounts, which act for its services in this project. Enabling a service does not make its account at once,
# nobody can be granted a right before it is there, and one that was made on request has no role yet
# (https://cloud.google.com/iam/docs/create-service-agents). README.md has the command that makes them.
data "google_project" "this" {}

# Google makes this account when it is first asked for, and a grant to it fails before that.
data "google_storage_project_service_account" "this" {
  count      = var.kms_key_name == null ? 0 : 1
  depends_on = [google_project_service.this]
}

locals {
  agents = {
    artifactregistry = "gcp-sa-artifactregistry"
    cloudfunctions   = "gcf-admin-robot"
    firestore        = "gcp-sa-firestore"
    pubsub           = "gcp-sa-pubsub"
    run              = "serverless-robot-prod"
    secretmanager    = "gcp-sa-secretmanager"
  }
  agent_members = { for name, agent in local.agents : name => "serviceAccount:service-${data.google_project.this.number}@${agent}.iam.gserviceaccount.com" }

  # Secret Manager's has no role of its own.
  agents_with_roles = var.kms_key_name == null ? ["pubsub"] : [for name in keys(local.agents) : name if name != "secretmanager"]
}

# On the project without a condition: this is what Google grants by itself to accounts that it makes by itself.
resource "google_project_iam_member" "agents" {
  for_each = toset(local.agents_with_roles)

  project = var.project_id
  role    = "roles/${each.key}.serviceAgent"
  member  = local.agent_members[each.key]

  depends_on = [google_project_service.this]
}

# Moves dead letters out of the push subscriptions. On the project without a condition: IAM conditions do not know
# Pub/Sub's resources, and the pipeline, which makes those subscriptions, can grant nothing.
resource "google_project_iam_member" "pubsub_moves_dead_letters" {
  project = var.project_id
  role    = "roles/pubsub.subscriber"
  member  = local.agent_members["pubsub"]

  depends_on = [google_project_service.this]
}

resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = var.kms_key_name == null ? {} : merge(
    local.agent_members,
    { for account in data.google_storage_project_service_account.this : "storage" => "serviceAccount:${account.email_address}" },
  )

  crypto_key_id = var.kms_key_name
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = each.value
}
