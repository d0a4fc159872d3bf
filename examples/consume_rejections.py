"""A consumer of rejections: ask the user again, store the new refresh token, publish the event once more.

Roles: roles/pubsub.subscriber on a subscription of your own to archive-job-retry-rejected, roles/pubsub.publisher on
archive-job-failed, roles/secretmanager.secretVersionAdder on the users' secrets.
"""

import base64
from typing import Any

from google.cloud import pubsub_v1, secretmanager

ASK_AGAIN = ("REAUTHORIZATION_REQUIRED", "ACCESS_DENIED")


def what_to_do(rejection: dict[str, Any]) -> str:
    """One of: ask the user, look first, start a new export, correct the producer."""
    if rejection["reason"] in ASK_AGAIN:
        return f"ask {rejection['userId']} for consent ({rejection.get('cause') or rejection['reason']})"
    if rejection["reason"] == "MALFORMED_EVENT":
        return f"correct the producer: {rejection['detail']}"
    if rejection.get("callsInDoubt", 0) or rejection["reason"] == "OUTCOME_UNKNOWN":
        return f"look whether an export of {rejection['userId']} is running"
    return f"start a new export for {rejection['userId']}"


def consent_given(
    rejection: dict[str, Any], refresh_token: str, project: str, prefix: str = "dataportability-refresh-token-"
) -> None:
    """Call it when the user has consented again. A rejection answers the events before it, so this one is new."""
    name = f"projects/{project}/secrets/{prefix}{rejection['credentialId']}"
    payload = {"data": refresh_token.encode()}
    secretmanager.SecretManagerServiceClient().add_secret_version(parent=name, payload=payload, timeout=30)
    publish_again(pubsub_v1.PublisherClient(), rejection, project)


def publish_again(publisher: pubsub_v1.PublisherClient, rejection: dict[str, Any], project: str) -> None:
    is_text = rejection["eventEncoding"] == "text"
    data = rejection["event"].encode() if is_text else base64.b64decode(rejection["event"])
    publisher.publish(publisher.topic_path(project, "archive-job-failed"), data).result(timeout=60)
