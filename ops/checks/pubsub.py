"""Topics with their schemas, and subscriptions with their push accounts."""

from typing import Any

from google.api_core.exceptions import GoogleAPIError, InvalidArgument, NotFound
from google.pubsub_v1.services.schema_service.async_client import SchemaServiceAsyncClient
from google.pubsub_v1.types import Subscription, Topic, ValidateMessageRequest

from handlers.domain.events import encode
from handlers.domain.messages import ArchiveJobRetried, RetryRejected
from handlers.domain.outcomes import StepError
from handlers.google.grpc_errors import to_step_error
from ops.checks import BOOTSTRAP, DEPLOY, Check, CheckResult, failed, not_checked, ok
from ops.checks.rest import Get
from ops.cloud import Cloud

_CALL: Any = {"retry": None, "timeout": 10.0}
_IDS: Any = {"root_archive_job_id": "", "user_id": "", "credential_id": "", "attempt": 0}
_RETRIED = ArchiveJobRetried(archive_job_id="", retried_archive_job_id="", retried_at="", **_IDS)
_REJECTED = RetryRejected(reason="", detail="", rejected_at="", event="", event_encoding="text", **_IDS)
_ENDED_TEXTS = ("archiveJobId", "rootArchiveJobId", "userId", "credentialId", "state", "cause", "endedAt")
_ENDED = {**dict.fromkeys(_ENDED_TEXTS, ""), "attempt": 0}


class PubSubChecks:
    """Of the topics in the settings; the watch's only where it is deployed."""

    def __init__(self, cloud: Cloud, get: Get | None) -> None:
        self._cloud = cloud
        self._get = get
        self._project = cloud.settings.google_cloud_project

    async def pushed(self, topic: str, *, optional: bool = False) -> list[CheckResult]:
        """A topic that Pub/Sub pushes to the function from."""
        subject = f"topic {topic}"
        if await self._topic(topic) is None:
            if optional:
                return [not_checked(subject, "it is not there: the watch is not deployed")]
            return [failed(subject, "it is not there", BOOTSTRAP)]
        results = [ok(subject)]
        pushes = await self._pushes(topic)
        if not pushes:
            results.append(failed(f"push from {topic}", "no subscription pushes it to the function", DEPLOY))
        for subscription in pushes:
            results += await self._push(subscription)
        return results

    async def published(self, topic: str, sample: bytes, *, optional: bool = False) -> list[CheckResult]:
        """A topic that the function publishes messages like this one to."""
        subject, found = f"topic {topic}", await self._topic(topic)
        if found is None:
            return [] if optional else [failed(subject, "it is not there", BOOTSTRAP)]
        results = [await self._schema(topic, found, sample)]
        return results + await self._heard(topic, "what is published there is lost")

    async def followed(self, topic: str, started: str) -> list[CheckResult]:
        """Follow-ups, which Pub/Sub pushes to the watch from a topic that others read too. Where it is deployed, what
        the started topic is pushed to tells its address.
        """
        if await self._topic(topic) is None or await self._topic(started) is None:
            return []
        watch = {subscription.push_config.push_endpoint for subscription in await self._pushes(started)}
        pushes = [one for one in await self._pushes(topic) if one.push_config.push_endpoint in watch]
        if watch and not pushes:
            said = "no subscription pushes it: nobody is told how a retried job ends"
            return [failed(f"push from {topic} to the watch", said, DEPLOY)]
        return [result for subscription in pushes for result in await self._push(subscription)]

    async def _push(self, subscription: Any) -> list[CheckResult]:
        """https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions"""
        subject = f"subscription {_short(subscription.name)}"
        push, policy = subscription.push_config, subscription.dead_letter_policy
        account = push.oidc_token.service_account_email
        if subscription.state == Subscription.State.RESOURCE_ERROR:
            return [
                failed(
                    subject, "Pub/Sub cannot use it: a resource that it needs is gone", f"{BOOTSTRAP} Then: {DEPLOY}"
                )
            ]
        if push.push_endpoint.startswith("https:") and not account:
            said = "it pushes without an account, so the function turns every delivery away"
            return [failed(subject, said, DEPLOY)]
        if not policy.dead_letter_topic:
            return [failed(subject, "it has no dead-letter topic: what is never delivered is lost", DEPLOY)]
        if gone := account and await self._is_gone(account):
            return [failed(subject, f"it pushes as {account}, which is {gone}", "Make or enable the account again.")]
        said = f"pushes as {account}" if account else "pushes without an account, in the clear"
        name = _short(policy.dead_letter_topic)
        if await self._topic(policy.dead_letter_topic) is None:
            return [ok(subject, said), failed(f"topic {name}", "it is not there: dead letters go nowhere", BOOTSTRAP)]
        return [ok(subject, said), *await self._heard(policy.dead_letter_topic, "dead letters are lost")]

    async def _is_gone(self, account: str) -> str:
        """What is wrong with it, as far as one may see."""
        if self._get is None:
            return ""
        try:
            status, found = await self._get(f"https://iam.googleapis.com/v1/projects/-/serviceAccounts/{account}")
        except StepError:
            return ""
        disabled = status == 200 and found.get("disabled")
        return "not there" if status == 404 else "disabled" if disabled else ""

    async def _heard(self, topic: str, otherwise: str) -> list[CheckResult]:
        subject = f"subscriptions of {_short(topic)}"
        names = [_short(name) for name in await self._subscriptions(topic)]
        return [ok(subject, ", ".join(names)) if names else failed(subject, f"there is none: {otherwise}", BOOTSTRAP)]

    async def _schema(self, topic: str, found: Topic, sample: bytes) -> CheckResult:
        """Pub/Sub itself says whether it would take such a message."""
        subject, settings = f"topic {topic}", found.schema_settings
        name = _short(settings.schema)
        if not name:
            return ok(subject, "without a schema")
        request = ValidateMessageRequest(
            parent=f"projects/{self._project}", name=settings.schema, message=sample, encoding=settings.encoding
        )
        emulator = self._cloud.settings.pubsub_emulator_host
        client = await self._cloud.clients.client(SchemaServiceAsyncClient, emulator)
        gone = failed(subject, "its schema is deleted: Pub/Sub takes no message", BOOTSTRAP)
        if name == "_deleted-schema_":
            return gone
        try:
            await client.validate_message(request, **_CALL)
        except NotFound:
            return gone
        except InvalidArgument as error:
            said = f"its schema {name} refuses the function's messages: {error.message}"
            return failed(subject, said, "Give it a revision with all of their fields: infra/schemas/.")
        except GoogleAPIError as error:
            raise to_step_error(error, f"asking the schema {name}") from None
        return ok(subject, f"its schema {name} fits")

    async def _topic(self, topic: str) -> Topic | None:
        client = await self._cloud.clients.publisher()
        try:
            found: Topic = await client.get_topic(topic=self._name(topic), **_CALL)
        except NotFound:
            return None
        except GoogleAPIError as error:
            raise to_step_error(error, f"looking for topic {topic}") from None
        return found

    async def _subscriptions(self, topic: str) -> list[str]:
        """Their full names. Those of a product may be in a project of its own, whose settings nobody here may see."""
        publisher = await self._cloud.clients.publisher()
        try:
            return [name async for name in await publisher.list_topic_subscriptions(topic=self._name(topic), **_CALL)]
        except GoogleAPIError as error:
            raise to_step_error(error, f"listing the subscriptions of {topic}") from None

    async def _pushes(self, topic: str) -> list[Any]:
        """The project's own subscriptions that push."""
        names, subscriber = await self._subscriptions(topic), self._cloud.subscriber
        own = [name for name in names if name.startswith(f"projects/{self._project}/")]
        try:
            found = [await (await subscriber()).get_subscription(subscription=name, **_CALL) for name in own]
        except GoogleAPIError as error:
            raise to_step_error(error, f"reading the subscriptions of {topic}") from None
        return [one for one in found if one.push_config.push_endpoint]

    def _name(self, topic: str) -> str:
        return topic if "/" in topic else f"projects/{self._project}/topics/{topic}"


def pubsub_checks(cloud: Cloud, get: Get | None) -> list[tuple[str, Check]]:
    checks, settings = PubSubChecks(cloud, get), cloud.settings
    failed_topic, started, ended = settings.failed_topic, settings.started_topic, settings.ended_topic
    retried, rejected = settings.retried_topic, settings.rejected_topic
    return [
        (f"topic {failed_topic}", lambda: checks.pushed(failed_topic)),
        (f"topic {retried}", lambda: checks.published(retried, encode(_RETRIED))),
        (f"topic {rejected}", lambda: checks.published(rejected, encode(_REJECTED))),
        (f"topic {started}", lambda: checks.pushed(started, optional=True)),
        (f"push from {retried} to the watch", lambda: checks.followed(retried, started)),
        (f"topic {ended}", lambda: checks.published(ended, encode(_ENDED), optional=True)),
    ]


def _short(name: str) -> str:
    return name.rpartition("/")[2]
