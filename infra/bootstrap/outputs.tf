output "accounts" {
  description = "The accounts, by what they do."
  value       = { for name, account in google_service_account.this : name => account.email }
}

output "source_bucket" {
  description = "Where the function's archives are kept."
  value       = google_storage_bucket.this["source"].name
}

output "state_bucket" {
  description = "Where the state of infra/ is kept."
  value       = google_storage_bucket.this["state"].name
}
