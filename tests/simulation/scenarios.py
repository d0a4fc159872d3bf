"""What is enumerated: two deliveries, of which each scenario says what they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.api_core.exceptions import FailedPrecondition


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What the two deliveries are of, and what Google does with the job.

    `second` is what is delivered beside the event: another "event" of the job, the same "message" once more, or the
    "new job" that the follow-up names, which has failed too.
    """

    about: str
    second: str = "event"
    after: float = 0.0  # seconds, until the second one
    alike: bool = False  # whether it makes no difference which of the two is the first
    instances: int = 2
    clocks: tuple[float, float] = (0.5, 0.5)  # of the instances: from 0, two minutes ahead, to 1, two minutes behind
    prefers: Sequence[object] = ()  # of what the simulation draws
    nature: str = "retryable"  # of the job
    revoked_until: float = 0.0  # seconds, until the user consents again
    budget: int = 2
    park: bool = False


SCENARIOS: Mapping[str, Scenario] = {
    "two events": Scenario(about="two events of one job, at two instances", alike=True),
    "one message twice": Scenario(about="one message that is delivered twice, at two instances", second="message"),
    "one instance": Scenario(about="two events of one job, at one instance", instances=1, alike=True),
    "while it waits": Scenario(about="a second event of the job, 40 seconds after the first", after=40.0),
    "one retry": Scenario(
        about="two events of one job, a budget of one retry, and a proxy that forbids",
        budget=1,
        prefers=(403,),
        alike=True,
    ),
    "parked": Scenario(about="two events of one job, and what is in doubt is parked", park=True, alike=True),
    "adopted": Scenario(
        about="two events of one job, and Google names the job that runs already", prefers=("adopts",), alike=True
    ),
    "denied": Scenario(
        about="a job that its grant does not cover, and a later event of it, when the access token is over",
        nature="denied",
        after=400.0,
        instances=1,
    ),
    "consent": Scenario(about="an event, the user's consent, and another event", revoked_until=50.0, after=100.0),
    "consent meanwhile": Scenario(
        about="the user's consent while a delivery looks at the old grant, and another event, at one instance",
        revoked_until=0.06,
        after=0.1,
        instances=1,
    ),
    "deferred": Scenario(
        about="a job that waits for its cooldown, and its message once more as that is over",
        nature="cools down",
        second="message",
        after=15.2,
    ),
    "put back": Scenario(
        about="a job that waits for its cooldown, and its message once more as the schedule puts it back",
        nature="cools down",
        second="message",
        after=15.4,
    ),
    "chain": Scenario(
        about="a job, and then the new job, which fails, too, on a database of the wrong kind",
        second="new job",
        after=1.0,
        prefers=(FailedPrecondition,),  # of the ledger's answers while it is set up wrongly: it looks like a conflict
    ),
    "clocks": Scenario(
        about="two events of one job, and clocks four minutes apart", clocks=(0.0, 1.0), prefers=(120.0,)
    ),
}
