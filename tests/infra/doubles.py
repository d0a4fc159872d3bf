#!/usr/bin/env python3
"""Doubles of terraform, gcloud and the smoke test, by the name that this is called by.

They keep a world in the folder $DOUBLES: `calls` (a JSON list a line), `deployed` (the archive in Terraform's state),
`running` (the one that runs, where it is another), `serial` (a line for each change of the state), `initialised` (the
bucket of that state), `bucket/` (an object that was replaced is `NAME#GENERATION`), `revisions/` (of each schema, the
definitions that Pub/Sub knows), and what is wrong with it: `broken` (archives that do not pass the smoke test, a line
each), `unbuilt` (archives that no image can be made of: their update fails, and Terraform's state has it), `unready`
(archives whose revision does not get ready), `pending` (there is an alert that fails in each apply of the whole),
`fails` (commands that fail, by how they begin, a line each; `terraform apply!` fails after it has changed what is
deployed, `terraform show?` fails once), `meanwhile` (after which command another deployment puts which archive in
place: `archive: smoke`; `: smoke` lets one pass), `changes` (the resources that a plan changes beside the source, as
JSON), `builds` (what `gcloud builds list` prints, a line for each time), and `refused` (whether a topic refuses a
message: yes or no, a line for each time). Where there is a file `facts`, it lists what has been done in the cloud, and
a command fails that comes before what it needs.
"""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

WORLD = Path(os.environ["DOUBLES"])


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (WORLD / "calls").open("a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    words = " ".join([name, *(argument for argument in arguments if not argument.startswith("-"))])
    if (WORLD / "facts").exists() and (missing := _missing(" ".join([name, *arguments]))):
        print(f"{words}: there is no {missing} yet", file=sys.stderr)
        return 1
    failing = [wrong for wrong in _lines("fails") if words.startswith(wrong.rstrip("!?"))]
    if failing and failing[0].endswith("?"):
        (WORLD / "fails").write_text("\n".join(wrong for wrong in _lines("fails") if wrong != failing[0]))
    if failing and not failing[0].endswith("!"):
        print("not today", file=sys.stderr)
        return 1
    code = {"terraform": terraform, "gcloud": gcloud, "smoke": smoke}[name](arguments)
    archive, _, after = (_lines("meanwhile") or [": nothing"])[0].partition(": ")
    if words.startswith(after):
        (WORLD / "meanwhile").write_text("\n".join(_lines("meanwhile")[1:]))
        if archive:
            _deploy(archive)
    return 1 if failing else code


def _deploy(archive: str) -> None:
    if archive in _lines("unbuilt") + _lines("unready"):
        (WORLD / "running").write_text("\n".join(_running()))
    else:
        (WORLD / "running").unlink(missing_ok=True)
    (WORLD / "deployed").write_text(archive)
    with (WORLD / "serial").open("a") as serial:
        serial.write(f"{archive}\n")


# how a command begins, what it needs, what there is after it
NEEDS = (
    ("gcloud services enable", (), "services"),
    ("gcloud beta services identity create --service=pubsub", ("services",), "Pub/Sub agent"),
    ("gcloud iam service-accounts create product", ("services",), "product"),
    ("gcloud iam service-accounts add-iam-policy-binding product@", ("product",), "impersonation"),
    ("gcloud storage buckets create", ("services",), "bucket"),
    ("terraform -chdir=infra/bootstrap init", ("bucket",), "bootstrap state"),
    ("terraform -chdir=infra/bootstrap apply", ("bootstrap state", "Pub/Sub agent", "product"), "bootstrap"),
    ("gcloud secrets versions add", ("bootstrap",), "OAuth client"),
    ("gcloud storage cp", ("bootstrap",), "archive"),
    ("gcloud pubsub schemas", ("bootstrap",), ""),
    ("gcloud secrets create dataportability-refresh-token", ("bootstrap", "impersonation"), "token"),
    ("gcloud pubsub topics publish", ("OAuth client", "archive", "impersonation", "token"), "event"),
    ("gcloud pubsub subscriptions pull", ("event",), ""),
)


def _missing(line: str) -> str:
    facts = _lines("facts")
    for begins, needs, gives in NEEDS:
        if line.startswith(begins):
            if missing := [need for need in needs if need not in facts]:
                return missing[0]
            with (WORLD / "facts").open("a") as file:
                file.write(f"{gives}\n")
    return ""


def terraform(arguments: list[str]) -> int:
    command = next(argument for argument in arguments if not argument.startswith("-"))
    variables = dict(a.removeprefix("-var=").split("=", 1) for a in arguments if a.startswith("-var="))
    if "-chdir=infra/bootstrap" in arguments:
        print("Apply complete!")
    elif command == "init":
        return _init(arguments)
    elif command == "plan":
        out = next(argument.removeprefix("-out=") for argument in arguments if argument.startswith("-out="))
        planned = f"{variables['source_object']}#{variables['source_generation']}"
        [target] = [a.removeprefix("-target=") for a in arguments if a.startswith("-target=")] or [""]
        Path(out).write_text(f"{planned}#{len(_lines('serial'))}#{target}")
    elif command == "show" and arguments[-1].startswith("-"):
        print(json.dumps(_state()))
    elif command == "show":
        archive, _, _, target = Path(arguments[-1]).read_text().split("#")
        changes = [] if [archive] == _lines("deployed") else [_source(archive)]
        changes += json.loads((WORLD / "changes").read_text()) if (WORLD / "changes").exists() else []
        changes = [change for change in changes if str(change["address"]).startswith(target)]
        print(json.dumps({"applyable": bool(changes), "resource_changes": changes}))
    elif command == "apply":
        archive, _, serial, target = Path(arguments[-1]).read_text().split("#")
        if int(serial) != len(_lines("serial")):
            print("Error: Saved plan is stale", file=sys.stderr)
            return 1
        if not (WORLD / "bucket" / archive).exists():
            print(f"no archive {archive}", file=sys.stderr)
            return 1
        if [archive] != _lines("deployed"):  # else there is nothing to do, by the state
            _deploy(archive)
            return int(archive in _lines("unbuilt") or bool(_lines("pending") and not target))
    return 0


def _state() -> dict[str, object]:
    """Terraform's state, as `terraform show` prints it."""
    if not _lines("deployed"):
        return {"format_version": "1.0"}
    source = {"source": [{"storage_source": [{"object": _lines("deployed")[0]}]}]}
    values = [{"name": name, "build_config": [source]} for name in ("archive-job-retry", "archive-job-retry-resume")]
    resources: list[object] = [{"type": "google_cloudfunctions2_function", "values": each} for each in values]
    resources.append({"type": "google_pubsub_subscription", "values": {"name": "archive-job-failed-push"}})
    return {"format_version": "1.0", "values": {"root_module": {"resources": resources}}}


def _init(arguments: list[str]) -> int:
    """Like terraform, this takes another bucket than the last time with -reconfigure only."""
    (WORLD / "infra" / ".terraform.lock.hcl").touch()
    bucket = next(argument for argument in arguments if argument.startswith("-backend-config="))
    if _lines("initialised") not in ([], [bucket]) and "-reconfigure" not in arguments:
        print("Error: Backend configuration changed", file=sys.stderr)
        return 1
    (WORLD / "initialised").write_text(bucket)
    return 0


def _source(archive: str) -> dict[str, object]:
    """An update of a function's source, as a plan has it; what only Google knows is left out of what comes after."""

    def values(archive: str, **more: object) -> dict[str, object]:
        source = [{"storage_source": [{"bucket": "b", "object": archive}]}]
        settings: dict[str, object] = {"environment_variables": {"SOURCE_OBJECT": archive, "WATCH": "off"}}
        return {"name": "f", "build_config": [{"source": source}], "service_config": [settings | more]}

    unknown = {"build_config": [{"source": [{"storage_source": [{}]}]}], "service_config": [{"uri": True}]}
    change = {
        "actions": ["update"],
        "before": values(*_lines("deployed")[:1] or [""], uri="https://f"),
        "after": values(archive),
        "after_unknown": unknown,
    }
    kind = "google_cloudfunctions2_function"
    return {"address": f'{kind}.this["retry"]', "type": kind, "change": change}


def gcloud(arguments: list[str]) -> int:
    words = [argument for argument in arguments if not argument.startswith("--")]
    match words[:3]:
        case ["storage", "cp", source]:
            _copy(source, WORLD / "bucket" / words[3].rpartition("/")[2], "--no-clobber" in arguments)
        case ["storage", "cat", _]:
            return max([_print_object(address.rpartition("/")[2]) for address in words[2:]])
        case ["storage", "ls", address]:
            return _list(address, arguments)
        case ["storage", "objects", "describe"]:
            found = WORLD / "bucket" / words[3].rpartition("/")[2]
            print(GENERATION if found.exists() else "", end="")
            return 0 if found.exists() else 1
        case ["pubsub", "schemas", "list-revisions"]:
            known = WORLD / "revisions" / words[3]
            if not known.exists():
                print("ERROR: (gcloud.pubsub.schemas.list-revisions) NOT_FOUND: Resource not found", file=sys.stderr)
                return 1
            print(json.dumps([{"definition": text} for text in known.read_text().splitlines()]))
        case ["pubsub", "schemas", "commit"]:
            definition = next(a.partition("=")[2] for a in arguments if a.startswith("--definition-file="))
            with (WORLD / "revisions" / words[3]).open("a") as revisions:
                revisions.write(json.dumps(json.loads(Path(definition).read_text())) + "\n")
        case ["pubsub", "topics", "publish"]:
            return int(_next("refused") == "yes")
        case ["config", "get", "account"]:
            print("you@example.com")
        case ["run", "services", "describe"]:
            print(json.dumps(_service()))
        case ["builds", "list", *_]:
            print(_next("builds") or "[]")
    return 0


GENERATION = "1700000000000001"


def _running() -> list[str]:
    return _lines("running") or _lines("deployed")


def _service() -> dict[str, object]:
    """A function's service, as `gcloud run services describe` prints it."""
    unready = bool(_lines("deployed")) and _lines("deployed")[0] in _lines("unready")
    variables = [{"name": "WATCH", "value": "off"}]
    variables += [{"name": "SOURCE_OBJECT", "value": archive} for archive in _running()]
    return {
        "metadata": {"generation": 2},
        "spec": {"template": {"spec": {"containers": [{"env": variables}]}}},
        "status": {
            "observedGeneration": 2,
            "latestCreatedRevisionName": "f-00002",
            "latestReadyRevisionName": "f-00001" if unready else "f-00002",
        },
    }


def _copy(source: str, target: Path, no_clobber: bool) -> None:
    if target.exists() and not no_clobber:
        target.rename(f"{target}#{1_600_000_000_000_000 + len(_replaced(target.name)) * 3_600_000_000}")
    if not target.exists():
        target.write_bytes(sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes())


def _replaced(name: str) -> list[str]:
    """The generations of an object that are kept beside the live one, the oldest first."""
    return sorted(path.name.partition("#")[2] for path in (WORLD / "bucket").glob(f"{name}#*"))


def _list(address: str, arguments: list[str]) -> int:
    name = address.rpartition("/")[2]
    found = _replaced(name) if "--all-versions" in arguments else []
    found += [GENERATION] if (WORLD / "bucket" / name).exists() else []
    if not found:
        print("ERROR: (gcloud.storage.ls) One or more URLs matched no objects.", file=sys.stderr)
        return 1
    metadata = [{"generation": each, "name": name, "timeCreated": _made(each)} for each in found]
    urls = [f"{address}#{each}" for each in found]
    objects = [{"url": url, "type": "cloud_object", "metadata": each} for url, each in zip(urls, metadata, strict=True)]
    print(json.dumps(objects, indent=2) if "--json" in arguments else "\n".join(urls))
    return 0


def _made(generation: str) -> str:
    """When: a generation is microseconds since 1970."""
    return datetime.fromtimestamp(int(generation) / 1e6, UTC).isoformat(timespec="microseconds")


def _print_object(name: str) -> int:
    name, _, generation = name.partition("#")
    found = WORLD / "bucket" / (name if generation in ("", GENERATION) else f"{name}#{generation}")
    if not found.exists():
        print("ERROR: (gcloud.storage.cat) The following URLs matched no objects or files", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(found.read_bytes())
    return 0


def _next(name: str) -> str:
    """The first line of a file, which is taken off; the last one stays."""
    lines = _lines(name)
    if len(lines) > 1:
        (WORLD / name).write_text("\n".join(lines[1:]))
    return lines[0] if lines else ""


def smoke(arguments: list[str]) -> int:
    return int(_running()[0] in _lines("broken"))


def _lines(name: str) -> list[str]:
    path = WORLD / name
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
