"""What the model of scale assumes: each a parameter, with its unit and where it comes from."""

import math
from dataclasses import dataclass, field
from typing import Any

PUSH = "https://cloud.google.com/pubsub/docs/push#delivery_rate"
SCALING = "https://cloud.google.com/run/docs/about-instance-autoscaling"
SECRETS = "https://cloud.google.com/secret-manager/quotas"
RAMP = "https://cloud.google.com/firestore/native/docs/best-practices#ramping_up_traffic"


def _of(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Assumed:
    """The parameters. Those of infra/ are its defaults."""

    concurrency: int = _of(80, "infra/: deliveries at once in one instance")
    max_instances: int = _of(10, "infra/: instances at most")
    back_off: float = _of(10.0, "infra/: seconds that a message waits after its first delivery in vain; doubles")
    back_off_most: float = _of(600.0, "infra/: seconds that it waits at most")
    attempts: int = _of(100, "infra/: deliveries until the dead-letter topic takes a message")
    latency: float = _of(0.5, "seconds of one delivery, most of it Google's answers: make bench")
    cpu: float = _of(0.005, "seconds of CPU of one delivery: about what make bench measures as deployed")
    target: float = _of(0.6, f"share of concurrency and CPU that Cloud Run fills before it adds instances: {SCALING}")
    pending: float = _of(10.0, f"seconds that a request waits for an instance until it is a 429: {SCALING}")
    secret: int = _of(90_000, f"accesses a minute that Secret Manager lets a project have: {SECRETS}")
    portability: int = _of(6_000, "calls a minute that the Data Portability API lets a project make: not published")
    firestore: float = _of(500.0, f"operations a second of a new collection; half more every five minutes: {RAMP}")
    jobs_a_user: float = _of(1.0, "jobs of one user that fail in the run: not known")
    remembered: int = _of(10_000, "credentials that an instance keeps: handlers/google/user_tokens.py")
    window_first: float = _of(5.0, f"pushes at once that Pub/Sub begins with, a small single digit: {PUSH}")
    window_most: float = _of(3_000.0, f"pushes at once up to which it doubles, here each second: {PUSH}")
    window_least: float = _of(5.0, "pushes at once down to which it halves, each second in which most fail: not known")
    jitter: float = _of(0.1, "share by which waits differ, since Pub/Sub keeps them by its best effort: not known")
    minutes: int = _of(10, "minutes for which jobs fail at this rate")

    @property
    def capacity(self) -> float:
        """Deliveries a second of all instances."""
        return self.max_instances * min(self.concurrency / self.latency, 1 / self.cpu)

    def running(self, pushed: float) -> int:
        """Instances for so many deliveries a second."""
        load = max(pushed * self.latency / self.concurrency, pushed * self.cpu) / self.target
        return max(1, min(self.max_instances, math.ceil(round(load, 9))))

    def beyond(self, window: float) -> int:
        """Pushes a second that no instance takes in time: of so many at once, some are in hand, and some wait."""
        at_most = self.capacity * (self.latency + self.pending)
        return int(max(0.0, window - at_most) / max(self.pending, self.latency))

    def wait(self, attempt: int) -> float:
        """Seconds to the next delivery, without the jitter."""
        return min(self.back_off * 2.0 ** (attempt - 1), self.back_off_most)

    def narrowed(self, window: float, pushed: int, in_vain: int) -> float:
        """Pub/Sub's window after a second with so many pushes."""
        if in_vain > pushed / 2:
            return max(min(window, self.window_least), window / 2)
        return min(window * 2, self.window_most) if pushed else window

    def read_anew(self, attempt: int, instances: int, users: float) -> float:
        """The share of deliveries at this attempt whose instance does not remember their user's refresh token.

        Each instance remembers for itself, and requests go to any of them.
        """
        jobs = self.jobs_a_user
        fresh = distinct(jobs * attempt, instances) - distinct(jobs * (attempt - 1), instances)
        return 1 - min(1.0, instances * self.remembered / users) * (1 - fresh / jobs)


def distinct(deliveries: float, instances: int) -> float:
    """How many different instances get so many deliveries, on average."""
    return instances * (1 - math.pow(1 - 1 / instances, deliveries))
