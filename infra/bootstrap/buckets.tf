locals {
  buckets = {
    source = "The function's archives. All are kept: they are small, and any of them can be put back"
    state  = "The state of infra/"
  }
}

resource "google_storage_bucket" "this" {
  #checkov:skip=CKV_GCP_62:Access is recorded by Cloud Audit Logs where the project turns them on; a log bucket would need one itself
  for_each = local.buckets

  name                        = "${var.project_id}-archive-job-retry-${each.key}"
  location                    = var.region
  public_access_prevention    = "enforced"
  uniform_bucket_level_access = true

  versioning {
    enabled = true
  }

  dynamic "encryption" {
    for_each = var.kms_key_name[*]

    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_service.this]
}

resource "google_storage_bucket_iam_member" "deploy_writes" {
  for_each = local.buckets

  bucket = google_storage_bucket.this[each.key].name
  role   = "roles/storage.objectUser"
  member = google_service_account.this["deploy"].member
}
