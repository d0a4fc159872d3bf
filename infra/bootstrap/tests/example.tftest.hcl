# Plans terraform.tfvars.example with a mocked provider; tests/infra/ reads this plan, and that with the watch.

mock_provider "google" {
  source = "./tests/mocks"
}

run "example" {
  command = plan
}

run "watch" {
  command = plan

  variables {
    watch = true
  }
}
