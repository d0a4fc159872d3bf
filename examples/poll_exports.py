"""A producer without the watch: look at a running job, and publish a failed event where it has failed.

Role: roles/pubsub.publisher on the topic archive-job-failed. The user's credentials are those of your product.
Poll every 5 to 60 minutes: https://developers.google.com/data-portability/user-guide/methods
"""

import json
from datetime import UTC, datetime

from google.auth.transport.requests import AuthorizedSession
from google.cloud import pubsub_v1
from google.oauth2.credentials import Credentials

API = "https://dataportability.googleapis.com"


def look(
    publisher: pubsub_v1.PublisherClient, project: str, job_id: str, user_id: str, user: Credentials, api: str = API
) -> str:
    """The job's state. Stop at COMPLETE, CANCELLED and FAILED; a retried job comes on archive-job-retried."""
    url = f"{api}/v1/archiveJobs/{job_id}/portabilityArchiveState"
    answer = AuthorizedSession(user).get(url, timeout=30)
    answer.raise_for_status()
    state: str = answer.json().get("state", "")
    if state == "FAILED":
        failed_at = datetime.now(UTC).isoformat(timespec="seconds")
        event = {"archiveJobId": job_id, "userId": user_id, "failedAt": failed_at}
        topic = publisher.topic_path(project, "archive-job-failed")
        publisher.publish(topic, json.dumps(event).encode()).result(timeout=60)
    return state
