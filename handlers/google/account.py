"""The program's own credentials (https://google.aip.dev/auth/4110), looked up and refreshed in a thread.

google-auth does both with blocking requests: on Cloud Run, to the metadata server.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import google.auth
from google.auth.credentials import TokenState
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import Request

from handlers.domain.outcomes import Misconfigured, Transient
from handlers.google.single_flight import SingleFlight

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_REQUEST_TIMEOUT = 5.0  # seconds
_RESERVE = timedelta(seconds=15)  # that a stale token has left where a call begins with it
_ON_GOOGLE_CLOUD = ("K_SERVICE", "GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT")


class Account:
    """The credentials that Application Default Credentials find. `lookup` is google.auth.default's."""

    def __init__(self, lookup: Any = google.auth.default) -> None:
        self._lookup = lookup
        self._credentials: Any = None
        self._flights = SingleFlight()

    async def credentials(self) -> Any:
        """Credentials with a token that is good for a call. Raises Transient or Misconfigured.

        Whoever asks while they are being refreshed waits for the same result.
        """
        if self._credentials is None or self._credentials.token_state is not TokenState.FRESH:
            refreshing = self._flights.join("", lambda: asyncio.to_thread(self._refresh))
            if self._credentials is None or not _is_good_for_a_call(self._credentials):
                await asyncio.shield(refreshing)
        return self._credentials

    def _refresh(self) -> None:
        request = partial(Request(), timeout=_REQUEST_TIMEOUT)
        try:
            credentials = self._credentials or self._lookup(scopes=[_SCOPE], request=request)[0]
            credentials.refresh(request)
            # compute_engine.Credentials asks the metadata server for it, once: not at the first call of a client
            _ = credentials.universe_domain
        except GoogleAuthError as error:
            raise _to_step_error(error) from None
        self._credentials = credentials


def _is_good_for_a_call(credentials: Any) -> bool:
    if credentials.token_state is not TokenState.STALE:
        return credentials.token_state is TokenState.FRESH
    left: timedelta = credentials.expiry - datetime.now(UTC).replace(tzinfo=None)  # google-auth's times say no zone
    return left > _RESERVE


def _to_step_error(error: GoogleAuthError) -> Transient | Misconfigured:
    """Where Google's metadata server does not answer, it is a matter of time. An account that is gone answers 404."""
    kind = type(error).__name__
    if isinstance(error, DefaultCredentialsError):
        explicit = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if not explicit and any(map(os.environ.get, _ON_GOOGLE_CLOUD)):
            return Transient("the metadata server did not answer, so there are no credentials to work with")
        return Misconfigured("no Google credentials: on a machine of your own, gcloud auth application-default login")
    statuses = [getattr(arg, "status", None) for cause in _causes(error) for arg in cause.args]
    if 404 in statuses:
        return Misconfigured("the metadata server knows no such service account: is it deleted or disabled?")
    if any(map(os.environ.get, _ON_GOOGLE_CLOUD)) or error.retryable or isinstance(error, TransportError):
        return Transient(f"the program's own credentials could not be refreshed: {kind}")
    return Misconfigured(f"the program's own credentials are refused: {kind}")


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
