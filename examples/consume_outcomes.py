"""A consumer of follow-ups (`archive-job-retried`) and of ended events (`archive-job-ended`).

Role: roles/pubsub.subscriber on a subscription to each of the topics (docs/messages.md, Subscriptions).

    GOOGLE_CLOUD_PROJECT=my-project python examples/consume_outcomes.py SUBSCRIPTION
"""

import json
import os
import sys
from typing import Any

from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message

seen: set[tuple[str, ...]] = set()  # in your product: a unique key in its database


def handle(message: Message) -> None:
    """Messages may come twice and in any order. COMPLETE or CANCELLED outweighs an UNKNOWN, whichever comes first."""
    event, kind = json.loads(message.data), message.attributes.get("eventType")
    if kind in ("archive-job-retried", "archive-job-ended"):
        state, job = event.get("state", ""), message.attributes["dedupKey"]
        key = kind, job, state, event["endedAt"] if state == "UNKNOWN" else ""
        has_ended = any((kind, job, end, "") in seen for end in ("COMPLETE", "CANCELLED"))
        if key not in seen and not (state == "UNKNOWN" and has_ended):
            print(told(event))
            seen.add(key)
    message.ack()


def told(event: dict[str, Any]) -> str:
    """Go by retriedArchiveJobId: the new job may be one that you know, and have ended before this message comes."""
    if "retriedArchiveJobId" in event:
        return f"{event['retriedArchiveJobId']} goes on as {event['archiveJobId']}, retry {event['attempt']}"
    return f"{event['archiveJobId']} of {event['userId']} has ended: {event['state']} {event['cause']}".rstrip()


if __name__ == "__main__":
    subscriber = pubsub_v1.SubscriberClient()
    path = subscriber.subscription_path(os.environ["GOOGLE_CLOUD_PROJECT"], sys.argv[1])
    subscriber.subscribe(path, handle).result()
