"""Send one event through the deployed function, and wait for the answer that it has to give.

The event is of a user who does not exist, so the answer is a rejection, REAUTHORIZATION_REQUIRED: to get there the
event has to be pushed, the claim written to the ledger, the user's secret looked for with the right to look for it,
and the rejection published. Nothing of a real user is touched, and Google's Data Portability API is not called.

Exit code 0 when the answer came in time; else 1, and what to look at.
"""

import argparse
import json
import os
import sys
import time

from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError, ServiceUnavailable
from google.auth.exceptions import GoogleAuthError

# these, unlike google.pubsub_v1's, find Google's emulator by PUBSUB_EMULATOR_HOST
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient  # type: ignore[import-untyped]
from google.pubsub_v1 import ReceivedMessage

USER = "deployment-smoke-test"  # infra/subscriptions.tf keeps this user's rejections apart
TOPIC = "archive-job-failed"
SUBSCRIPTION = "archive-job-retry-smoke"
EXPECTED = "REAUTHORIZATION_REQUIRED"
_CALL_SECONDS = 20.0  # a pull without messages comes back empty-handed after this


class Failed(Exception):
    """The function did not do what it has to. The text is for the person who deploys it."""


def check(project: str, build: str, seconds: float) -> str:
    """Publish the event, wait for its rejection; gives a sentence on how it went. Raises Failed."""
    job = f"smoke-test-{build}-{int(time.time())}"  # its own at each try: the ledger remembers the others
    started = time.monotonic()
    event = json.dumps({"archiveJobId": job, "userId": USER}).encode()
    try:
        PublisherClient().publish(f"projects/{project}/topics/{TOPIC}", event).result(_CALL_SECONDS)
        rejection = _await(f"projects/{project}/subscriptions/{SUBSCRIPTION}", job, started + seconds)
    except (GoogleAPICallError, GoogleAuthError, TimeoutError) as error:
        raise Failed(f"The smoke test could not use Pub/Sub: {error}") from None
    took = time.monotonic() - started
    if rejection is None:
        raise Failed(
            f"No answer to {job} within {seconds:g} s. What the function says:\n"
            f"  gcloud logging read 'jsonPayload.archiveJobId=\"{job}\" OR severity>=ERROR' "
            f"--project={project} --freshness=1h"
        )
    if rejection.get("reason") != EXPECTED:
        raise Failed(f"{job} was answered with {rejection.get('reason')}, not {EXPECTED}: {rejection.get('detail')}")
    return f"{job}: {EXPECTED} after {took:.1f} s, as it should be."


def _await(subscription: str, job: str, deadline: float) -> dict[str, object] | None:
    subscriber = SubscriberClient()
    while (left := deadline - time.monotonic()) > 0:
        try:
            pulled = subscriber.pull(
                subscription=subscription, max_messages=100, retry=None, timeout=min(left, _CALL_SECONDS)
            )
        except (DeadlineExceeded, ServiceUnavailable):
            continue
        tests = [received for received in pulled.received_messages if received.message.attributes.get("userId") == USER]
        theirs = [received for received in pulled.received_messages if received not in tests]
        if tests:
            subscriber.acknowledge(subscription=subscription, ack_ids=_ids(tests), timeout=_CALL_SECONDS)
        if theirs:  # only where the subscription has no filter; they go back at once
            subscriber.modify_ack_deadline(
                subscription=subscription, ack_ids=_ids(theirs), ack_deadline_seconds=0, timeout=_CALL_SECONDS
            )
        for rejection in map(_data, tests):
            if rejection.get("archiveJobId") == job:
                return rejection
        time.sleep(0.2)
    return None


def _ids(messages: list[ReceivedMessage]) -> list[str]:
    return [received.ack_id for received in messages]


def _data(received: ReceivedMessage) -> dict[str, object]:
    data: dict[str, object] = json.loads(received.message.data)
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=os.environ.get("PROJECT_ID"), help="default: $PROJECT_ID")
    parser.add_argument("--build", default=os.environ.get("BUILD_ID", "by-hand"), help="default: $BUILD_ID")
    # After a first deployment, rights take minutes to reach everywhere, and Pub/Sub backs off between its tries.
    parser.add_argument("--seconds", type=float, default=420, help="how long to wait for the answer (default: 420)")
    arguments = parser.parse_args()
    if not arguments.project:
        parser.error("the project is missing: --project or PROJECT_ID")
    try:
        sys.stdout.write(f"{check(arguments.project, arguments.build, arguments.seconds)}\n")
    except Failed as failed:
        sys.exit(str(failed))


if __name__ == "__main__":
    main()
