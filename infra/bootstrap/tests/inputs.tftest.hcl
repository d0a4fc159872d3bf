# What the inputs change, beside the example.

mock_provider "google" {
  source = "./tests/mocks"
}

run "own_key" {
  command = plan

  variables {
    kms_key_name = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
  }

  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 7
    error_message = "Every service agent that encrypts something must be allowed to use the key."
  }

  assert {
    condition     = toset([for agent in google_project_iam_member.agents : agent.role]) == toset(formatlist("roles/%s.serviceAgent", ["artifactregistry", "cloudfunctions", "firestore", "pubsub", "run"]))
    error_message = "Agents that were made on request have no role of their own."
  }

  assert {
    condition = alltrue(concat(
      [for bucket in google_storage_bucket.this : bucket.encryption[0].default_kms_key_name == var.kms_key_name],
      [for topic in google_pubsub_topic.this : topic.kms_key_name == var.kms_key_name],
      [for secret in google_secret_manager_secret.this : secret.replication[0].user_managed[0].replicas[0].customer_managed_encryption[0].kms_key_name == var.kms_key_name],
      [google_firestore_database.ledger[0].cmek_config[0].kms_key_name == var.kms_key_name, google_artifact_registry_repository.images.kms_key_name == var.kms_key_name],
    ))
    error_message = "Everything that holds data must be encrypted with the key."
  }
}

run "existing_database_no_repository_other_regions" {
  command = plan

  variables {
    cloud_trace            = true
    labels                 = { team = "privacy" }
    ledger_database        = "(default)"
    ledger_database_exists = true
    repository             = null
    storage_regions        = ["europe-west1", "europe-west3"]
  }

  assert {
    condition     = length(google_firestore_database.ledger) == 0 && length(google_firestore_backup_schedule.ledger) == 0
    error_message = "A database that is there already must not be touched."
  }

  assert {
    condition     = alltrue([for field in google_firestore_field.ledger : field.database == "(default)"])
    error_message = "The ledger's fields must be set in it."
  }

  assert {
    condition     = length(google_cloudbuild_trigger.this) == 0
    error_message = "Without a repository there is nothing to trigger on."
  }

  assert {
    condition     = keys(google_project_iam_member.traces) == ["resume", "run"]
    error_message = "Every function must be allowed to write traces."
  }

  assert {
    condition     = alltrue([for topic in google_pubsub_topic.this : topic.message_storage_policy[0].allowed_persistence_regions == toset(var.storage_regions)])
    error_message = "Messages must rest in these regions."
  }

  assert {
    condition     = alltrue([for secret in google_secret_manager_secret.this : toset([for replica in secret.replication[0].user_managed[0].replicas : replica.location]) == toset(var.storage_regions)])
    error_message = "Secrets must rest in these regions."
  }
}

run "secrets_elsewhere_and_no_backups" {
  command = plan

  variables {
    backup_days                 = 0
    oauth_client_secret         = "projects/elsewhere/locations/europe-west3/secrets/client"
    point_in_time_recovery      = false
    refresh_token_secret_prefix = "projects/elsewhere/locations/europe-west3/secrets/refresh-token-"
  }

  assert {
    condition     = length(google_secret_manager_secret.this) == 0
    error_message = "Secrets of one region are made by hand."
  }

  assert {
    condition     = google_project_iam_member.refresh_tokens["run"].project == "elsewhere" && strcontains(google_project_iam_member.refresh_tokens["run"].condition[0].expression, "\"projects/123456789012/locations/europe-west3/secrets/refresh-token-\"")
    error_message = "The function must be allowed to read the tokens where they are."
  }

  assert {
    condition     = strcontains(google_project_iam_member.client["run"].condition[0].expression, "\"projects/123456789012/locations/europe-west3/secrets/client/versions/\"")
    error_message = "The function must be allowed to read the client's secret, and no other whose name begins like it."
  }

  assert {
    condition     = length(google_firestore_backup_schedule.ledger) == 0 && google_firestore_database.ledger[0].point_in_time_recovery_enablement == "POINT_IN_TIME_RECOVERY_DISABLED"
    error_message = "What is switched off must not be made."
  }
}

run "a_key_for_tokens_of_another_project" {
  command = plan

  variables {
    kms_key_name                = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    refresh_token_secret_prefix = "projects/elsewhere/secrets/refresh-token-"
  }

  expect_failures = [var.refresh_token_secret_prefix]
}

run "values_out_of_bounds" {
  command = plan

  variables {
    backup_days                 = 99
    kms_key_name                = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    ledger_database             = "Ledger"
    oauth_client_secret         = "secrets/client"
    publishers                  = ["product@example.com"]
    refresh_token_secret_prefix = "data" # would open other secrets
    repository                  = "https://github.com/someone/something"
    storage_regions             = ["europe-west3"]
  }

  expect_failures = [
    var.backup_days,
    var.ledger_database,
    var.oauth_client_secret,
    var.publishers,
    var.refresh_token_secret_prefix,
    var.repository,
    var.storage_regions,
  ]
}
