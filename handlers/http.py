"""One POST over aiohttp: sent once, never repeated, never redirected."""

import asyncio
from ssl import SSLContext
from typing import Any

import aiohttp

from handlers.ports import NoAnswer, NotSent

_LARGEST_ANSWER = 1 << 20  # bytes; what is longer is not an answer of Google's
_CONNECT_SECONDS = 10.0  # what takes longer will not come any more
_IDLE_SECONDS = 15  # a connection that rested longer may be half closed, and a POST on it would be in doubt


async def _sending(session: aiohttp.ClientSession, context: Any, params: aiohttp.TraceRequestHeadersSentParams) -> None:
    """The connection is there, and the next thing to happen is the first byte of the request."""
    context.trace_request_ctx.append(True)


class HttpClient:
    """Connections are kept and shared; the pool has no limit of its own, since concurrency is Cloud Run's to set.

    Servers are vouched for by the authorities that the system knows, or as `trust` says.
    """

    def __init__(self, trust: SSLContext | None = None) -> None:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_IDLE_SECONDS, ssl=trust or True)
        told = aiohttp.TraceConfig()
        told.on_request_headers_sent.append(_sending)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[told]
        )

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        """Once it is cancelled it ends like that, but for a request of which nothing is sent: then with NotSent."""
        timeout, sent = aiohttp.ClientTimeout(total=seconds, connect=_CONNECT_SECONDS), list[bool]()
        answer = bytearray()
        try:
            async with self._session.post(
                url, data=body or None, headers=headers, timeout=timeout, allow_redirects=False, trace_request_ctx=sent
            ) as response:
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > _LARGEST_ANSWER:
                        raise NoAnswer("the answer is too long")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise (NoAnswer if sent else NotSent)(type(error).__name__) from None
        except asyncio.CancelledError:
            if sent:
                raise
            raise NotSent("cut off while it was connecting") from None
        return response.status, bytes(answer)

    async def close(self) -> None:
        await self._session.close()
