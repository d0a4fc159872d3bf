# Applied by a person who may grant rights on the project: at first, and when one of these files or values changes.
terraform {
  required_version = ">= 1.11, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }

  # A bucket of its own, on which the pipeline has no right: terraform init -backend-config="bucket=<project>-archive-job-retry-bootstrap"
  backend "gcs" {
    prefix = "bootstrap"
  }
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = merge({ app = "archive-job-retry" }, var.labels)
}
