"""All checks, in the order of an event's way."""

from datetime import datetime

from handlers.domain.outcomes import StepError
from handlers.google.http_client import HttpClient
from ops.checks import CheckResult, failed, ok, run
from ops.checks.grants import grant_checks
from ops.checks.ledger import ledger_checks
from ops.checks.pubsub import pubsub_checks
from ops.checks.rest import Get, authorised_get, rest_checks
from ops.cloud import Cloud, explain


async def run_all(
    cloud: Cloud, now: datetime, *, user: str = "", region: str = "", get: Get | None = None
) -> list[CheckResult]:
    """`get` is for calls that no client library at hand makes; by default the operator's own."""
    results, http = [], HttpClient()
    try:
        if cloud.uses_google:
            try:
                await cloud.account.credentials()
            except StepError as fault:
                return [failed("credentials", explain(fault, cloud.settings), "Without them nothing can be looked at.")]
            results.append(ok("credentials"))
            get = get or authorised_get(cloud.account, http)
        return results + await run(
            cloud,
            [
                *pubsub_checks(cloud, get),
                *ledger_checks(cloud, now),
                *grant_checks(cloud, http, user),
                *rest_checks(cloud, get, region),
            ],
        )
    finally:
        await http.close()
