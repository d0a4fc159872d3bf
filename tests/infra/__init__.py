"""infra/, cloudbuild.yaml and the delivery's scripts, offline."""
