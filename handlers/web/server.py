"""What the process is told before anything of it starts: connections, workers and proxies."""

from collections.abc import MutableMapping

from gunicorn import config

_KEEP_ALIVE = 3600  # seconds: longer than any front end of Google's keeps an idle connection


def keep_connections(environment: MutableMapping[str, str]) -> None:
    """Settings for an instance whose CPU is away between requests. The framework has no option for them.

    - A worker that wakes is not killed for its silence: the framework takes this variable for gunicorn's heartbeat.
    - A connection that the front end keeps is not closed by us: the request that wakes the instance would be reset.
    - No control socket, which cannot be written where HOME cannot.
    """
    environment["CLOUD_RUN_TIMEOUT_SECONDS"] = "0"
    config.Keepalive.default = _KEEP_ALIVE
    config.ControlSocketDisable.default = True


def export_proxies(environment: MutableMapping[str, str]) -> None:
    """gRPC reads the lower-case variables only, takes a proxy without a scheme for none, and knows no `NO_PROXY=*`.

    The metadata server is this very machine's, so no proxy reaches it.
    """
    for name in ("HTTPS_PROXY", "NO_PROXY"):
        if environment.get(name):
            environment.setdefault(name.lower(), environment[name])
    proxies = [name for name in environment if name.lower() in ("https_proxy", "http_proxy", "all_proxy", "grpc_proxy")]
    if "*" in environment.get("no_proxy", "").replace(" ", "").split(","):
        for name in proxies:
            del environment[name]
        return
    if (proxy := environment.get("https_proxy", "")) and "://" not in proxy:
        environment["https_proxy"] = f"http://{proxy}"
    if any(environment[name] for name in proxies):
        hosts = [environment.get("no_proxy", ""), "metadata.google.internal", "169.254.169.254"]
        environment["no_proxy"] = environment["NO_PROXY"] = ",".join(filter(None, hosts))
