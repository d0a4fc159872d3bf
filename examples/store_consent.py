"""The user has consented again: store the new refresh token, and publish the rejection's event once more.

Roles: roles/pubsub.publisher on archive-job-failed, roles/secretmanager.secretVersionAdder on the users' secrets. A
secret that is not there yet (NO_SECRET) is made as in infra/README.md. A new version may take minutes to be the latest
everywhere: where an event is rejected once more right after the consent, publish it again before you ask the user.
"""

import base64
from typing import Any

from google.cloud import pubsub_v1, secretmanager


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
