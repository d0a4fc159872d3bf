# What a mocked provider would make up in a form that is refused downstream

mock_resource "google_cloudfunctions2_function" {
  defaults = {
    service_config = { uri = "https://archive-job-retry-example-ew.a.run.app" }
  }
}
