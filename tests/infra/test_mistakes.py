"""Each deliberate mistake in a copy of infra/ breaks the rule that is there against it.

To save time, one plan shows many mistakes: those of a round, which do not get in each other's way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.infra import monitoring, rules
from tests.infra.terraform import Module, Plan


@dataclass(frozen=True, slots=True)
class Mistake:
    what: str
    file: str
    old: str
    new: str
    breaks: Callable[[Plan], rules.Problems]
    said: str
    round: int = 1


_DEAD_LETTERS = """  dead_letter_policy {
    dead_letter_topic     = "projects/${var.project_id}/topics/${each.value.dead}"
    max_delivery_attempts = var.max_delivery_attempts
  }
"""
_OIDC = """
    oidc_token {
      service_account_email = local.accounts["invoke"]
      audience              = google_cloudfunctions2_function.this[each.value.function].service_config[0].uri
    }
"""
_CLIENT = """  secret_id = google_secret_manager_secret.this["client"].secret_id
  role      = "roles/secretmanager.secretAccessor"
"""
_TOKENS = """
  condition {
    title       = "refresh tokens only"
    description = "Secrets whose id begins with ${local.tokens.id}"
    expression  = "resource.name.startsWith(\\"${local.tokens_begin}\\")"
  }
}
"""
MISTAKES = (
    Mistake("dead letters dropped", "subscriptions.tf", _DEAD_LETTERS, "", rules.nothing_is_lost, "no dead-letter"),
    Mistake(
        "dead letters of another topic",
        "subscriptions.tf",
        'dead = "archive-job-dead"',
        'dead = "archive-job-deaf"',
        rules.attached_to_topics_that_are_made,
        "no topic archive-job-deaf",
        round=2,
    ),
    Mistake(
        "dead letters that nobody can read",
        "bootstrap/subscriptions.tf",
        'archive-job-dead           = { topic = "archive-job-dead", filter = "" }',
        "",
        rules.nothing_is_lost,
        "archive-job-dead can land nowhere",
        round=2,
    ),
    Mistake(
        "back-off shortened",
        "subscriptions.tf",
        'maximum_backoff = "600s"',
        'maximum_backoff = "60s"',
        rules.nothing_is_lost,
        "backed off",
    ),
    Mistake("no token shown", "subscriptions.tf", _OIDC, "", rules.private, "shows no token"),
    Mistake(
        "the function in the open",
        "function.tf",
        "ALLOW_INTERNAL_ONLY",
        "ALLOW_ALL",
        rules.private,
        "from the internet",
        round=2,
    ),
    Mistake(
        "allUsers may invoke",
        "bootstrap/accounts.tf",
        'member  = local.members["invoke"]',
        'member  = "allUsers"',
        rules.private,
        "granted to the public",
    ),
    Mistake(
        "condition on the tokens dropped",
        "bootstrap/secrets.tf",
        _TOKENS,
        "}\n",
        rules.nothing_on_the_whole_project_without_a_reason,
        "run has roles/secretmanager.secretAccessor on the whole project",
    ),
    Mistake(
        "condition on the tokens widened",
        "bootstrap/secrets.tf",
        'secrets/${local.tokens.id}"',
        'secrets/"',
        rules.grants_are_what_is_used,
        "Too much: ('project', 'run', 'roles/secretmanager.secretAccessor'",
        round=2,
    ),
    Mistake(
        "an editor",
        "bootstrap/accounts.tf",
        "roles/logging.logWriter",
        "roles/editor",
        rules.nothing_on_the_whole_project_without_a_reason,
        "deploy has roles/editor",
        round=2,
    ),
    Mistake(
        "a right that nothing uses",
        "bootstrap/topics.tf",
        'run    = ["archive-job-retried", ',
        'run    = ["archive-job-dead", "archive-job-retried", ',
        rules.grants_are_what_is_used,
        "Too much: ('topic archive-job-dead', 'run'",
    ),
    Mistake(
        "the right to write traces that are off",
        "bootstrap/accounts.tf",
        "var.cloud_trace ? local.functions : []",
        "local.functions",
        rules.grants_are_what_is_used,
        "Too much: ('project', 'run', 'roles/telemetry.tracesWriter'",
    ),
    Mistake(
        "a right dropped",
        "bootstrap/secrets.tf",
        _CLIENT,
        _CLIENT.replace("secretAccessor", "viewer"),
        rules.grants_are_what_is_used,
        "Missing: ('secret dataportability-oauth-client', 'run', 'roles/secretmanager.secretAccessor'",
        round=2,
    ),
    Mistake(
        "writers of tokens who can read them",
        "bootstrap/people.tf",
        "roles/secretmanager.secretVersionManager",
        "roles/secretmanager.secretAccessor",
        rules.grants_are_what_is_used,
        "Too much: ('project', 'product', 'roles/secretmanager.secretAccessor'",
    ),
    Mistake(
        "messages anywhere",
        "bootstrap/topics.tf",
        "allowed_persistence_regions = local.storage_regions",
        'allowed_persistence_regions = ["us-east1"]',
        rules.data_stays_in_its_regions,
        "archive-job-failed may rest anywhere",
    ),
    Mistake(
        "events that are gone with their subscription",
        "bootstrap/topics.tf",
        'contains(local.pushed, each.key) ? "604800s" : null',
        "null",
        rules.nothing_is_lost,
        "What archive-job-failed has taken cannot be delivered again",
    ),
    Mistake(
        "submissions for ever",
        "bootstrap/buckets.tf",
        "for_each = each.value.days[*]",
        "for_each = []",
        rules.what_is_old_is_deleted,
        "archive-job-retry-submitted grows for ever",
    ),
    Mistake(
        "images for ever",
        "bootstrap/images.tf",
        'action = "DELETE"',
        'action = "KEEP"',
        rules.what_is_old_is_deleted,
        "Images grow for ever",
    ),
    Mistake(
        "the lease shortened in the function alone",
        "function.tf",
        "CLAIM_LEASE_SECONDS           = tostring(var.claim_lease_seconds)",
        'CLAIM_LEASE_SECONDS           = "100"',
        rules.times_are_ordered,
        "above the claim's lease",
    ),
    Mistake(
        "a variable that the code does not know",
        "function.tf",
        "RETRY_BUDGET  ",
        "RETRY_BUGDET  ",
        rules.environment_is_the_settings,
        "RETRY_BUGDET is no setting",
    ),
    Mistake(
        "an emulator in the cloud",
        "function.tf",
        'RETRY_LEDGER                  = "firestore"',
        'RETRY_LEDGER                  = "firestore"\n      PUBSUB_EMULATOR_HOST = "localhost:8085"',
        rules.environment_is_the_settings,
        "that is for tests",
        round=2,
    ),
    Mistake(
        "the ledger in memory",
        "function.tf",
        '= "firestore"',
        '= "memory"',
        rules.settings_name_what_is_made,
        "retried twice",
        round=2,
    ),
    Mistake(
        "another canary",
        "function.tf",
        'canary = "deployment-smoke-test"',
        'canary = "deployment-smoke-tests"',
        rules.settings_name_what_is_made,
        "refresh-token-deployment-smoke-tests, which is not made",
    ),
    Mistake(
        "no time to live",
        "bootstrap/firestore.tf",
        'each.value.field == "expireAt"',
        'each.value.field == "never"',
        rules.the_ledger_is_kept_and_forgotten,
        "do not expire",
    ),
    Mistake(
        "the query without its index",
        "bootstrap/firestore.tf",
        '"notBefore", "reason"',
        '"reason"',
        rules.the_ledger_is_kept_and_forgotten,
        "notBefore has no setting",
        round=2,
    ),
    Mistake(
        "all fields indexed",
        "bootstrap/firestore.tf",
        'concat(["*", "expireAt"],',
        'concat(["expireAt"],',
        rules.the_ledger_is_kept_and_forgotten,
        "ledger's * has no setting",
    ),
    Mistake(
        "a ledger without its past",
        "bootstrap/firestore.tf",
        '"POINT_IN_TIME_RECOVERY_${',
        '"POINT_IN_TIME_RECOVERY_DISABLED${0 == 1 ? "" : ""}" #${',
        rules.the_ledger_is_kept_and_forgotten,
        "cannot be read as it was",
        round=2,
    ),
    Mistake(
        "a topic without its schema",
        "bootstrap/topics.tf",
        'each.value == null ? [] : ["projects/${var.project_id}/schemas/${google_pubsub_schema.this[each.key].name}"]',
        "[]",
        rules.schemas_are_enforced,
        "messages of any form",
    ),
    Mistake(
        "a topic that takes one revision alone",
        "bootstrap/topics.tf",
        'encoding = "JSON"',
        'encoding = "JSON"\n first_revision_id = "abc"',
        rules.schemas_are_enforced,
        "no putting back",
        round=2,
    ),
    Mistake(
        "the ack deadline lowered",
        "subscriptions.tf",
        "= var.ack_deadline_seconds",
        "= 120",
        rules.times_are_ordered,
        "above the ack deadline",
        round=2,
    ),
    Mistake(
        "an alert on a metric that there is not",
        "alerts.tf",
        "subscription/oldest_unacked_message_age",
        "subscription/oldest_unacked_message_ages",
        monitoring.alerts_read_what_there_is,
        "no metric pubsub.googleapis.com/subscription/oldest_unacked_message_ages",
    ),
    Mistake(
        "a gauge taken for a counter",
        "alerts.tf",
        "ALIGN_MAX",
        "ALIGN_DELTA",
        monitoring.alerts_read_what_there_is,
        "GAUGE INT64 has no ALIGN_DELTA",
    ),
    Mistake(
        "an alert on an outcome that there is not",
        "alerts.tf",
        'outcome=\\"resumed\\"',
        'outcome=\\"resume\\"',
        monitoring.alerts_read_what_there_is,
        "no outcome resume.",
    ),
    Mistake(
        "alerts that cannot be made along with their metrics",
        "alerts.tf",
        "disable_metric_validation = true",
        "disable_metric_validation = false",
        monitoring.alerts_read_what_there_is,
        "along with its metrics",
    ),
    Mistake(
        "a notification for every line",
        "alerts.tf",
        'dynamic "notification_rate_limit" {\n      for_each = try([each.value.filter], [])',
        'dynamic "notification_rate_limit" {\n      for_each = []',
        monitoring.alerts_say_what_to_do,
        "a rate limit is for",
    ),
    Mistake(
        "an alert without its text",
        "alerts.tf",
        'content   = "${each.value.doc}\\n',
        'content   = "${each.value.says}\\n',
        monitoring.alerts_say_what_to_do,
        "names no command",
    ),
    Mistake(
        "a limit within a bucket",
        "slo.tf",
        "max = local.follow_up_within_seconds",
        "max = 500",
        monitoring.the_slo_can_be_told,
        "lies within a bucket",
    ),
    Mistake(
        "a distribution declared a count",
        "metrics.tf",
        'can(each.value.value) ? "DISTRIBUTION" : "INT64"',
        '"INT64"',
        monitoring.metrics_can_be_made,
        "has a value and buckets",
        round=2,
    ),
)


@pytest.fixture(scope="module")
def wrong_plans(module: Module, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Plan]:
    """The example's plan with all mistakes of a round made, by round."""
    plans = {}
    for made in sorted({mistake.round for mistake in MISTAKES}):
        copy = module.copy(tmp_path_factory.mktemp("mistakes") / "infra")
        for mistake in MISTAKES:
            if mistake.round == made:
                copy.replace(mistake.file, mistake.old, mistake.new)
        plans[made] = copy.whole_plan()
    return plans


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_breaks_its_rule(mistake: Mistake, wrong_plans: dict[int, Plan]) -> None:
    problems = list(mistake.breaks(wrong_plans[mistake.round]))
    assert [problem for problem in problems if mistake.said in problem], problems
