"""How often the alerts fire in a healthy year, from stated base rates; docs/alerts.md has the table.

Jobs come at random (Poisson). What makes an alert fire is a rejection, a late follow-up or a call in doubt that finds
enough others in its window. So the yearly number is at most that of such events, times the chance of the others.
"""

import math
from collections.abc import Callable, Mapping

VOLUMES: Mapping[str, float] = {"3 a day": 3, "30 a day": 30, "300 a day": 300, "1,000 a minute": 1_440_000}
CONSENT, OTHER, LATE, IN_DOUBT = 0.05, 0.03, 0.002, 0.002  # the base rates: shares of jobs, follow-ups and calls
_HOUR, _YEAR = 1 / 24, 365.0  # in days
_MANY = 5_000  # above so many in a window, a share that is far from its mean is bounded by Chernoff


def _poisson(mean: float, number: int) -> float:
    return math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) if mean else float(number == 0)


def _at_most(mean: float, number: int) -> float:
    return math.fsum(_poisson(mean, each) for each in range(number + 1))


def _share(jobs: float, bad: float, days: float, least: int, share: float) -> float:
    """A year's number of: in a window of so many days, at least so many bad ones, and more than this share."""
    in_window = jobs * days
    if in_window > _MANY:
        distance = share * math.log(share / bad) + (1 - share) * math.log((1 - share) / (1 - bad))
        return jobs * bad * _YEAR * math.exp(-in_window * distance)
    chance, good, counted = 0.0, 0.0, 0
    for others in range(least - 1, least + 80):
        most = math.ceil((others + 1) * (1 - share) / share)  # good ones that are too few, from none on
        good += math.fsum(_poisson(in_window * (1 - bad), each) for each in range(counted, most))
        counted = most
        chance += _poisson(in_window * bad, others) * good
    return jobs * bad * _YEAR * chance


def _all(jobs: float, bad: float, days: float, least: int) -> float:
    """A year's number of: in a window, at least so many bad ones and no good one."""
    in_window = jobs * days
    return jobs * bad * _YEAR * math.exp(-in_window * (1 - bad)) * (1 - _at_most(in_window * bad, least - 2))


def _stalled(jobs: float) -> float:
    """Two jobs wait for the hour that follows a second call in doubt, and no other is settled in fifteen minutes."""
    twice = IN_DOUBT**2
    idle = math.exp(-jobs * _HOUR / 4)
    return jobs * twice * _YEAR * (1 - math.exp(-jobs * twice * _HOUR)) * idle


ALERTS: Mapping[str, Callable[[float], float]] = {
    "stalled": _stalled,
    "last-five": lambda jobs: sum(_all(jobs, CONSENT + OTHER, days, 5) for days in (0.25, 1, 3, 7)),
    "reauthorization": lambda jobs: sum(_share(jobs, CONSENT, days, 20, 0.5) for days in (_HOUR, 1)),
    "rejections": lambda jobs: sum(_share(jobs, OTHER, days, 20, 0.5) for days in (_HOUR, 1)),
    "follow-ups-late": lambda jobs: _share(jobs, LATE, _HOUR, 3, 0.1) + _share(jobs, LATE, 1, 3, 0.02),
    "unknown-calls": lambda jobs: _share(jobs, IN_DOUBT, _HOUR, 5, 0.02),
    "oldest-event": lambda jobs: jobs * IN_DOUBT**3 * _YEAR,
}


def table() -> str:
    """Markdown: false alerts a year."""
    lines = [f"| alert | {' | '.join(VOLUMES)} |", f"| --- |{' --- |' * len(VOLUMES)}"]
    lines += [
        f"| `{name}` | {' | '.join(_told(reckon(jobs)) for jobs in VOLUMES.values())} |"
        for name, reckon in ALERTS.items()
    ]
    return "\n".join(lines)


def _told(number: float) -> str:
    return f"{number:.1f}" if number >= 0.05 else f"{number:.3f}" if number >= 0.0005 else "< 0.001"
