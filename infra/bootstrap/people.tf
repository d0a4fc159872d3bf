# Who may do what: accounts, groups and people that the variables name. Nobody, by default.

# Whoever may publish may have any user's job retried: the event says whose it is.
resource "google_pubsub_topic_iam_member" "publishers" {
  for_each = {
    for pair in setproduct(local.published, distinct(concat(var.publishers, var.operators))) : join(" ", pair) => pair
    if pair[0] == "archive-job-failed" || contains(var.publishers, pair[1])
  }

  topic  = google_pubsub_topic.this[each.value[0]].name
  role   = "roles/pubsub.publisher"
  member = each.value[1]
}

# Subscriptions of their own, in any project
resource "google_pubsub_topic_iam_member" "subscribers" {
  for_each = { for pair in setproduct(local.results, var.subscribers) : join(" ", pair) => pair }

  topic  = google_pubsub_topic.this[each.value[0]].name
  role   = "roles/pubsub.subscriber"
  member = each.value[1]
}

# The subscriptions that are made here: results for the product, dead letters and rejections for operators
resource "google_pubsub_subscription_iam_member" "readers" {
  for_each = merge(
    { for pair in setproduct(local.results, var.subscribers) : join(" ", pair) => pair },
    { for pair in setproduct(local.operated, var.operators) : join(" ", pair) => pair },
  )

  subscription = google_pubsub_subscription.this[each.value[0]].name
  role         = "roles/pubsub.subscriber"
  member       = each.value[1]
}

# docs/runbook.md reads log lines and looks at the dashboard, which have no resource to tie a right to.
resource "google_project_iam_member" "operators" {
  for_each = { for pair in setproduct(["logging.viewer", "monitoring.viewer"], var.operators) : join(" ", pair) => pair }

  project = var.project_id
  role    = "roles/${each.value[0]}"
  member  = each.value[1]
}

# Adds, disables and destroys versions of users' secrets, and can read none.
resource "google_project_iam_member" "token_writers" {
  for_each = toset(var.token_writers)

  project = local.tokens_project
  role    = "roles/secretmanager.secretVersionManager"
  member  = each.key

  condition {
    title       = "refresh tokens only"
    description = "Secrets whose id begins with ${local.tokens.id}"
    expression  = "resource.name.startsWith(\"${local.tokens_begin}\")"
  }
}

# On the project without a condition: a secret that is yet to be made has no name to go by.
resource "google_project_iam_custom_role" "makes_secrets" {
  count = length(var.token_writers) == 0 ? 0 : 1

  project     = local.tokens_project
  role_id     = "archiveJobRetryMakeSecrets"
  title       = "Archive job retry: make secrets"
  description = "Make a secret, for a user's refresh token. No right to read, change or delete one"
  permissions = ["secretmanager.secrets.create"]

  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "makes_secrets" {
  for_each = toset(var.token_writers)

  project = local.tokens_project
  role    = "projects/${local.tokens_project}/roles/${google_project_iam_custom_role.makes_secrets[0].role_id}"
  member  = each.key
}
