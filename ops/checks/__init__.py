"""What stands between an event and its follow-up, looked at one by one. Google is asked for no retry."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from handlers.domain.outcomes import StepError
from ops.cloud import SWITCHED_OFF, Cloud, explain

DEPLOY = "Deploy again: infra/ makes it."
BOOTSTRAP = "Apply infra/bootstrap again: it makes it."
_TIMEOUT = 30.0  # seconds for one check


class State(StrEnum):
    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found of one thing. `remedy` says what to do where it is not as it should be."""

    subject: str
    state: State
    detail: str = ""
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"check": self.subject, "state": self.state, "detail": self.detail, "remedy": self.remedy}


def ok(subject: str, detail: str = "") -> CheckResult:
    return CheckResult(subject, State.OK, detail)


def failed(subject: str, detail: str, remedy: str) -> CheckResult:
    return CheckResult(subject, State.FAILED, detail, remedy)


def not_checked(subject: str, detail: str) -> CheckResult:
    return CheckResult(subject, State.NOT_CHECKED, detail)


Check = Callable[[], Awaitable[list[CheckResult]]]


async def run(cloud: Cloud, checks: list[tuple[str, Check]]) -> list[CheckResult]:
    """The results of these checks, each with its subject, in their order; what two of them say is told once."""
    found = await asyncio.gather(*(_one(cloud, subject, check) for subject, check in checks))
    return list(dict.fromkeys(result for results in found for result in results))


async def _one(cloud: Cloud, subject: str, check: Check) -> list[CheckResult]:
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await check()
    except TimeoutError:
        return [failed(subject, f"no answer within {_TIMEOUT:g} s", "Is there a way from here to Google?")]
    except StepError as fault:
        if "UNIMPLEMENTED" in str(fault):
            return [not_checked(subject, "the emulator has nothing like it")]
        if "PERMISSION_DENIED" in str(fault) and SWITCHED_OFF not in str(fault):
            return [not_checked(subject, explain(fault, cloud.settings))]
        detail, _, remedy = explain(fault, cloud.settings).partition(". ")
        return [failed(subject, detail, remedy)]
