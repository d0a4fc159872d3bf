"""What the client libraries at hand do not reach: whether the API is enabled, the schedule's job, the push accounts."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import msgspec

from handlers.domain.outcomes import Transient
from handlers.google.account import Account
from handlers.google.http_client import HttpClient, HttpResponse
from ops.checks import DEPLOY, Check, CheckResult, failed, not_checked, ok
from ops.cloud import Cloud

_TIMEOUT = 10.0  # seconds
_JOB = "archive-job-retry-resume"  # infra/resume.tf

Get = Callable[[str], Awaitable[tuple[int, Any]]]  # a URL → status and JSON


def authorised_get(account: Account, http: HttpClient) -> Get:
    """Calls with the operator's own credentials. Raises Transient or Misconfigured."""

    async def get(url: str) -> tuple[int, Any]:
        headers: dict[str, str] = {}
        (await account.credentials()).apply(headers)
        answer = await http.request("GET", url, headers=headers, body=b"", seconds=_TIMEOUT)
        host = url.split("/")[2]
        if not isinstance(answer, HttpResponse):
            raise Transient(f"{host} did not answer: {answer.detail}")
        try:
            return answer.status, msgspec.json.decode(answer.body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise Transient(f"{host} did not answer with a JSON object") from None

    return get


def rest_checks(cloud: Cloud, get: Get | None, region: str) -> list[tuple[str, Check]]:
    """`get` is None where only emulators are used."""
    return [
        ("API enabled", lambda: _enabled(cloud.settings.google_cloud_project, get)),
        ("schedule", lambda: _schedule(cloud.settings.google_cloud_project, get, region)),
    ]


async def _enabled(project: str, get: Get | None) -> list[CheckResult]:
    subject, api = "API enabled", "dataportability.googleapis.com"
    if get is None:
        return [not_checked(subject, "emulators are used")]
    status, content = await get(f"https://serviceusage.googleapis.com/v1/projects/{project}/services/{api}")
    if status != 200:
        return [_refused(subject, "Service Usage", status, "roles/serviceusage.serviceUsageViewer")]
    if content.get("state") == "ENABLED":
        return [ok(subject)]
    return [failed(subject, f"{api} is {content.get('state')}", f"gcloud services enable {api} --project={project}")]


async def _schedule(project: str, get: Get | None, region: str) -> list[CheckResult]:
    subject = "schedule"
    if get is None or not region:
        return [not_checked(subject, "emulators are used" if get is None else "name its region: --region")]
    where = f"--location={region} --project={project}"
    name = f"projects/{project}/locations/{quote(region, safe='')}/jobs/{_JOB}"
    status, job = await get(f"https://cloudscheduler.googleapis.com/v1/{name}")
    if status == 404:
        return [failed(subject, f"there is no job {_JOB} in {region}", DEPLOY)]
    if status != 200:
        return [_refused(subject, "Cloud Scheduler", status, "roles/cloudscheduler.viewer")]
    if job.get("state") != "ENABLED":
        return [failed(subject, f"it is {job.get('state')}", f"gcloud scheduler jobs resume {_JOB} {where}")]
    if code := job.get("status", {}).get("code"):
        said = f"its last run failed (code {code})"
        return [failed(subject, said, "Look at the log lines of archive-job-retry-resume.")]
    return [ok(subject, f"{job.get('schedule')}, last run {job.get('lastAttemptTime', 'never')}")]


def _refused(subject: str, service: str, status: int, role: str) -> CheckResult:
    return not_checked(subject, f"{service} answers {status}: does your account lack {role}?")
