# With a key of one's own, everything that holds data is encrypted with it.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  kms_key_name  = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"
  project_id    = "my-portability-project"
  region        = "europe-west1"
  source_object = "archive-job-retry-0000000000000000000000000000000000000000000000000000000000000000.zip"
}

run "own_key" {
  command = plan

  assert {
    condition     = alltrue([for topic in google_pubsub_topic.this : topic.kms_key_name == var.kms_key_name])
    error_message = "Every topic must be encrypted with the key."
  }

  assert {
    condition     = google_firestore_database.ledger.cmek_config[0].kms_key_name == var.kms_key_name
    error_message = "The ledger must be encrypted with the key."
  }

  assert {
    condition     = google_cloudfunctions2_function.retry.kms_key_name == var.kms_key_name
    error_message = "The function must be encrypted with the key."
  }
}

run "googles_keys" {
  command = plan

  variables {
    kms_key_name = null
  }

  assert {
    condition     = length(google_firestore_database.ledger.cmek_config) == 0
    error_message = "Without a key, Google's own are used."
  }
}
