"""What an account can reach, by a plan: its own grants, and those of the accounts that it can act as."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.infra.terraform import Plan

# What the predefined roles that are granted hold, as far as it counts. A role that is not here cannot be reckoned with.
ROLES = {
    "roles/artifactregistry.reader": {"artifactregistry.repositories.downloadArtifacts"},
    "roles/artifactregistry.writer": {"artifactregistry.repositories.uploadArtifacts"},
    "roles/datastore.user": {"datastore.entities.get", "datastore.entities.update"},
    "roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs"},
    "roles/logging.logWriter": {"logging.logEntries.create"},
    "roles/pubsub.publisher": {"pubsub.topics.publish"},
    "roles/pubsub.subscriber": {"pubsub.subscriptions.consume", "pubsub.topics.attachSubscription"},
    "roles/run.invoker": {"run.routes.invoke"},
    "roles/secretmanager.secretAccessor": {"secretmanager.versions.access"},
    "roles/storage.objectCreator": {"storage.objects.create"},
    "roles/storage.objectUser": {"storage.objects.get", "storage.objects.list", "storage.objects.update"},
    "roles/storage.objectViewer": {"storage.objects.get", "storage.objects.list"},
    "roles/telemetry.tracesWriter": {"telemetry.traces.write"},
}


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """A permission on something; `through` is the account that holds it."""

    permission: str
    target: str
    condition: str
    through: str


def reach(plan: Plan, account: str) -> set[Right]:
    """Every right that the account can use. Raises KeyError for a role of which nothing is known."""
    rights: set[Right] = set()
    known, left = set(), {account}
    while left:
        through = left.pop()
        known.add(through)
        for target, member, role, condition in plan.grants():
            if member == through:
                rights |= {Right(held, target, condition, through) for held in _held(plan, role)}
        left = {
            right.target.removeprefix("account ") for right in rights if right.permission.endswith(".actAs")
        } - known
    return rights


def _held(plan: Plan, role: str) -> Iterable[str]:
    for custom in plan.of("project_iam_custom_role"):
        if role.endswith(f"/roles/{custom.values['role_id']}"):
            return list(custom.values["permissions"])
    return ROLES[role]
