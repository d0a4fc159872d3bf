# The same with the watch; tests/infra/ reads this plan too.

mock_provider "google" {
  source = "./tests/mocks"
}

run "watch" {
  command = plan

  variables {
    watch = true
  }
}
