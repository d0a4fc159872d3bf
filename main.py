"""The entry points of the function.

functions-framework --target=retry_failed_archive_job   # pushed to by Pub/Sub
functions-framework --target=resume_deferred_retries    # called by Cloud Scheduler
"""

import gc
import os
import sys

# Objects between collections, many more than by default: what is loaded stays, and most of what is made later lives as
# long as the delivery in flight. Set before anything of size is loaded: a twentieth of the CPU that loading takes.
gc.set_threshold(20_000)

# The framework takes it for how long a worker may be silent before gunicorn kills it. An idle instance has no CPU, so
# its worker is silent: it would be killed as it wakes, and the delivery that woke it with it. 0 is for ever.
os.environ["CLOUD_RUN_TIMEOUT_SECONDS"] = "0"

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from handlers.entrance import Entrance
from handlers.settings import WrongSettings, from_environment

try:
    entrance = Entrance(from_environment(os.environ))
except WrongSettings as wrong:
    sys.exit(str(wrong))


@functions_framework.aio.http
async def retry_failed_archive_job(request: Request) -> Response:
    """A failed archive job comes in, Google is asked once to retry it, and the new job's id goes out."""
    return await entrance.retry_failed_archive_job(request)


@functions_framework.aio.http
async def resume_deferred_retries(request: Request) -> Response:
    """Jobs that Google would not retry before a certain time go back to the failed topic when it has come."""
    return await entrance.resume_deferred_retries(request)


gc.freeze()  # the framework forks its worker next: what is loaded stays shared between the two, a fifth of their memory
