"""A broken run in a few lines, for a person: what it takes to break it, and a line for each stretch of a delivery."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from math import inf

from handlers.bootstrap import Container
from tests.simulation.deviations import Rehearsal, shrunk
from tests.simulation.record import (
    Answered,
    CallAnswered,
    CallArrived,
    DeadLettered,
    Delivered,
    Effect,
    EventPublished,
    FaultOfOurs,
    FollowUp,
    Froze,
    GrantChanged,
    Instance,
    Rejection,
    Resumed,
    Trouble,
    Written,
)
from tests.simulation.watch_record import (
    EndTold,
    FailureTold,
    LookAnswered,
    LookSent,
    StartedPublished,
    StateChanged,
)
from tests.simulation.world import Run, World

MOST_LINES = 15
_AT = re.compile(r" \(at ([\d.]+)\)$")
_AT_THE_END = ("vanished", "was neither")  # what is seen when all is over
_WIDTH = 160


def of_seed(seed: int, kind: type[Container] = Container, world: type[World] = World) -> str:
    """What is left of the seed's run when it is shrunk."""
    run, needed = shortest(seed, kind, world)
    heading = (
        f"Seed {seed} breaks an invariant: {needed} of what went wrong in it are enough (its whole history: WHOLE=1)"
    )
    return told(heading, run.violations, run.record.effects)


def shortest(seed: int, kind: type[Container] = Container, world: type[World] = World) -> tuple[Run, int]:
    """A run with as few deviations as break one of the seed's broken promises, and how many these are."""
    promises = sorted({_promise(violation) for violation in world(seed, kind).run().violations})

    def again(rehearsal: Rehearsal) -> Run:
        return world(seed, kind, rehearsal).run()

    found = [shrunk(seed, again, partial(_is_broken, promise)) for promise in promises]
    run, rehearsal = min(found, key=lambda one: len(one[1].happened))
    return run, len(rehearsal.happened)


def _is_broken(promise: str, run: Run) -> bool:
    return any(_promise(violation) == promise for violation in run.violations)


def _promise(violation: str) -> str:
    """Which one is broken, whoever breaks it."""
    return re.sub(r"[a-z]*[\d.#'-]*\d", "#", violation)


def told(heading: str, violations: Sequence[str], effects: Sequence[Effect]) -> str:
    """What was broken, and how it came to that."""
    first = min(violations, key=_broken_at)
    more = f", and {len(violations) - 1} more" if len(violations) > 1 else ""
    head = [*heading.splitlines(), f"  - {first}{more}"]
    lines = [line[:_WIDTH] for line in _stretches(_before(_broken_at(first), effects))]
    most = MOST_LINES - len(head)
    if len(lines) > most:
        lines = [*lines[: most // 2], "       ...", *lines[most // 2 + 1 - most :]]
    return "\n".join(head + lines)


def _broken_at(violation: str) -> float:
    found = _AT.search(violation)
    return float(found[1]) if found and not any(words in violation for words in _AT_THE_END) else inf


def _before(moment: float, effects: Iterable[Effect]) -> list[Effect]:
    return [effect for effect in effects if effect.at <= moment + 0.0005]


def _stretches(effects: Iterable[Effect]) -> list[str]:
    """What each delivery did until somebody else did something."""
    stretches: list[tuple[float, str, list[str]]] = []
    hosts: dict[str, str] = {}
    for effect in effects:
        if isinstance(effect, Delivered):
            hosts[effect.delivery] = effect.instance
        words, actor = _words(effect), _actor(effect)
        if words:
            before = stretches[-1][1] if stretches else ""
            if actor not in (before, hosts.get(before)):
                stretches.append((effect.at, actor, []))
            stretches[-1][2].append(words)
    lines = []
    for said, alike in groupby(((at, who, _joined(words)) for at, who, words in stretches), lambda one: one[2]):
        (at, who, _), *others = alike
        whose = f"{who} at {hosts[who]}" if who in hosts else who
        lines.append(f"{at:11.3f}  {whose}{f' and {len(others)} more' if others else ''}: {said}")
    return lines


def _joined(words: Sequence[str]) -> str:
    counted = ((word, len(list(alike))) for word, alike in groupby(words))
    return ", ".join(f"{word} ({number} times)" if number > 1 else word for word, number in counted)


def _actor(effect: Effect) -> str:
    """The delivery, or whoever else."""
    match effect:
        case CallAnswered(call=call) | CallArrived(call=call):
            return call.partition("/")[0]
        case Trouble(instance=instance):
            return instance
        case Instance(name=name) | Froze(name=name):
            return name
        case Resumed(run=run):
            return run
    return getattr(effect, "delivery", "") or "the world"


def _words(effect: Effect) -> str:
    """In a few words, what happened; "" for what need not be told."""
    match effect:
        case EventPublished(message=message, job=job, put_back_by=run):
            return f"{message} says that {job or 'something'} failed{' (put back)' * bool(run)}"
        case Written(delivery=delivery, job=job, before=before, after=after) if delivery or before:
            was = f"{before.state} → " if before else ""
            new = after.new_job or after.cause or after.reason
            return f"{job} {was}{after.state}" + (f" ({new})" if new and after.state != "open" else "")
        case CallArrived(job=job, new_job=new_job):
            return f"retry of {job} arrives" + (f" and makes {new_job}" if new_job else "")
        case CallAnswered(meaning=meaning):
            return f"its answer: {meaning}"
        case StartedPublished(message=message, job=job, put_back_by=run):
            return f"{message} says that {job or 'something'} started{' (put back)' * bool(run)}"
        case StateChanged(job=job, state=state):
            return f"{job} is {state}"
        case LookSent(job=job):
            return f"look at {job}"
        case LookAnswered(state=state, cause=cause, until=until):
            return f"its answer: {state or cause or ('later' if until else 'none')}"
        case EndTold(state=state, cause=cause):
            return f"ended event {state}{f' ({cause})' if cause else ''}"
        case FailureTold():
            return "failed event"
        case FollowUp(new_job=new_job, attempt=attempt):
            return f"follow-up {new_job} (attempt {attempt})"
        case Rejection(reason=reason, cause=cause):
            return f"rejection {cause or reason}"
        case Answered(status=status, bug=bug) | Resumed(status=status, bug=bug):
            return bug or str(status)
        case DeadLettered(message=message):
            return f"{message} becomes a dead letter"
        case Trouble(service=service, what=what):
            return f"!{service}: {what}"
        case Froze(seconds=seconds):
            return f"!stands still for {seconds:.0f} s"
        case Instance(what=what) if not what.startswith("starts"):
            return f"!{what}"
        case GrantChanged(at=at, credential=credential, good=good) if at or not good:
            return f"{credential} is {'good' if good else 'not good'}"
        case FaultOfOurs(what=what, wrong=True):
            return f"!{what} is wrong"
    return ""
