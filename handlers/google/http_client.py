"""One HTTP request over aiohttp: never redirected, never repeated (but a GET, where its kept connection is closed)."""

import asyncio
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
from msgspec import Struct
from yarl import URL

from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.domain.outcomes import RedactedRepr

_MAX_ANSWER_BYTES = 1 << 20  # Google's are a few KiB
_CONNECT_TIMEOUT = 10.0  # seconds
_KEEPALIVE_TIMEOUT = 15  # seconds: a connection that was idle longer may be half closed, and a call on it in doubt


_sent: ContextVar[bool] = ContextVar("sent")  # whether the request of this context may be sent


class HttpResponse(RedactedRepr, Struct, frozen=True):
    status: int
    body: bytes


class Http(Protocol):
    async def request(
        self, method: str, url: str, *, headers: dict[str, str], body: bytes, seconds: float
    ) -> HttpResponse | NotSent | OutcomeUnknown:
        """Send one request and read its whole answer. No detail tells what was in the request.

        Where it is cancelled before anything is sent, it answers NotSent, and the caller goes on.
        """


class _CleanConnector(aiohttp.TCPConnector):
    """Drops a pooled connection on which an answer waits that nobody has asked for, or that the server has closed.

    It would be taken for the answer to the next request, another user's (https://github.com/aio-libs/aiohttp/issues/13656).
    aiohttp writes the first byte of the request right after `connect` returns, so the request counts as sent from here.
    (A TraceConfig tells that too, for an eighth of a request's instructions.)
    """

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        while True:
            connection = await super().connect(*args, **kwargs)
            if connection.protocol is None or not connection.protocol.should_close:
                _sent.set(True)
                return connection
            connection.close()


class HttpClient:
    """Connections are pooled. Servers are verified against the system's CA store, or against `trust`.

    `HTTPS_PROXY` and `NO_PROXY` are honoured as the environment has them, in either case.
    """

    def __init__(self, trust: SSLContext | None = None) -> None:
        connector = _CleanConnector(
            limit=0,  # concurrency is Cloud Run's to limit
            ttl_dns_cache=300,
            keepalive_timeout=_KEEPALIVE_TIMEOUT,
            ssl=trust or True,
        )
        self._proxies = getproxies_environment()
        headers = {"Accept-Encoding": "identity"}  # answers have a few hundred bytes: inflating one costs more
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=headers)

    async def request(
        self, method: str, url: str, *, headers: dict[str, str], body: bytes, seconds: float
    ) -> HttpResponse | NotSent | OutcomeUnknown:
        _sent.set(False)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=_CONNECT_TIMEOUT)
        answer = bytearray()
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),  # as it is: `.` and `..` are legal ids of jobs
                data=body or None,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                proxy=self._proxy_for(url),
            ) as response:
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > _MAX_ANSWER_BYTES:
                        return OutcomeUnknown("the answer is too long")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            _drop_frames(error)
            # the type alone: its text may quote the request or a proxy's password
            return (OutcomeUnknown if _sent.get() else NotSent)(type(error).__name__)
        except asyncio.CancelledError:
            if _sent.get():
                raise
            return NotSent("cut off while it was connecting")
        return HttpResponse(response.status, bytes(answer))

    def _proxy_for(self, url: str) -> str | None:
        """None for plain HTTP, too: that is to this very machine, with a token in it."""
        proxy = self._proxies.get("https")
        if not proxy:
            return None
        parts = urlsplit(url)
        if parts.scheme != "https" or proxy_bypass_environment(parts.netloc, self._proxies):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    async def close(self) -> None:
        await self._session.close()


def _drop_frames(error: BaseException | None) -> None:
    """aiohttp keeps some errors in their own frames: a refresh token would stay there until the collector comes."""
    for _ in range(10):  # a chain may lead back to itself
        if error:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__
