"""A consumer of rejections: what to do about each. store_consent.py goes on where the user has consented.

Roles: roles/pubsub.subscriber on a subscription of your own (docs/messages.md, Subscriptions).

    GOOGLE_CLOUD_PROJECT=my-project python examples/consume_rejections.py SUBSCRIPTION
"""

import json
import os
import sys
from typing import Any

from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message

START = "start a new export for {userId}; where the answer is 409, publish the job in its metadata.job_id as started"
LOOK = "look at the state of {archiveJobId}: it runs: publish it as started; COMPLETE: download it; else a new export"
RESET = "when all exports of {userId} have ended and are downloaded, reset the authorization and ask for consent"
ASK = "ask {userId} for consent ({word})"
NO_TOKEN = "NO_SECRET", "SECRET_DISABLED", "NO_REFRESH_TOKEN", "INVALID_GRANT", "OTHER_CLIENT", "NO_SCOPE"
WHAT_TO_DO = {
    **dict.fromkeys(("EVENT_EXPIRED", "RETRY_BUDGET_EXHAUSTED", "JOB_NOT_FOUND"), START),
    **dict.fromkeys((*NO_TOKEN, "REAUTHORIZATION_REQUIRED", "ACCESS_DENIED"), ASK),
    "ACCOUNT_STATE": "tell {userId} that the Google account is suspended or closed",
    "ADMIN_POLICY": "ask the administrator of {userId}",
    "JOB_NOT_RETRYABLE": LOOK,
    "MALFORMED_EVENT": "correct the producer: {detail}",
    "ONE_TIME_GRANT_USED": RESET,
}
latest: dict[tuple[str, bool], str] = {}  # in your product: in its database


def handle(message: Message) -> None:
    """Of a job's rejections the latest counts; a malformed event says nothing of the job."""
    rejection = json.loads(message.data)
    if message.attributes.get("eventType") == "archive-job-retry-rejected":
        key = message.attributes["dedupKey"], rejection["reason"] == "MALFORMED_EVENT"
        if rejection["rejectedAt"] > latest.get(key, ""):
            print(f"{rejection['archiveJobId']}: {what_to_do(rejection)}")
            latest[key] = rejection["rejectedAt"]
    message.ack()


def what_to_do(rejection: dict[str, Any]) -> str:
    """Where no follow-up of the job has come: that outweighs its rejections."""
    word = rejection.get("cause") or rejection["reason"]
    return WHAT_TO_DO.get(word, "a person looks at {word}: {detail}").format(word=word, **rejection)


if __name__ == "__main__":
    subscriber = pubsub_v1.SubscriberClient()
    subscriber.subscribe(subscriber.subscription_path(os.environ["GOOGLE_CLOUD_PROJECT"], sys.argv[1]), handle).result()
