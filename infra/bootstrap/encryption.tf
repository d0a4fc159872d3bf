data "google_project" "this" {}

# Google makes this account when it is first asked for, and a grant to it fails before that.
data "google_storage_project_service_account" "this" {
  count      = var.kms_key_name == null ? 0 : 1
  depends_on = [google_project_service.this]
}

locals {
  # Google's own accounts that encrypt what infra/ and this make
  agents = {
    artifactregistry = "gcp-sa-artifactregistry"
    cloudfunctions   = "gcf-admin-robot"
    firestore        = "gcp-sa-firestore"
    pubsub           = "gcp-sa-pubsub"
    run              = "serverless-robot-prod"
    secretmanager    = "gcp-sa-secretmanager"
  }
  members = merge(
    { for name, agent in local.agents : name => "serviceAccount:service-${data.google_project.this.number}@${agent}.iam.gserviceaccount.com" },
    { for account in data.google_storage_project_service_account.this : "storage" => "serviceAccount:${account.email_address}" },
  )
}

resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = var.kms_key_name == null ? {} : local.members

  crypto_key_id = var.kms_key_name
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = each.value
}
