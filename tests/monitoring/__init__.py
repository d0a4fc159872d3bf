"""What Cloud Logging and Cloud Monitoring would make of log lines, as far as infra/ asks them to."""
