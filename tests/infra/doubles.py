#!/usr/bin/env python3
"""Doubles of terraform, gcloud and the smoke test, by the name that this is called by.

They keep a world in the folder $DOUBLES: `calls` (a JSON list a line), `deployed` (the archive that runs), `bucket/`,
and what is wrong with it: `broken` (archives that do not pass the smoke test, a line each) and `fails` (commands that
fail, by how they begin, a line each; `terraform apply!` fails after it has changed what is deployed).
"""

import json
import os
import sys
from pathlib import Path

WORLD = Path(os.environ["DOUBLES"])


def main() -> int:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (WORLD / "calls").open("a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    words = " ".join([name, *(argument for argument in arguments if not argument.startswith("-"))])
    failing = [wrong for wrong in _lines("fails") if words.startswith(wrong.rstrip("!"))]
    if failing and not failing[0].endswith("!"):
        print("not today", file=sys.stderr)
        return 1
    code = {"terraform": terraform, "gcloud": gcloud, "smoke": smoke}[name](arguments)
    return 1 if failing else code


def terraform(arguments: list[str]) -> int:
    command = next(argument for argument in arguments if not argument.startswith("-"))
    variables = dict(a.removeprefix("-var=").split("=", 1) for a in arguments if a.startswith("-var="))
    if command == "init":
        (WORLD / "infra" / ".terraform.lock.hcl").touch()
    elif command == "plan":
        out = next(argument.removeprefix("-out=") for argument in arguments if argument.startswith("-out="))
        Path(out).write_text(variables["source_object"])
    elif command == "apply":
        archive = variables.get("source_object") or Path(arguments[-1]).read_text()
        if not (WORLD / "bucket" / archive).exists():
            print(f"no archive {archive}", file=sys.stderr)
            return 1
        (WORLD / "deployed").write_text(archive)
    elif command == "output":
        if not (WORLD / "deployed").exists():
            print("No outputs found", file=sys.stderr)
            return 1
        print((WORLD / "deployed").read_text(), end="")
    return 0


def gcloud(arguments: list[str]) -> int:
    words = [argument for argument in arguments if not argument.startswith("--")]
    objects = WORLD / "bucket"
    if words[1] == "cp":
        content = sys.stdin.read() if words[2] == "-" else Path(words[2]).read_text()
        (objects / words[3].rpartition("/")[2]).write_text(content)
    elif words[1] == "cat":
        found = objects / words[2].rpartition("/")[2]
        if not found.exists():
            print("ERROR: (gcloud.storage.cat) The following URLs matched no objects or files", file=sys.stderr)
            return 1
        print(found.read_text(), end="")
    return 0


def smoke(arguments: list[str]) -> int:
    return int((WORLD / "deployed").read_text() in _lines("broken"))


def _lines(name: str) -> list[str]:
    path = WORLD / name
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
