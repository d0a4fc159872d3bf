# The watch, where `watch` is on: each started job and each follow-up is pushed to a function that looks at the job, and
# tells the product of its end.
locals {
  watch_settings = {
    for name, value in {
      ENDED_TOPIC            = "archive-job-ended"
      STARTED_TOPIC          = "archive-job-started"
      WATCH_INTERVAL_SECONDS = tostring(var.watch_interval_seconds)
    } : name => value if var.watch
  }

  watch_function = {
    for name, function in {
      watch = {
        name        = "archive-job-retry-watch"
        description = "Looks at running archive jobs, and tells of their end."
        entry_point = "watch_archive_job"
        account     = "watch"
        concurrency = var.concurrency
        instances   = [0, var.max_instances]
      }
    } : name => function if var.watch
  }

  watch_pushes = {
    for subscription, push in {
      archive-job-retried-watch = { topic = "archive-job-retried", function = "watch", dead = "archive-job-watch-dead", filter = "NOT attributes.userId = \"${local.canary}\"" }
      archive-job-started-watch = { topic = "archive-job-started", function = "watch", dead = "archive-job-watch-dead", filter = "" }
    } : subscription => push if var.watch
  }
}
