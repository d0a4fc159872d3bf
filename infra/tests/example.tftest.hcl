# Plans terraform.tfvars.example with a mocked provider, which makes values up that are known after apply only.
# tests/infra/ reads this plan, and that with the watch, and holds them against the code.

mock_provider "google" {
  override_during = plan
  source          = "./tests/mocks"
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
