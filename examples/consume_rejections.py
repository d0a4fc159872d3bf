"""A consumer of rejections: ask the user again, store the new refresh token, publish the event once more.

Roles: roles/pubsub.subscriber on a subscription of your own (docs/messages.md, Subscriptions), roles/pubsub.publisher
on archive-job-failed, roles/secretmanager.secretVersionAdder on the users' secrets. A secret that is not there yet
(NO_SECRET) is made as in infra/README.md. A new version may take minutes to be the latest everywhere: where an event is
rejected once more right after the consent, publish it again before you ask the user.

    GOOGLE_CLOUD_PROJECT=my-project python examples/consume_rejections.py SUBSCRIPTION
"""

import base64
import json
import os
import sys
from typing import Any

from google.cloud import pubsub_v1, secretmanager
from google.cloud.pubsub_v1.subscriber.message import Message

seen: set[tuple[str, str]] = set()  # in your product: a unique key in its database


def handle(message: Message) -> None:
    """A job may be rejected anew for a later event: then dedupKey is the same, and rejectedAt another."""
    rejection = json.loads(message.data)
    key = message.attributes["dedupKey"], rejection["rejectedAt"]
    if key not in seen:
        print(f"{rejection['archiveJobId']}: {what_to_do(rejection)}")
        seen.add(key)
    message.ack()


def what_to_do(rejection: dict[str, Any]) -> str:
    """One of: ask the user, look first, start a new export, correct the producer."""
    if rejection["reason"] == "MALFORMED_EVENT":
        return f"correct the producer: {rejection['detail']}"
    if rejection.get("callsInDoubt", 0) or rejection["reason"] == "OUTCOME_UNKNOWN":
        return f"look whether an export of {rejection['userId']} is running"
    if rejection["reason"] in ("REAUTHORIZATION_REQUIRED", "ACCESS_DENIED"):
        return f"ask {rejection['userId']} for consent ({rejection.get('cause') or rejection['reason']})"
    return f"start a new export for {rejection['userId']}"


def consent_given(rejection: dict[str, Any], refresh_token: str, project: str) -> None:
    """Call it when the user has consented again. A rejection answers the events before it, so this one is new."""
    name = f"projects/{project}/secrets/dataportability-refresh-token-{rejection['credentialId']}"
    client, payload = secretmanager.SecretManagerServiceClient(), {"data": refresh_token.encode()}
    client.add_secret_version(parent=name, payload=payload, timeout=30)
    publish_again(pubsub_v1.PublisherClient(), rejection, project)


def publish_again(publisher: pubsub_v1.PublisherClient, rejection: dict[str, Any], project: str) -> None:
    decode = str.encode if rejection["eventEncoding"] == "text" else base64.b64decode
    topic = publisher.topic_path(project, "archive-job-failed")
    publisher.publish(topic, decode(rejection["event"])).result(timeout=60)


if __name__ == "__main__":
    subscriber = pubsub_v1.SubscriberClient()
    subscriber.subscribe(subscriber.subscription_path(os.environ["GOOGLE_CLOUD_PROJECT"], sys.argv[1]), handle).result()
