"""A producer without the watch: look at a running job, and publish a failed event where it has failed.

Role: roles/pubsub.publisher on the topic archive-job-failed. The user's credentials are those of your product.
Poll every 5 to 60 minutes: https://developers.google.com/data-portability/user-guide/methods
"""

import json
from datetime import UTC, datetime
from typing import Any

from google.auth.transport.requests import AuthorizedSession
from google.cloud import pubsub_v1
from google.oauth2.credentials import Credentials

API = "https://dataportability.googleapis.com"


def look(
    publisher: pubsub_v1.PublisherClient, project: str, event: dict[str, Any], user: Credentials, api: str = API
) -> str:
    """The state of the event's job. Stop at COMPLETE, CANCELLED and FAILED; of a retried job `event` is the follow-up.

    Of any other job give archiveJobId, userId and, where it is not the user's id, credentialId.
    """
    url = f"{api}/v1/archiveJobs/{event['archiveJobId']}/portabilityArchiveState"
    answer = AuthorizedSession(user).get(url, timeout=30)
    answer.raise_for_status()
    state: str = answer.json().get("state", "")
    if state == "FAILED":
        failed = event | {"failedAt": datetime.now(UTC).isoformat(timespec="seconds")}
        topic = publisher.topic_path(project, "archive-job-failed")
        publisher.publish(topic, json.dumps(failed).encode()).result(timeout=60)
    return state
