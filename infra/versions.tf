terraform {
  required_version = ">= 1.11, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }

  # The bucket is named at init: terraform init -backend-config="bucket=<project>-archive-job-retry-state"
  backend "gcs" {
    prefix = "function"
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = merge({ app = "archive-job-retry" }, var.labels)
}
