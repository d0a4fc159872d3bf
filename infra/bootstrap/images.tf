# Images of the function. Made here, so that the account that runs the source's build may write here and nowhere else.
resource "google_artifact_registry_repository" "images" {
  repository_id = "archive-job-retry"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the archive job retry function"
  kms_key_name  = var.kms_key_name

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_service.this]
}

resource "google_artifact_registry_repository_iam_member" "build_writes" {
  repository = google_artifact_registry_repository.images.repository_id
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.this["build"].member
}

# Cloud Functions copies the archive into a bucket of its own before it builds; that bucket does not exist before the
# first deployment, hence a right on the project with a condition.
resource "google_project_iam_member" "build_reads_source" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.this["build"].member

  condition {
    title       = "sources only"
    description = "The archives, and the copies that Cloud Functions makes of them"
    expression  = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}\") || resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.this["source"].name}\")"
  }
}
