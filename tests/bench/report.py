"""What a run of the benchmark brought, in words: for the terminal, and for docs/performance.md."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.picture import picture

PAGE, RESULT, PICTURE = Path("docs/performance.md"), Path("docs/bench.json"), Path("docs/bench.svg")
MEASURES = {
    "cpu_ms": "CPU an event, 80 in flight (ms)",
    "alone_ms": "one event alone, connections open (ms)",
    "loaded_ms": "80 in flight, p50 (ms)",
    "start_s": "start to first answer (s)",
    "memory_mb": "memory after load (MB)",
    "own_mb": "of it without mapped files (MB)",
}


def shares(result: dict[str, Any], measure: str, peer: str) -> list[float]:
    """What this function used of what the peer used, in each round."""
    rounds = result["rounds"]
    return [ours / theirs for ours, theirs in zip(rounds["this"][measure], rounds[peer][measure], strict=True)]


def told(result: dict[str, Any]) -> str:
    """Medians with their lowest and highest round, and this function as a share of each peer: a median of rounds."""
    rounds, machine = result["rounds"], result["machine"]
    lines = [f"{result['where']:46}" + "".join(f"{name:>28}" for name in rounds)]
    for measure, says in MEASURES.items():
        cells = [_spread(of[measure], ".4g") for of in rounds.values()]
        lines.append(f"{says:46}" + "".join(f"{cell:>28}" for cell in cells))
        cells = [_spread(shares(result, measure, name), ".2f") for name in rounds if name != "this"]
        lines.append(f"{'    this function, as a share':46}{'':28}" + "".join(f"{cell:>28}" for cell in cells))
    over, bare = over_the_wait(result)
    lines.append(
        f"One event alone takes {over:.1f} ms more than the stand-ins wait, "
        f"and {bare:.1f} ms more than the same calls by the same clients, one after the other."
    )
    lines += [as_deployed(result)] if result["as_deployed"] else []
    lines.append(f"Python {machine['python']}, {machine['openssl']}, {machine['authorities']} authorities")
    for name, calls in result["calls_an_event"].items():
        lines.append(f"Calls of one event, {name}: {', '.join(f'{kind} {calls[kind]:g}' for kind in sorted(calls))}")
    lines.append(f"Load average before each round: {', '.join(f'{each:.1f}' for each in machine['load_average'])}")
    if "soak" in result:
        lines.append(f"Memory in MB by events: {result['soak']}")
    return "\n".join(lines)


def over_the_wait(result: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of one event alone beyond what the stand-ins are told to wait, and beyond its calls alone."""
    alone, setting = result["rounds"]["this"]["alone_ms"], result["setting"]
    waits = sum(setting[name] for name in ("secret_s", "token_s", "retry_s")) * 1000
    bare = [ours - calls for ours, calls in zip(alone, result["bare_calls_ms"], strict=True)]
    return median(alone) - waits, median(bare)


def as_deployed(result: dict[str, Any]) -> str:
    """This function over TLS with its own account, beside the others that were measured so."""
    found: dict[str, dict[str, list[float]]] = result["as_deployed"]
    return f"As deployed: {_beside(found, 'cpu_ms', 'CPU an event', 'ms')}; {_beside(found, 'start_s', 'start', 's')}."


def _beside(found: dict[str, dict[str, list[float]]], measure: str, says: str, unit: str) -> str:
    ours = found["this"][measure]
    said = [f"{says} this {median(ours):.2f} {unit}"]
    for name, theirs in found.items():
        if name != "this":
            share = median(our / their for our, their in zip(ours, theirs[measure], strict=True))
            said.append(f"{name} {median(theirs[measure]):.2f} {unit} ({share:.2f})")
    return ", ".join(said)


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/performance.md: medians, and in brackets this function's share of the peer's."""
    peers = [name for name in result["rounds"] if name != "this"]
    lines = [f"| | this | {' | '.join(peers)} |", "| --- | ---: |" + " ---: |" * len(peers)]
    for measure, says in MEASURES.items():
        name, unit = says.rstrip(")").rsplit(" (", 1)
        cells = [f"{_figure(median(result['rounds']['this'][measure]))} {unit}"]
        for peer in peers:
            value, share = median(result["rounds"][peer][measure]), median(shares(result, measure, peer))
            cells.append(f"{_figure(value)} {unit} ({share:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    over, bare = over_the_wait(result)
    load = median(result["machine"]["load_average"])
    note = (
        f"One event alone: {over:.0f} ms above what the stand-ins wait, {bare:.1f} ms above the same calls by the same "
        f"clients, without server, use case and the ledger's protocol."
    )
    return "\n".join([*lines, "", f"{note} {as_deployed(result)} Load average {load:.0f}.", ""])


def keep(result: dict[str, Any]) -> None:
    """Put it into the repository: as values, as a picture, and as the table of docs/performance.md."""
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PICTURE.write_text(drawn(result))
    renew_table("make bench", markdown(result))


def drawn(result: dict[str, Any]) -> str:
    medians = {name: {measure: median(of[measure]) for measure in MEASURES} for name, of in result["rounds"].items()}
    return picture(medians, MEASURES)


def renew_table(command: str, table: str) -> None:
    """Put the table that this command prints into docs/performance.md, between its marks."""
    begin, end = f"<!-- {command} -->\n", f"<!-- /{command} -->"
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}{table}{end}{rest.partition(end)[2]}")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
