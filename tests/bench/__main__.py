"""`make bench`: this function and what one would write instead, side by side on the local stage.

Rounds are interleaved, so that a busy machine is unkind to all alike; what counts are the ratios.
"""

import argparse
import json
import os
import platform
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import certifi
import uvloop

from local import emulators
from local.deployed_stage import DeployedStage
from local.stage import Stage
from tests.bench import attribution, process_tree, report
from tests.bench.bare import Bare
from tests.bench.contenders import IN_FLIGHT, Contender, alone, cold_start, contenders, count_calls, load

BUILD = Path("build")
# Seconds that the services take, and what of it one event cannot do at the same time as something else.
SECRET, TOKEN, RETRY = 0.010, 0.100, 0.300
DEPLOYED = ("this", "sample", "pooled")  # measured as deployed, too; version 1.0 finds no way through the proxy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that it works")
    parser.add_argument("--parts", action="store_true", help="only which parts of the program an event's CPU goes to")
    reached = parser.add_mutually_exclusive_group()
    reached.add_argument(
        "--plain", action="store_true", help="the OAuth endpoint and the API in the clear, without TLS"
    )
    reached.add_argument("--one-file", action="store_true", help="OpenSSL reads all authorities from one file at once")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another version of this function")
    parser.add_argument("--soak", type=int, default=0, metavar="EVENTS", help="then so many events, to see a leak")
    arguments = parser.parse_args()
    installed = emulators.find()
    if not (installed.pubsub and installed.firestore):
        sys.exit(f"The benchmark needs Google's emulators: {installed.missing}.")
    with emulators.started(installed.pubsub, installed.firestore) as (pubsub, firestore):
        if arguments.parts:
            uvloop.run(bench_parts(pubsub, firestore))
            return
        result = uvloop.run(bench(pubsub, firestore, arguments))
    BUILD.mkdir(exist_ok=True)
    kinds = [kind for kind in ("plain", "one_file", "against", "quick", "soak") if getattr(arguments, kind)]
    file = BUILD / f"{'-'.join(['bench', *kinds]).replace('_', '-')}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{report.told(result)}\nAll values are in {file}.")
    if not kinds:
        report.keep(result)
        print(f"{report.RESULT}, {report.PICTURE} and the table in {report.PAGE} are of this run.")


async def bench(pubsub: str, firestore: str, options: argparse.Namespace) -> dict[str, Any]:
    """All that is measured, as the JSON has it."""
    rounds, events, single = (2, 200, 3) if options.quick else (6, 240, 5)
    latencies: dict[str, Any] = {"secret_latency": SECRET, "token_latency": TOKEN, "retry_latency": RETRY}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)  # gunicorn ends a connection after two seconds
    busy, bare_ms = [], []
    async with (
        Stage(pubsub=pubsub, firestore=firestore, tls=not options.plain, **latencies) as stage,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        bare = Bare(stage)
        await bare.milliseconds(1)  # which also reads the client file, and connects
        one_file = {"SSL_CERT_FILE": stage.environment["REQUESTS_CA_BUNDLE"]} if options.one_file else {}
        all_of_them = contenders(one_file, options.against)
        for contender in all_of_them:
            contender.server = contender.start(stage)
            await load(stage, session, contender, events // 2)
        for number in range(rounds):
            busy.append(os.getloadavg()[0])
            print(f"round {number + 1} of {rounds}, load average {busy[-1]:.1f}", file=sys.stderr)
            for contender in all_of_them:
                await load(stage, session, contender, IN_FLIGHT)  # opens the connections that are kept under load
                cpu_ms, loaded_ms = await load(stage, session, contender, events)
                contender.cpu_ms.append(cpu_ms)
                contender.loaded_ms.append(loaded_ms)
                assert contender.server is not None
                contender.memory_mb.append(process_tree.memory_mb(contender.server.pid))
                contender.own_mb.append(process_tree.own_memory_mb(contender.server.pid))
                await alone(stage, session, contender, single)
            bare_ms.append(await bare.milliseconds(single))
        # Last, when the emulators have long been warm: what they take at first is not a function's start.
        for contender in all_of_them * rounds:
            contender.start_s.append(await cold_start(stage, session, contender))
        for contender in all_of_them:
            await count_calls(stage, session, contender, single)
        await bare.close()
        soak = {"soak": await soaked(stage, session, all_of_them[0], options.soak)} if options.soak else {}
        if not options.plain:
            await as_deployed(all_of_them, rounds, events, session, pubsub=pubsub, firestore=firestore, **latencies)
        return {**summary(all_of_them, busy, events), "bare_calls_ms": bare_ms, "where": where(options), **soak}


async def bench_parts(pubsub: str, firestore: str) -> None:
    async with (
        Stage(
            pubsub=pubsub, firestore=firestore, secret_latency=SECRET, token_latency=TOKEN, retry_latency=RETRY
        ) as stage,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1)) as session,
    ):
        found = await attribution.parts(stage, session, events=2_400)
    table = attribution.table(found)
    print(table)
    report.renew_table("make bench BENCH=--parts", table)


async def as_deployed(
    all_of_them: list[Contender], rounds: int, events: int, session: aiohttp.ClientSession, **stage: Any
) -> None:
    """With no emulator variable: TLS to all services, and the account from the metadata server."""
    measured = [each for each in all_of_them if each.name in DEPLOYED]
    # the variable that all libraries read, and the database that all can reach
    async with DeployedStage(proxy_variable="https_proxy", database="(default)", **stage) as deployed:
        for contender in measured:
            contender.server = contender.start(deployed)
            contender.deployed = {"cpu_ms": [], "start_s": []}
            await load(deployed, session, contender, events // 2)
        for contender in measured * rounds:
            await load(deployed, session, contender, IN_FLIGHT)
            cpu_ms, _ = await load(deployed, session, contender, events)
            contender.deployed["cpu_ms"].append(cpu_ms)
        for contender in measured * rounds:
            contender.deployed["start_s"].append(await cold_start(deployed, session, contender))


def where(options: argparse.Namespace) -> str:
    """How the OAuth endpoint and the API are reached."""
    return "in the clear" if options.plain else "over TLS" + ", all authorities in one file" * options.one_file


async def soaked(stage: Stage, session: aiohttp.ClientSession, contender: Contender, events: int) -> dict[str, float]:
    """Memory in MB by the number of events that the server has seen since it was first measured here."""
    assert contender.server is not None
    found = {"0": process_tree.memory_mb(contender.server.pid)}
    for share in range(1, 6):
        await load(stage, session, contender, events // 5)
        found[str(share * events // 5)] = process_tree.memory_mb(contender.server.pid)
        print(f"soak: {found}", file=sys.stderr)
    return found


def summary(all_of_them: list[Contender], busy: list[float], events: int) -> dict[str, Any]:
    rounds = {each.name: {measure: getattr(each, measure) for measure in report.MEASURES} for each in all_of_them}
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
            "authorities": Path(certifi.where()).read_text().count("BEGIN CERTIFICATE"),
            "load_average": busy,
        },
        "setting": {
            "in_flight": IN_FLIGHT,
            "events_a_round": events,
            "secret_s": SECRET,
            "token_s": TOKEN,
            "retry_s": RETRY,
        },
        "contenders": {each.name: each.says for each in all_of_them},
        "calls_an_event": {each.name: each.calls for each in all_of_them},
        "rounds": rounds,
        "as_deployed": {each.name: each.deployed for each in all_of_them if each.deployed},
    }


if __name__ == "__main__":
    main()
