variable "ack_deadline_seconds" {
  description = "How long Pub/Sub waits for the answer to a delivery before it delivers again. Not below the claim's lease, so that a delivery after a crash finds the claim lapsed."
  type        = number
  default     = 180

  validation {
    condition     = var.ack_deadline_seconds >= var.claim_lease_seconds && var.ack_deadline_seconds <= 600
    error_message = "ack_deadline_seconds must be at least claim_lease_seconds, and at most 600, which is Pub/Sub's limit."
  }
}

variable "ambiguous_retry" {
  description = "What happens to a job when it is not known whether Google has carried out a retry: resend (within the budget) or park (publish it as OUTCOME_UNKNOWN)."
  type        = string
  default     = "resend"

  validation {
    condition     = contains(["resend", "park"], var.ambiguous_retry)
    error_message = "ambiguous_retry must be resend or park."
  }
}

variable "claim_lease_seconds" {
  description = "How long one delivery's claim on a job is held. Another delivery takes it over after that."
  type        = number
  default     = 150

  validation {
    condition     = var.claim_lease_seconds >= var.function_timeout_seconds
    error_message = "claim_lease_seconds must be at least function_timeout_seconds: a claim must not lapse under a request that still runs."
  }
}

variable "concurrency" {
  description = "Deliveries that one instance works on at the same time."
  type        = number
  default     = 80

  validation {
    condition     = var.concurrency >= 1 && var.concurrency <= 1000
    error_message = "concurrency must be from 1 to 1000."
  }
}

variable "doubt_pause_seconds" {
  description = "How long a job waits after a call to Google of which it is not known whether it was carried out; thirty times that after each further one."
  type        = number
  default     = 120

  validation {
    condition     = var.doubt_pause_seconds >= 0.1
    error_message = "doubt_pause_seconds must be at least 0.1."
  }

  validation {
    condition     = 61 * var.doubt_pause_seconds < 630 + (var.max_delivery_attempts - 7) * 600
    error_message = "61 times doubt_pause_seconds, which is how long three calls in doubt take, must be less than the time for which an event is delivered: 630 seconds, and 600 for each of max_delivery_attempts above 7."
  }
}

variable "event_max_age_days" {
  description = "Failures older than this are rejected as EVENT_EXPIRED. Google keeps an archive for 14 days."
  type        = number
  default     = 14

  validation {
    condition     = var.event_max_age_days > 0 && var.event_max_age_days <= 365
    error_message = "event_max_age_days must be above 0 and at most 365."
  }
}

variable "function_timeout_seconds" {
  description = "When Cloud Run gives up on a request."
  type        = number
  default     = 120

  validation {
    condition     = var.function_timeout_seconds >= var.handler_deadline_seconds + 10 && var.function_timeout_seconds <= 120
    error_message = "function_timeout_seconds must be at least 10 above handler_deadline_seconds, so that the function itself ends what takes too long and records what Google has answered, and at most 120: an access token that is used is good for that long."
  }
}

variable "handler_deadline_seconds" {
  description = "How long one delivery may take before the function itself gives up on it."
  type        = number
  default     = 90

  validation {
    condition     = var.handler_deadline_seconds >= 10
    error_message = "handler_deadline_seconds must be at least 10: one delivery makes up to five calls over the network."
  }
}

variable "kms_key_name" {
  description = "Cloud KMS key in the region that encrypts everything that holds data: buckets, images, secrets, ledger, topics, functions. Null: Google's own keys. Before the first apply only: changing it replaces the ledger and the OAuth client's secret."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_name == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key_name))
    error_message = "kms_key_name must look like projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "labels" {
  description = "Labels of everything that can have some, such as a cost centre."
  type        = map(string)
  default     = {}
}

variable "ledger_database" {
  description = "Name of the Firestore database that holds the retry ledger. Before the first apply only: changing it replaces the ledger."
  type        = string
  default     = "archive-job-retry"

  validation {
    condition     = can(regex("^(\\(default\\)|[a-z][a-z0-9-]{2,61}[a-z0-9])$", var.ledger_database))
    error_message = "ledger_database must be (default), or 4 to 63 lower-case letters, digits and hyphens that start with a letter."
  }
}

variable "log_level" {
  description = "The least severe log lines that the function writes. Metrics, and with them the alerts, are made of INFO lines."
  type        = string
  default     = "INFO"

  validation {
    condition     = contains(["DEBUG", "INFO"], var.log_level)
    error_message = "log_level must be DEBUG or INFO: without the INFO lines, metrics and alerts would see nothing."
  }
}

variable "max_delivery_attempts" {
  description = "Deliveries after which an event goes to the dead letters. With the back-off from 10 to 600 seconds, 100 of them sit out an outage of fifteen hours."
  type        = number
  default     = 100

  validation {
    condition     = var.max_delivery_attempts >= 10 && var.max_delivery_attempts <= 100
    error_message = "max_delivery_attempts must be from 10 (a delivery that meets another one's claim counts as an attempt) to 100 (Pub/Sub's limit)."
  }
}

variable "max_instances" {
  description = "Instances that may run at the same time: what bounds the cost and the load on Google's API."
  type        = number
  default     = 10

  validation {
    condition     = var.max_instances >= 1 && var.max_instances <= 1000
    error_message = "max_instances must be from 1 to 1000."
  }
}

variable "memory" {
  description = "Memory of one instance."
  type        = string
  default     = "512Mi"

  validation {
    condition     = can(regex("^[1-9][0-9]*(Mi|Gi)$", var.memory))
    error_message = "memory must be a number with Mi or Gi, such as 512Mi."
  }
}

variable "min_instances" {
  description = "Instances of the retrying function that are kept running, and paid for, so that no event waits for a start."
  type        = number
  default     = 0

  validation {
    condition     = var.min_instances >= 0 && var.min_instances <= var.max_instances
    error_message = "min_instances must be from 0 to max_instances."
  }
}

variable "notification_channels" {
  description = "Who is told when an alert fires: names of Cloud Monitoring notification channels. None: alerts show in the console only."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "notification_channels must look like projects/P/notificationChannels/N: gcloud beta monitoring channels list shows them."
  }
}

variable "oauth_client_secret" {
  description = "Secret that holds the OAuth client file, as Google's console downloads it: an id, or the full name of one that is there already, projects/P/secrets/S or projects/P/locations/L/secrets/S. Before the first apply only: changing it deletes the secret that was made."
  type        = string
  default     = "dataportability-oauth-client"

  validation {
    condition     = can(regex("^(projects/[a-z0-9.:-]{1,64}/(locations/[a-z0-9-]{1,40}/)?secrets/)?[A-Za-z0-9_-]{1,255}$", var.oauth_client_secret))
    error_message = "oauth_client_secret must be a secret's id (letters, digits, hyphens and underscores) or its full name."
  }
}

variable "pager_channels" {
  description = "Who is woken: told of CRITICAL alerts, beside notification_channels, and of no other."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for channel in var.pager_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "pager_channels must look like projects/P/notificationChannels/N: gcloud beta monitoring channels list shows them."
  }
}

variable "project_id" {
  description = "The project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's id (6 to 30 lower-case letters, digits and hyphens), not its name or number."
  }
}

variable "refresh_token_secret_prefix" {
  description = "What the name of every secret with a user's refresh token begins with. The function can read these secrets and, but for the OAuth client's, no others. A full name, projects/P/secrets/… or projects/P/locations/L/secrets/…, is of another project or of one region."
  type        = string
  default     = "dataportability-refresh-token-"

  validation {
    condition     = can(regex("^(projects/[a-z0-9.:-]{1,64}/(locations/[a-z0-9-]{1,40}/)?secrets/)?[A-Za-z0-9_-]{8,127}$", var.refresh_token_secret_prefix))
    error_message = "refresh_token_secret_prefix must be 8 to 127 letters, digits, hyphens and underscores, after projects/P/secrets/ or projects/P/locations/L/secrets/ if anything: a shorter one would open secrets that are not tokens."
  }

  validation {
    condition     = var.kms_key_name == null || !can(regex("^projects/[^/]+/secrets/", var.refresh_token_secret_prefix)) || startswith(var.refresh_token_secret_prefix, "projects/${var.project_id}/")
    error_message = "refresh_token_secret_prefix must be of project_id, or of one region, where there is a key: the canary's secret could not be encrypted with it."
  }
}

variable "region" {
  description = "Where everything is. Before the first apply only: changing it replaces the ledger, the OAuth client's secret, the buckets and the functions."
  type        = string
  default     = "us-central1"
}

variable "resume_schedule" {
  description = "When deferred retries are looked for, in cron's notation, UTC: at least every hour, or an alert fires. A deferral waits up to a day."
  type        = string
  default     = "*/10 * * * *"
}

variable "retry_budget" {
  description = "Retries per chain of failed jobs. Google allows three."
  type        = number
  default     = 3

  validation {
    condition     = var.retry_budget >= 1 && var.retry_budget <= 3
    error_message = "retry_budget must be from 1 to 3: Google allows a failed job three retries."
  }
}

variable "source_bucket" {
  description = "Bucket with the function's archives. Null: the one that bootstrap/ makes."
  type        = string
  default     = null
}

variable "source_generation" {
  description = "Generation of the archive's object, so that another one of that name is not deployed. Null: the newest."
  type        = number
  default     = null
}

variable "source_object" {
  description = "The archive to run, as make package names it. The name carries the content's SHA-256, so that a change of the source is a change of the name."
  type        = string

  validation {
    condition     = can(regex("(^|/)archive-job-retry-[0-9a-f]{64}\\.zip$", var.source_object))
    error_message = "source_object must end in archive-job-retry-<SHA-256 of the archive>.zip, as make package names it."
  }
}

variable "token_hosts" {
  description = "Hosts that the OAuth client file's token_uri may name, beside Google's own token endpoints."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for host in var.token_hosts : can(regex("^[a-z0-9.-]+$", host))])
    error_message = "token_hosts must be host names such as oauth.example.com, without a port."
  }
}

variable "tracing" {
  description = "Where traces go: off, cloud_trace (Google Cloud of this project), or the URL of an OTLP/HTTP endpoint such as https://collector.example:4318."
  type        = string
  default     = "off"

  validation {
    condition     = can(regex("^(off|cloud_trace|https?://[^/[:space:]]+[^[:space:]]*)$", var.tracing))
    error_message = "tracing must be off, cloud_trace or an http:// or https:// URL."
  }
}

variable "watch" {
  description = "Whether running jobs are watched, so that the product hears of their end. The same for bootstrap/ and infra/."
  type        = bool
  default     = false
}

variable "watch_interval_seconds" {
  description = "The least time between two looks at a running job."
  type        = number
  default     = 300

  validation {
    condition     = var.watch_interval_seconds >= 0.1 && var.watch_interval_seconds <= 86400
    error_message = "watch_interval_seconds must be from 0.1 to 86400."
  }
}
