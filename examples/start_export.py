"""A producer, with the watch: say once that an export has started. Its end comes on `archive-job-ended`; where it
failed and cannot be retried, on `archive-job-retry-rejected`. Read both.

Role: roles/pubsub.publisher on the topic archive-job-started.

    GOOGLE_CLOUD_PROJECT=my-project python examples/start_export.py JOB_ID USER_ID
"""

import json
import os
import sys

from google.cloud import pubsub_v1


def publish_started(publisher: pubsub_v1.PublisherClient, project: str, job_id: str, user_id: str) -> None:
    """Call it when portabilityArchive.initiate has answered with a job's id. Twice does no harm."""
    event = {"archiveJobId": job_id, "userId": user_id}
    topic = publisher.topic_path(project, "archive-job-started")
    publisher.publish(topic, json.dumps(event).encode()).result(timeout=60)


if __name__ == "__main__":
    publish_started(pubsub_v1.PublisherClient(), os.environ["GOOGLE_CLOUD_PROJECT"], sys.argv[1], sys.argv[2])
