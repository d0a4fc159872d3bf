variable "backup_days" {
  description = "Days that a daily backup of the ledger is kept; 0: no backups. What is erased lives on in them that long."
  type        = number
  default     = 7

  validation {
    condition     = contains(range(0, 99), var.backup_days)
    error_message = "backup_days must be from 0 to 98, which is Firestore's limit."
  }
}

variable "branch" {
  description = "Pushes to branches that match this regular expression are deployed."
  type        = string
  default     = "^main$"
}

variable "cloud_trace" {
  description = "Whether the functions may write traces to Google Cloud: for `tracing = \"cloud_trace\"` of infra/."
  type        = bool
  default     = false
}

variable "deletion_protection" {
  description = "Whether Google Cloud refuses to delete the ledger and the OAuth client's secret. Set it to false and apply before terraform destroy, and never to get a refused apply through: that one would replace what is protected."
  type        = bool
  default     = true
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

variable "ledger_database_exists" {
  description = "Whether ledger_database is there already. Then its protection, backups and location are not touched, and the functions can use all of it."
  type        = bool
  default     = false
}

variable "ledger_location" {
  description = "Firestore location of the ledger. Null: the region. Before the first apply only: changing it replaces the ledger."
  type        = string
  default     = null
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

variable "operators" {
  description = "Who may look at rejections, dead letters, the ledger, the log and the settings (ops check), and put events back."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.operators : can(regex("^(user|group|serviceAccount|principal|principalSet):", member))])
    error_message = "operators must be principals such as serviceAccount:product@project.iam.gserviceaccount.com, group:team@example.com or user:you@example.com."
  }
}

variable "point_in_time_recovery" {
  description = "Whether the ledger can be read as it was at any minute of the last seven days."
  type        = bool
  default     = true
}

variable "project_id" {
  description = "The project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's id (6 to 30 lower-case letters, digits and hyphens), not its name or number."
  }
}

variable "publishers" {
  description = "Who may publish failed jobs, and started ones for the watch: the product. Whoever may can have any user's job retried."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.publishers : can(regex("^(user|group|serviceAccount|principal|principalSet):", member))])
    error_message = "publishers must be principals such as serviceAccount:product@project.iam.gserviceaccount.com, group:team@example.com or user:you@example.com."
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

variable "repository" {
  description = "The repository that is deployed, connected to Cloud Build before: projects/P/locations/L/connections/C/repositories/R. Null: no triggers; README.md has other ways."
  type        = string
  default     = null

  validation {
    condition     = var.repository == null || can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository))
    error_message = "repository must look like projects/P/locations/L/connections/C/repositories/R."
  }
}

variable "secret_access_logs" {
  description = "Whether each access to a secret of the project is logged. False where the organisation does so."
  type        = bool
  default     = true
}

variable "storage_regions" {
  description = "Regions that messages and secrets may rest in. None: the region alone. Before the first apply only: changing it replaces the OAuth client's secret."
  type        = list(string)
  default     = []

  validation {
    condition     = var.kms_key_name == null || length(setsubtract(var.storage_regions, [var.region])) == 0
    error_message = "storage_regions must be none but the region where there is a key: a key is of one region."
  }
}

variable "subscribers" {
  description = "Who may receive follow-ups, rejections and, of the watch, ends of jobs: the product."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.subscribers : can(regex("^(user|group|serviceAccount|principal|principalSet):", member))])
    error_message = "subscribers must be principals such as serviceAccount:product@project.iam.gserviceaccount.com, group:team@example.com or user:you@example.com."
  }
}

variable "token_writers" {
  description = "Who may make users' secrets, and add, disable and destroy their versions, without a right to read them: the product, where users consent."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for member in var.token_writers : can(regex("^(user|group|serviceAccount|principal|principalSet):", member))])
    error_message = "token_writers must be principals such as serviceAccount:product@project.iam.gserviceaccount.com, group:team@example.com or user:you@example.com."
  }
}

variable "watch" {
  description = "Whether running jobs are watched, so that the product hears of their end. The same for bootstrap/ and infra/."
  type        = bool
  default     = false
}
