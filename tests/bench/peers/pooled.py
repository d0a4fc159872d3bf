"""The sample with one thing that no sample has: all users share a session, so that its connections are kept."""

import base64
import json

import functions_framework
import requests
from cloudevents.http import CloudEvent
from google.auth.transport.requests import Request
from requests.adapters import HTTPAdapter
from sample import ENDPOINT, credentials_of, publish  # type: ignore[import-not-found]  # it lies beside this

session = requests.Session()
session.mount("https://", HTTPAdapter(pool_maxsize=80))
session.mount("http://", HTTPAdapter(pool_maxsize=80))
refreshing = Request(session)


@functions_framework.cloud_event
def retry_failed_archive_job(event: CloudEvent) -> None:
    failed = json.loads(base64.b64decode(event.data["message"]["data"]))
    credentials = credentials_of(failed["userId"])
    credentials.refresh(refreshing)
    url = f"{ENDPOINT}/v1/archiveJobs/{failed['archiveJobId']}:retry"
    answer = session.post(url, headers={"Authorization": f"Bearer {credentials.token}"}, timeout=60)
    answer.raise_for_status()
    new_job = answer.json()["archiveJobId"]
    publish({"archiveJobId": new_job, "retriedArchiveJobId": failed["archiveJobId"], "userId": failed["userId"]})
