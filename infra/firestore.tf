locals {
  ledger_collection = "archiveJobRetries"

  # Every field of a ledger entry. Firestore indexes each by default; the ledger looks entries up by their name, and asks
  # for one field only, when it looks for deferrals whose time has come. The other indexes would make writes slower, and
  # hot where times are ever increasing. (A wildcard is not possible: the provider asks for a TTL change with it, which
  # Firestore refuses.)
  ledger_fields = toset([
    "attempt", "attributes", "callsCounted", "credentialId", "detail", "event", "expireAt", "fence", "holder", "jobId",
    "leaseSeconds", "newJobId", "notBefore", "reason", "rootJobId", "state", "updatedAt", "userId",
  ])
}

resource "google_firestore_database" "ledger" {
  name                    = var.ledger_database
  location_id             = coalesce(var.ledger_location, var.region)
  type                    = "FIRESTORE_NATIVE"
  concurrency_mode        = "OPTIMISTIC"
  delete_protection_state = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy         = "DELETE"

  dynamic "cmek_config" {
    for_each = var.kms_key_name[*]

    content {
      kms_key_name = cmek_config.value
    }
  }
}

resource "google_firestore_field" "ledger" {
  for_each = local.ledger_fields

  database   = google_firestore_database.ledger.name
  collection = local.ledger_collection
  field      = each.key

  index_config {
    dynamic "indexes" {
      for_each = each.key == "notBefore" ? ["ASCENDING"] : []

      content {
        order = indexes.value
      }
    }
  }

  # Entries are forgotten when this time has passed (within a day, usually).
  dynamic "ttl_config" {
    for_each = each.key == "expireAt" ? [1] : []
    content {}
  }
}

# Firestore has no rights below the project; the condition narrows this one to the ledger's own database.
resource "google_project_iam_member" "ledger" {
  for_each = {
    resume = data.google_service_account.resume.member
    run    = data.google_service_account.run.member
  }

  project = var.project_id
  role    = "roles/datastore.user"
  member  = each.value

  condition {
    title       = "retry ledger only"
    description = "The Firestore database ${var.ledger_database}"
    expression  = "resource.name == \"projects/${var.project_id}/databases/${var.ledger_database}\""
  }
}
