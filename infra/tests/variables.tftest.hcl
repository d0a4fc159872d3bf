# Each value that would break a promise is refused before anything is planned.

mock_provider "google" {
  source = "./tests/mocks"
}

run "timeout_not_above_the_handler_deadline" {
  command = plan

  variables {
    function_timeout_seconds = 90
  }

  expect_failures = [var.function_timeout_seconds]
}

run "lease_below_the_timeout" {
  command = plan

  variables {
    claim_lease_seconds = 119
  }

  expect_failures = [var.claim_lease_seconds]
}

run "ack_deadline_below_the_lease" {
  command = plan

  variables {
    ack_deadline_seconds = 149
  }

  expect_failures = [var.ack_deadline_seconds]
}

run "dead_letters_too_soon" {
  command = plan

  variables {
    max_delivery_attempts = 5
  }

  expect_failures = [var.max_delivery_attempts]
}

run "archive_without_its_hash" {
  command = plan

  variables {
    source_object = "function.zip"
  }

  expect_failures = [var.source_object]
}

run "prefix_that_opens_other_secrets" {
  command = plan

  variables {
    refresh_token_secret_prefix = "data"
  }

  expect_failures = [var.refresh_token_secret_prefix]
}

run "more_retries_than_google_allows" {
  command = plan

  variables {
    retry_budget = 4
  }

  expect_failures = [var.retry_budget]
}

run "unknown_way_with_unknown_outcomes" {
  command = plan

  variables {
    ambiguous_retry = "hope"
  }

  expect_failures = [var.ambiguous_retry]
}
