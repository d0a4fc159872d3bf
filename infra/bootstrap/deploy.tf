# What the pipeline may do: make and change what infra/ declares, and nothing that would let it grant a right to anybody.
# Everything that holds data or a right is made here instead, by a person. These rights are on the project, since what
# they are for does not exist yet and IAM conditions do not know it: give this product a project of its own.
# tests/infra/test_reach.py reckons from this what the account can reach, and fails when that grows.
resource "google_project_iam_custom_role" "deploy" {
  role_id     = "archiveJobRetryDeploy"
  title       = "Archive job retry: deploy"
  description = "Make and change the functions, the push subscriptions, the schedule, metrics, alerts and dashboard"

  permissions = [
    # whether the tests of this commit have passed
    "cloudbuild.builds.get",
    "cloudbuild.builds.list",
    "cloudfunctions.functions.create",
    "cloudfunctions.functions.delete",
    "cloudfunctions.functions.get",
    "cloudfunctions.functions.list",
    "cloudfunctions.functions.sourceCodeSet",
    "cloudfunctions.functions.update",
    "cloudfunctions.operations.get",
    "cloudfunctions.operations.list",
    "cloudscheduler.jobs.create",
    "cloudscheduler.jobs.delete",
    "cloudscheduler.jobs.enable",
    "cloudscheduler.jobs.fullView", # without it each plan shows the schedule changed
    "cloudscheduler.jobs.get",
    "cloudscheduler.jobs.list",
    "cloudscheduler.jobs.pause",
    "cloudscheduler.jobs.update",
    "logging.logMetrics.create",
    "logging.logMetrics.delete",
    "logging.logMetrics.get",
    "logging.logMetrics.list",
    "logging.logMetrics.update",
    # behind an alert on log lines there is a rule of Logging's (https://cloud.google.com/logging/docs/alerting/log-based-alerts)
    "logging.notificationRules.create",
    "logging.notificationRules.delete",
    "logging.notificationRules.get",
    "logging.notificationRules.list",
    "logging.notificationRules.update",
    "monitoring.alertPolicies.create",
    "monitoring.alertPolicies.delete",
    "monitoring.alertPolicies.get",
    "monitoring.alertPolicies.list",
    "monitoring.alertPolicies.update",
    "monitoring.dashboards.create",
    "monitoring.dashboards.delete",
    "monitoring.dashboards.get",
    "monitoring.dashboards.list",
    "monitoring.dashboards.update",
    "monitoring.notificationChannels.get", # to name one in an alert
    "monitoring.services.create",
    "monitoring.services.delete",
    "monitoring.services.get",
    "monitoring.services.list",
    "monitoring.services.update",
    "monitoring.slos.create",
    "monitoring.slos.delete",
    "monitoring.slos.get",
    "monitoring.slos.list",
    "monitoring.slos.update",
    "pubsub.schemas.commit",
    "pubsub.schemas.get",
    "pubsub.schemas.listRevisions",
    "pubsub.subscriptions.create",
    "pubsub.subscriptions.delete",
    "pubsub.subscriptions.get",
    "pubsub.subscriptions.list",
    "pubsub.subscriptions.update",
    "run.services.get",
  ]

  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "deploy" {
  project = var.project_id
  role    = "projects/${var.project_id}/roles/${google_project_iam_custom_role.deploy.role_id}"
  member  = local.members["deploy"]
}

# Attaches the push subscriptions. This role holds no right on the topics' other subscriptions.
resource "google_pubsub_topic_iam_member" "deploy_attaches" {
  for_each = toset(local.pushed)

  topic  = google_pubsub_topic.this[each.key].name
  role   = "roles/pubsub.subscriber"
  member = local.members["deploy"]
}

# The smoke test's event, and the message that shows whether a topic takes a new revision of its schema
resource "google_pubsub_topic_iam_member" "deploy_publishes" {
  for_each = toset(concat(["archive-job-failed"], keys(local.schemas)))

  topic  = google_pubsub_topic.this[each.key].name
  role   = "roles/pubsub.publisher"
  member = local.members["deploy"]
}

resource "google_pubsub_subscription_iam_member" "deploy_reads_smoke" {
  subscription = google_pubsub_subscription.this["archive-job-retry-smoke"].name
  role         = "roles/pubsub.subscriber"
  member       = local.members["deploy"]
}
