"""The other peer: the sample with a claim before the call and a mark after it, as one would add them to it."""

import base64
import json
from functools import cache
from typing import Any

import functions_framework
from cloudevents.http import CloudEvent
from google.api_core.exceptions import AlreadyExists
from google.cloud import firestore
from sample import PROJECT, publish, retry  # type: ignore[import-not-found]  # it lies beside this file


@cache
def jobs() -> Any:
    return firestore.Client(project=PROJECT).collection("retries")


@functions_framework.cloud_event
def retry_failed_archive_job(event: CloudEvent) -> None:
    failed = json.loads(base64.b64decode(event.data["message"]["data"]))
    claim = jobs().document(failed["archiveJobId"])
    try:
        claim.create({"state": "claimed", "at": firestore.SERVER_TIMESTAMP})
    except AlreadyExists:
        return
    retried = retry(failed["archiveJobId"], failed["userId"])
    claim.update({"state": "retried", "newJobId": retried["archiveJobId"]})
    publish(retried)
