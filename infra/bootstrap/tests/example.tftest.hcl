# Plans terraform.tfvars.example with a mocked provider; tests/infra/ reads this plan and holds it against the code.

mock_provider "google" {
  source = "./tests/mocks"
}

run "example" {
  command = plan
}
