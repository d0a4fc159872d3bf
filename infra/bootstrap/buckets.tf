# The bucket with the state of this module is made by hand before (README.md), and the pipeline has no right on it.
locals {
  # what it holds; days after which an object, or one that was replaced, is deleted
  buckets = {
    source    = { days = null, replaced_days = 30 }  # the functions' archives, and which were verified: a rollback may want any; only the pipeline writes here
    state     = { days = null, replaced_days = 365 } # of infra/
    submitted = { days = 30, replaced_days = 1 }     # what people send to Cloud Build, and the reports of the tests
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

  dynamic "lifecycle_rule" {
    for_each = each.value.days[*]

    content {
      condition {
        age = lifecycle_rule.value
      }
      action {
        type = "Delete"
      }
    }
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = each.value.replaced_days
    }
    action {
      type = "Delete"
    }
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
  for_each = toset(["source", "state"])

  bucket = google_storage_bucket.this[each.key].name
  role   = "roles/storage.objectUser"
  member = local.members["deploy"]
}

# What a person submits, and nothing else that lies there
resource "google_storage_bucket_iam_member" "builds_read_submitted" {
  for_each = toset(["deploy", "test"])

  bucket = google_storage_bucket.this["submitted"].name
  role   = "roles/storage.objectViewer"
  member = local.members[each.key]
}

# Can make objects, and neither replace nor delete any.
resource "google_storage_bucket_iam_member" "test_reports" {
  bucket = google_storage_bucket.this["submitted"].name
  role   = "roles/storage.objectCreator"
  member = local.members["test"]

  condition {
    title      = "reports only"
    expression = "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.this["submitted"].name}/objects/reports/\")"
  }
}
