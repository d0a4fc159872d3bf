output "function_uris" {
  description = "Where Pub/Sub and Cloud Scheduler call the functions. Not reachable from the internet."
  value       = { for name, function in google_cloudfunctions2_function.this : name => function.service_config[0].uri }
}
