# Plans terraform.tfvars.example with a mocked provider; tests/infra/ reads this plan.

mock_provider "google" {
  override_during = plan
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.this["build"]
  values = {
    email  = "archive-job-retry-build@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-build@my-portability-project.iam.gserviceaccount.com"
    name   = "projects/my-portability-project/serviceAccounts/archive-job-retry-build@my-portability-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.this["deploy"]
  values = {
    email  = "archive-job-retry-deploy@my-portability-project.iam.gserviceaccount.com"
    id     = "projects/my-portability-project/serviceAccounts/archive-job-retry-deploy@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-deploy@my-portability-project.iam.gserviceaccount.com"
    name   = "projects/my-portability-project/serviceAccounts/archive-job-retry-deploy@my-portability-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.this["invoke"]
  values = {
    email  = "archive-job-retry-invoke@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-invoke@my-portability-project.iam.gserviceaccount.com"
    name   = "projects/my-portability-project/serviceAccounts/archive-job-retry-invoke@my-portability-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.this["resume"]
  values = {
    email  = "archive-job-retry-resume@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-resume@my-portability-project.iam.gserviceaccount.com"
    name   = "projects/my-portability-project/serviceAccounts/archive-job-retry-resume@my-portability-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.this["run"]
  values = {
    email  = "archive-job-retry-run@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-run@my-portability-project.iam.gserviceaccount.com"
    name   = "projects/my-portability-project/serviceAccounts/archive-job-retry-run@my-portability-project.iam.gserviceaccount.com"
  }
}

run "example" {
  command = plan

  assert {
    condition     = alltrue([for bucket in google_storage_bucket.this : bucket.versioning[0].enabled])
    error_message = "The state and the archives must be kept in versions."
  }
}

run "no_repository_no_trigger" {
  command = plan

  variables {
    repository = null
  }

  assert {
    condition     = length(google_cloudbuild_trigger.deploy) == 0
    error_message = "Without a repository there is nothing to trigger on."
  }
}

run "own_key" {
  command = plan

  variables {
    kms_key_name = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
  }

  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 7 && alltrue([for bucket in google_storage_bucket.this : bucket.encryption[0].default_kms_key_name == var.kms_key_name])
    error_message = "With a key of one's own, the buckets must use it, and every service agent that needs it must be allowed to."
  }

  assert {
    condition     = google_secret_manager_secret.oauth_client.replication[0].user_managed[0].replicas[0].customer_managed_encryption[0].kms_key_name == var.kms_key_name
    error_message = "The OAuth client's secret must be encrypted with the key."
  }
}

run "wrong_repository" {
  command = plan

  variables {
    repository = "https://github.com/someone/something"
  }

  expect_failures = [var.repository]
}
