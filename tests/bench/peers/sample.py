"""The peer: the same job as the samples of Google's libraries have it, synchronous and without a ledger."""

import base64
import json
import os
from functools import cache

import functions_framework
import grpc
from cloudevents.http import CloudEvent
from google.auth.transport.requests import AuthorizedSession
from google.cloud import pubsub_v1, secretmanager  # type: ignore[attr-defined,unused-ignore]
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport
from google.oauth2.credentials import Credentials

PROJECT = os.environ["GOOGLE_CLOUD_PROJECT"]
ENDPOINT = os.environ.get("DATA_PORTABILITY_API_ENDPOINT", "https://dataportability.googleapis.com")


@cache
def publisher() -> pubsub_v1.PublisherClient:
    return pubsub_v1.PublisherClient()


@cache
def secrets() -> secretmanager.SecretManagerServiceClient:
    stand_in = os.environ.get("SECRET_MANAGER_EMULATOR_HOST")
    if stand_in is None:
        return secretmanager.SecretManagerServiceClient()
    channel = grpc.insecure_channel(stand_in)  # this library knows no emulator
    return secretmanager.SecretManagerServiceClient(transport=SecretManagerServiceGrpcTransport(channel=channel))


def read_secret(secret_id: str) -> str:
    name = f"projects/{PROJECT}/secrets/{secret_id}/versions/latest"
    return secrets().access_secret_version(name=name).payload.data.decode()


@cache
def oauth_client() -> dict[str, str]:
    client: dict[str, str] = json.loads(read_secret("dataportability-oauth-client"))["web"]
    return client


@functions_framework.cloud_event
def retry_failed_archive_job(event: CloudEvent) -> None:
    failed = json.loads(base64.b64decode(event.data["message"]["data"]))
    publish(retry(failed["archiveJobId"], failed["userId"]))


def credentials_of(user_id: str) -> Credentials:
    client = oauth_client()
    return Credentials(  # type: ignore[no-untyped-call]
        None,
        refresh_token=read_secret(f"dataportability-refresh-token-{user_id}"),
        client_id=client["client_id"],
        client_secret=client["client_secret"],
        token_uri=client["token_uri"],
    )


def retry(job_id: str, user_id: str) -> dict[str, str]:
    with AuthorizedSession(credentials_of(user_id)) as session:  # type: ignore[no-untyped-call]
        answer = session.post(f"{ENDPOINT}/v1/archiveJobs/{job_id}:retry", timeout=60)
    answer.raise_for_status()
    return {"archiveJobId": answer.json()["archiveJobId"], "retriedArchiveJobId": job_id, "userId": user_id}


def publish(retried: dict[str, str]) -> None:
    topic = publisher().topic_path(PROJECT, "archive-job-retried")
    publisher().publish(topic, json.dumps(retried).encode(), userId=retried["userId"]).result()
