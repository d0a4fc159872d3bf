"""The entry points of the function.

functions-framework --target=retry_failed_archive_job   # pushed to by Pub/Sub
functions-framework --target=watch_archive_job          # pushed to by Pub/Sub, optional
functions-framework --target=resume_deferred_retries    # called by Cloud Scheduler
"""

import gc
import os
import sys

gc.disable()  # while this is loaded, nothing of it is garbage

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from handlers.bootstrap import Container
from handlers.settings import WrongSettings, from_environment, summary
from handlers.telemetry.logging import configure_logs, log
from handlers.web.endpoints import Endpoints
from handlers.web.server import export_proxies, keep_connections

keep_connections(os.environ)
export_proxies(os.environ)
try:
    settings = from_environment(os.environ)
except WrongSettings as wrong:
    configure_logs("ERROR")
    log.error(str(wrong), extra={"fields": {"outcome": "fault", "failedStep": "settings"}})
    sys.exit(1)
configure_logs(settings.log_level)
endpoints = Endpoints(settings, Container(settings))
started = summary(settings, os.environ.get("FUNCTION_TARGET", ""))
log.info("started: %s", ", ".join(f"{name} {value}" for name, value in started.items()), extra={"fields": started})


@functions_framework.aio.http
async def retry_failed_archive_job(request: Request) -> Response:
    """A failed archive job comes in, Google is asked once to retry it, and the new job's id goes out."""
    return await endpoints.retry_failed_archive_job(request)


@functions_framework.aio.http
async def watch_archive_job(request: Request) -> Response:
    """A started archive job comes in; its end goes out, or a failed event where it fails."""
    return await endpoints.watch_archive_job(request)


@functions_framework.aio.http
async def resume_deferred_retries(request: Request) -> Response:
    """Jobs that Google would not retry before a certain time go back to their topic when it has come."""
    return await endpoints.resume_deferred_retries(request)


gc.freeze()  # the framework forks its worker next: what is loaded stays shared between the two
# Objects between two collections, many more than by default: most of what a delivery makes lives as long as the
# delivery. It saves CPU of each event.
gc.set_threshold(20_000)
gc.enable()
