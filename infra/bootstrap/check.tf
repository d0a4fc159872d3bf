# What `ops check` may look at: settings alone. After a deployment it runs packages of others, and so with an account of its
# own; of secrets and of the ledger it says there that it is not allowed to see them. Operators run it by hand. On the
# project, since what is looked for may not be there.
resource "google_project_iam_custom_role" "check" {
  role_id     = "archiveJobRetryCheck"
  title       = "Archive job retry: check"
  description = "Read the settings of topics, schemas, subscriptions, schedule, accounts, services and the ledger's expiry"

  permissions = [
    # whether the deployment has ended
    "cloudbuild.builds.get",
    "cloudbuild.builds.list",
    "cloudscheduler.jobs.get",
    # how long entries are kept (https://cloud.google.com/firestore/native/docs/security/iam)
    "datastore.indexes.get",
    "iam.serviceAccounts.get",
    "pubsub.schemas.validate",
    "pubsub.subscriptions.get",
    "pubsub.topics.get", # and which subscriptions it has
    "serviceusage.services.get",
  ]

  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "check" {
  for_each = merge({ check = local.members["check"] }, { for member in var.operators : member => member })

  project = var.project_id
  role    = "projects/${var.project_id}/roles/${google_project_iam_custom_role.check.role_id}"
  member  = each.value
}
