# Plans terraform.tfvars.example with a mocked provider, which makes values up that are known after apply only.
# tests/infra/ reads this plan and holds it against the code.

mock_provider "google" {
  override_during = plan
  source          = "./tests/mocks"
}

override_data {
  target = data.google_project.this
  values = { number = "123456789012" }
}

override_data {
  target = data.google_service_account.build
  values = {
    email  = "archive-job-retry-build@my-portability-project.iam.gserviceaccount.com"
    id     = "projects/my-portability-project/serviceAccounts/archive-job-retry-build@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-build@my-portability-project.iam.gserviceaccount.com"
  }
}

override_data {
  target = data.google_service_account.invoke
  values = {
    email  = "archive-job-retry-invoke@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-invoke@my-portability-project.iam.gserviceaccount.com"
  }
}

override_data {
  target = data.google_service_account.resume
  values = {
    email  = "archive-job-retry-resume@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-resume@my-portability-project.iam.gserviceaccount.com"
  }
}

override_data {
  target = data.google_service_account.run
  values = {
    email  = "archive-job-retry-run@my-portability-project.iam.gserviceaccount.com"
    member = "serviceAccount:archive-job-retry-run@my-portability-project.iam.gserviceaccount.com"
  }
}

run "example" {
  command = plan

  assert {
    condition     = google_pubsub_subscription.push.push_config[0].push_endpoint == google_cloudfunctions2_function.retry.service_config[0].uri
    error_message = "Pub/Sub must push to the function's run.app address."
  }

  assert {
    condition     = google_pubsub_subscription.push.push_config[0].oidc_token[0].audience == google_cloudfunctions2_function.retry.service_config[0].uri
    error_message = "The token that Pub/Sub shows must be for this function."
  }

  assert {
    condition     = google_cloudfunctions2_function.retry.build_config[0].runtime == trimspace(file("runtime.txt")) && google_cloudfunctions2_function.resume.build_config[0].runtime == trimspace(file("runtime.txt"))
    error_message = "The runtime is named in runtime.txt, and nowhere else."
  }
}
