# Images of the functions. Made here, so that the account that runs the source's build may write here and nowhere else.
resource "google_artifact_registry_repository" "images" {
  repository_id = "archive-job-retry"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the archive job retry functions"
  kms_key_name  = var.kms_key_name

  # Putting back builds anew, from the archive: old images are of no use.
  cleanup_policies {
    id     = "keep the last ten of each"
    action = "KEEP"

    most_recent_versions {
      keep_count = 10
    }
  }

  cleanup_policies {
    id     = "delete after a month"
    action = "DELETE"

    condition {
      older_than = "2592000s"
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_iam_member.agents, google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "build_writes" {
  repository = google_artifact_registry_repository.images.repository_id
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.writer"
  member     = local.members["build"]
}

resource "google_artifact_registry_repository_iam_member" "deploy_names" {
  repository = google_artifact_registry_repository.images.repository_id
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.reader"
  member     = local.members["deploy"]
}

# Cloud Functions copies the archive into a bucket of its own before it builds; that bucket does not exist before the
# first deployment, hence a right on the project with a condition.
resource "google_project_iam_member" "build_reads_source" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = local.members["build"]

  condition {
    title       = "sources only"
    description = "The archives, and the copies that Cloud Functions makes of them"
    expression  = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}\") || resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.this["source"].name}\")"
  }
}
