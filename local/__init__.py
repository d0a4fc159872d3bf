"""Google Cloud on one machine: what `make demo` and the tests run on."""

import os

# Everything here talks to this machine alone: a proxy in the environment must not come into it.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = os.environ["no_grpc_proxy"] = "localhost,127.0.0.1,[::1]"  # noqa: SIM112 gRPC reads it in small letters
