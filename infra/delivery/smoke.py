"""Send one event through the deployed function, and wait for the answer that it has to give.

The event is of the canary credential, whose refresh token is made up, so that the answer is a rejection:
REAUTHORIZATION_REQUIRED because of INVALID_GRANT. To get there the event has to be pushed, the secret read by the
prefix and with the right to read it, Google asked with an OAuth client that it knows, and the rejection published.
Nothing of a real user is touched, and Google's Data Portability API is not called.

Exit code 0 when the answer came in time; else 1, and what to look at. It needs `gcloud` for its account's token, and no
package: what the pipeline runs with its rights is this project's code and Google's, and nobody else's.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

CANARY = "deployment-smoke-test"  # infra/function.tf and infra/bootstrap/ name it too
TOPIC = "archive-job-failed"
SUBSCRIPTION = "archive-job-retry-smoke"
EXPECTED = ("REAUTHORIZATION_REQUIRED", "INVALID_GRANT")
_CALL_SECONDS = 20.0  # a pull without messages comes back empty-handed after this
_PAUSE_SECONDS = 5.0
_FORGOTTEN = timedelta(hours=1)  # no smoke test waits for an answer that long


class Failed(Exception):
    """The function did not do what it has to. The text is for the person who deploys it."""


class NotYet(Exception):
    """Pub/Sub did not do what it was asked. Rights that are minutes old do not reach everywhere: it is asked again."""


class PubSub:
    """The calls of Pub/Sub's REST API that are needed, on Google or on its emulator (PUBSUB_EMULATOR_HOST)."""

    def __init__(self, project: str) -> None:
        emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
        self._address = f"http://{emulator}" if emulator else "https://pubsub.googleapis.com"
        self._project = project
        self._headers = {"Content-Type": "application/json"}
        if not emulator:
            self._headers["Authorization"] = f"Bearer {_access_token()}"

    def call(self, resource: str, verb: str, seconds: float = _CALL_SECONDS, **body: object) -> dict[str, Any]:
        """One call on `topics/T` or `subscriptions/S`. Raises NotYet, or TimeoutError."""
        url = f"{self._address}/v1/projects/{self._project}/{resource}:{verb}"
        request = urllib.request.Request(url, json.dumps(body).encode(), self._headers)  # noqa: S310 an address of ours
        try:
            try:
                with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 as above
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(2000).decode(errors="replace")
                raise NotYet(f"{resource}:{verb}: {error.code} {said}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # a long poll may break off anywhere
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise TimeoutError from None
            raise NotYet(f"{resource}:{verb}: {reason!r}") from None


def _access_token() -> str:
    done = subprocess.run(["gcloud", "auth", "print-access-token"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"The smoke test has no account: {done.stderr.strip()}")
    return done.stdout.strip()


def check(project: str, build: str, seconds: float) -> str:
    """Publish the event, wait for its rejection; gives a sentence on how it went. Raises Failed."""
    job = f"smoke-test-{build}-{int(time.time())}"  # its own at each try: the ledger remembers the others
    started = time.monotonic()
    pubsub, deadline = PubSub(project), started + seconds
    event = json.dumps({"archiveJobId": job, "userId": CANARY, "credentialId": CANARY}).encode()
    message = {"data": base64.b64encode(event).decode()}
    rejection, published, trouble = None, False, ""
    while rejection is None and (left := deadline - time.monotonic()) > 0:
        try:
            if not published:
                pubsub.call(f"topics/{TOPIC}", "publish", messages=[message])
                published = True
            rejection = _pulled(pubsub, job, min(left, _CALL_SECONDS))
        except TimeoutError:
            continue
        except NotYet as again:
            trouble = f"\nPub/Sub said last: {again}"
            time.sleep(min(_PAUSE_SECONDS, max(0.0, deadline - time.monotonic())))
    if rejection is None:
        raise Failed(
            f"No answer to {job} within {seconds:g} s.{trouble}\nWhat the function says:\n"
            f"  gcloud logging read 'jsonPayload.archiveJobId=\"{job}\" OR severity>=ERROR' "
            f"--project={project} --freshness=1h\n"
            f"What is broken, with the remedy:\n"
            f"  make ops ARGS='check --project {project} --database archive-job-retry'"
        )
    answer = (rejection.get("reason"), rejection.get("cause"))
    if answer != EXPECTED:
        raise Failed(f"{job} was answered with {_words(answer)}, not {_words(EXPECTED)}: {rejection.get('detail')}")
    return f"{job}: {_words(EXPECTED)} after {time.monotonic() - started:.1f} s, as it should be."


def _words(answer: tuple[object, object]) -> str:
    return " ".join(str(word) for word in answer if word)


def _pulled(pubsub: PubSub, job: str, seconds: float) -> dict[str, object] | None:
    """The job's rejection, if it is among what waits. What another smoke test may wait for goes back at once."""
    subscription = f"subscriptions/{SUBSCRIPTION}"
    received = pubsub.call(subscription, "pull", seconds, maxMessages=100).get("receivedMessages", [])
    rejection: dict[str, object] | None = None
    done: list[str] = []
    for each in received:
        attributes = each["message"].get("attributes", {})
        if attributes.get("userId") != CANARY:
            continue  # only where the subscription has no filter
        data = json.loads(base64.b64decode(each["message"].get("data", "") or "e30="))
        age = datetime.now(UTC) - datetime.fromisoformat(each["message"]["publishTime"])
        if data.get("archiveJobId") == job:
            rejection = data
        elif age < _FORGOTTEN and attributes.get("eventType") != "schema-probe":  # which deploy.py sends
            continue
        done.append(each["ackId"])
    others = [each["ackId"] for each in received if each["ackId"] not in done]
    with contextlib.suppress(NotYet, TimeoutError):  # they come again; the answer might not
        if others:
            pubsub.call(subscription, "modifyAckDeadline", ackIds=others, ackDeadlineSeconds=0)
        if done:
            pubsub.call(subscription, "acknowledge", ackIds=done)
    if rejection is None:
        time.sleep(0.2)
    return rejection


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
