locals {
  # The ledger's and the watch's. Where the watch was switched off, what it has stored still has to expire.
  ledger_collections = ["archiveJobRetries", "archiveJobRetriesWatch"]

  # Firestore indexes every field by default, which makes writes slower, and hot where times are ever increasing. Entries
  # are looked up by name; the schedule asks for notBefore, operators for the others. "*" is every field without a
  # setting.
  indexed_fields = ["callsCounted", "notBefore", "reason", "state", "userId"]
  ledger_fields = merge([for collection in local.ledger_collections : {
    for field in concat(["*", "expireAt"], local.indexed_fields) : "${collection}/${field}" => { collection = collection, field = field }
  }]...)
}

resource "google_firestore_database" "ledger" {
  count = var.ledger_database_exists ? 0 : 1

  name                              = var.ledger_database
  location_id                       = coalesce(var.ledger_location, var.region)
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "OPTIMISTIC"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = "DELETE"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_${var.point_in_time_recovery ? "ENABLED" : "DISABLED"}"

  dynamic "cmek_config" {
    for_each = var.kms_key_name[*]

    content {
      kms_key_name = cmek_config.value
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.agents, google_project_iam_member.agents, google_project_service.this]
}

resource "google_firestore_backup_schedule" "ledger" {
  count = var.ledger_database_exists || var.backup_days == 0 ? 0 : 1

  database  = google_firestore_database.ledger[0].name
  retention = "${var.backup_days * 86400}s"

  daily_recurrence {}
}

resource "google_firestore_field" "ledger" {
  for_each = local.ledger_fields

  database   = var.ledger_database
  collection = each.value.collection
  field      = each.value.field
  skip_wait  = true # the functions work meanwhile, only more slowly

  index_config {
    dynamic "indexes" {
      for_each = contains(local.indexed_fields, each.value.field) ? ["ASCENDING"] : []

      content {
        order = indexes.value
      }
    }
  }

  # Entries are forgotten when this time has passed (within a day, usually).
  dynamic "ttl_config" {
    for_each = each.value.field == "expireAt" ? [1] : []
    content {}
  }

  depends_on = [google_firestore_database.ledger]
}

# Firestore has no rights below the project; the condition narrows this one to the ledger's database.
resource "google_project_iam_member" "ledger" {
  for_each = merge(
    { for name in local.functions : name => local.members[name] },
    { for member in var.operators : member => member },
  )

  project = var.project_id
  role    = "roles/datastore.user"
  member  = each.value

  condition {
    title       = "retry ledger only"
    description = "The Firestore database ${var.ledger_database}"
    expression  = "resource.name == \"projects/${var.project_id}/databases/${var.ledger_database}\""
  }
}
