# bootstrap/ has made the accounts and all that they may do; nothing here grants a right.
locals {
  accounts = {
    for name in ["build", "invoke", "resume", "run", "watch"] : name => "archive-job-retry-${name}@${var.project_id}.iam.gserviceaccount.com"
  }
}
