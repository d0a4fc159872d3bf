output "accounts" {
  description = "The accounts, by what they do."
  value       = { for name, account in google_service_account.this : name => account.email }
}

output "buckets" {
  description = "The buckets, by what they hold."
  value       = { for name, bucket in google_storage_bucket.this : name => bucket.name }
}
