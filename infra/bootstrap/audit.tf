# Who read which secret, and when. Cloud Logging keeps these entries for 30 days. For this service this is the whole
# setting: what was configured before in this project is replaced.
resource "google_project_iam_audit_config" "secrets" {
  count = var.secret_access_logs ? 1 : 0

  project = var.project_id
  service = "secretmanager.googleapis.com"

  dynamic "audit_log_config" {
    for_each = toset(["ADMIN_READ", "DATA_READ", "DATA_WRITE"])

    content {
      log_type = audit_log_config.value
    }
  }

  depends_on = [google_project_service.this]
}
