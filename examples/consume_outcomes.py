"""A consumer of follow-ups (`archive-job-retried`) and of ended events (`archive-job-ended`).

Role: roles/pubsub.subscriber on a subscription to each of the topics (docs/messages.md, Subscriptions).

    GOOGLE_CLOUD_PROJECT=my-project python examples/consume_outcomes.py SUBSCRIPTION
"""

import json
import os
import sys

from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message

seen: set[tuple[str, ...]] = set()  # in your product: a unique key in its database


def handle(message: Message) -> None:
    """Messages may come twice and in any order; all copies have this key. COMPLETE may follow an UNKNOWN."""
    key = message.attributes["eventType"], message.attributes["dedupKey"], message.attributes.get("state", "")
    event = json.loads(message.data)
    if key not in seen:
        if "retriedArchiveJobId" in event:
            print(f"{event['retriedArchiveJobId']} goes on as {event['archiveJobId']}, retry {event['attempt']}")
        else:
            print(f"{event['archiveJobId']} of {event['userId']} has ended: {event['state']} {event['cause']}".rstrip())
        seen.add(key)
    message.ack()


if __name__ == "__main__":
    subscriber = pubsub_v1.SubscriberClient()
    path = subscriber.subscription_path(os.environ["GOOGLE_CLOUD_PROJECT"], sys.argv[1])
    subscriber.subscribe(path, handle).result()
