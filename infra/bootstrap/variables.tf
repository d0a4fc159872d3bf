variable "branch" {
  description = "Pushes to branches that match this regular expression are deployed."
  type        = string
  default     = "^main$"
}

variable "deletion_protection" {
  description = "Whether Google Cloud refuses to delete the OAuth client's secret. Set it to false and apply before terraform destroy."
  type        = bool
  default     = true
}

variable "kms_key_name" {
  description = "Cloud KMS key in the region that encrypts the buckets, the images and the OAuth client's secret. Google's service agents are allowed to use it, for infra/ as well. Null: Google's own keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_name == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key_name))
    error_message = "kms_key_name must look like projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "oauth_client_secret" {
  description = "Id of the secret that holds the OAuth client file, as Google's console downloads it."
  type        = string
  default     = "dataportability-oauth-client"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,255}$", var.oauth_client_secret))
    error_message = "oauth_client_secret must be a secret's id: letters, digits, hyphens and underscores."
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

variable "region" {
  description = "Region of the buckets, the images, the trigger and the function."
  type        = string
  default     = "us-central1"
}

variable "repository" {
  description = "The repository that is deployed, connected to Cloud Build before: projects/P/locations/L/connections/C/repositories/R. Null: no trigger; gcloud builds submit does the same by hand."
  type        = string
  default     = null

  validation {
    condition     = var.repository == null || can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository))
    error_message = "repository must look like projects/P/locations/L/connections/C/repositories/R."
  }
}
