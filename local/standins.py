"""The stand-ins of what has no emulator, in a process of their own: for loads that must not share an interpreter.

    python -m local.standins --project p --secret-ms 10 --token-ms 100 --retry-ms 300

Prints one JSON line, the function's environment for them, and serves until its standard input ends. Every credential
has a refresh token, and every retry succeeds. A line on standard input is answered with one of counts.
"""

import argparse
import asyncio
import json
import sys

import uvloop

from local.google_apis import GoogleApis
from local.grants import MARK
from local.secrets import SecretManager
from local.stage import OAUTH_CLIENT


async def _serve(options: argparse.Namespace) -> None:
    google = GoogleApis(
        token_latency_seconds=options.token_ms / 1000,
        retry_latency_seconds=options.retry_ms / 1000,
        consents=lambda token: MARK in token,
        keep_requests=False,
    )
    secrets = SecretManager(
        options.project,
        latency_seconds=options.secret_ms / 1000,
        payload_of_any=lambda secret_id: f"{MARK}-of-{secret_id}".encode(),
        keep_accesses=False,
    )
    async with google, secrets:
        secrets.add_version(OAUTH_CLIENT, google.client_file())
        _say(
            {
                "GOOGLE_CLOUD_PROJECT": options.project,
                "SECRET_MANAGER_EMULATOR_HOST": secrets.address,
                "DATA_PORTABILITY_API_ENDPOINT": google.url,
            }
        )
        while await asyncio.to_thread(sys.stdin.readline):
            _say({"secret": secrets.count, "token": google.counts["token"], "retry": google.counts["retry"]})


def _say(content: dict[str, object]) -> None:
    print(json.dumps(content), flush=True)


def main() -> None:
    """Serve until standard input ends."""
    options = argparse.ArgumentParser(prog="standins", description=__doc__)
    options.add_argument("--project", default="stand-in")
    for name in ("--secret-ms", "--token-ms", "--retry-ms"):
        options.add_argument(name, type=float, default=0.0, help="what each call takes")
    uvloop.run(_serve(options.parse_args()))


if __name__ == "__main__":
    main()
