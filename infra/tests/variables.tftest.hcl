# Each value that would break a promise is refused before anything is planned.

mock_provider "google" {
  source = "./tests/mocks"
}

run "timeout_not_above_the_handler_deadline" {
  command = plan

  variables {
    function_timeout_seconds = 99
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

run "pauses_longer_than_the_deliveries_last" {
  command = plan

  variables {
    max_delivery_attempts = 18 # 7,230 seconds, and the pauses after three calls in doubt are 7,320
  }

  expect_failures = [var.doubt_pause_seconds]
}

run "pauses_as_long_as_the_deliveries_last" {
  command = plan

  variables {
    max_delivery_attempts = 19
  }
}

run "no_pause" {
  command = plan

  variables {
    doubt_pause_seconds = 0
  }

  expect_failures = [var.doubt_pause_seconds]
}

run "values_out_of_bounds" {
  command = plan

  variables {
    ambiguous_retry             = "hope"
    function_timeout_seconds    = 121 # an access token may be good for 120 seconds only
    log_level                   = "WARNING"
    max_delivery_attempts       = 5
    min_instances               = 11 # more than the ten at most
    notification_channels       = ["ops@example.com"]
    pager_channels              = ["+1 555 0100"]
    refresh_token_secret_prefix = "data"         # would open other secrets
    retry_budget                = 4              # Google allows three
    source_object               = "function.zip" # no hash: a changed source would not be deployed
    token_hosts                 = ["https://oauth.example.com"]
    tracing                     = "on"
    watch_interval_seconds      = 0
  }

  expect_failures = [
    var.ambiguous_retry,
    var.function_timeout_seconds,
    var.log_level,
    var.max_delivery_attempts,
    var.min_instances,
    var.notification_channels,
    var.pager_channels,
    var.refresh_token_secret_prefix,
    var.retry_budget,
    var.source_object,
    var.token_hosts,
    var.tracing,
    var.watch_interval_seconds,
  ]
}

run "values_that_the_function_refuses" {
  command = plan

  variables {
    oauth_client_secret         = "projects/My_Project/secrets/client"
    refresh_token_secret_prefix = "projects/My_Project/secrets/refresh-token-"
    token_hosts                 = ["oauth.example.com:8080"]
    watch_interval_seconds      = 86401
  }

  expect_failures = [
    var.oauth_client_secret,
    var.refresh_token_secret_prefix,
    var.token_hosts,
    var.watch_interval_seconds,
  ]
}
