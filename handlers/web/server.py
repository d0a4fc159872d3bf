"""How gunicorn and uvicorn, which the framework starts, treat connections and workers."""

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
