# Applied once, by a person who may grant rights on the project. Its state stays in a local file; it holds no secret.
terraform {
  required_version = ">= 1.11, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = { app = "archive-job-retry" }
}
