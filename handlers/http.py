"""One POST over aiohttp: sent once, never repeated, never redirected."""

from ssl import SSLContext

import aiohttp

from handlers.ports import NoAnswer, NotSent

_LARGEST_ANSWER = 1 << 20  # bytes; what is longer is not an answer of Google's
_CONNECT_SHARE = 0.5  # of a call's time: so that time spent on connecting is told from time spent on an answer
_IDLE_SECONDS = 15  # a connection that rested longer may be half closed, and a POST on it would be in doubt

# https://docs.aiohttp.org/en/stable/client_reference.html#hierarchy-of-exceptions
_BEFORE_SENDING = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


class HttpClient:
    """Connections are kept and shared; the pool has no limit of its own, since concurrency is Cloud Run's to set.

    Servers are vouched for by the authorities that the system knows, or as `trust` says.
    """

    def __init__(self, trust: SSLContext | None = None) -> None:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_IDLE_SECONDS, ssl=trust or True)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def post(self, url: str, *, headers: dict[str, str], body: bytes, seconds: float) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=seconds, connect=seconds * _CONNECT_SHARE)
        answer = bytearray()
        try:
            async with self._session.post(
                url, data=body or None, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > _LARGEST_ANSWER:
                        raise NoAnswer("the answer is too long")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            kind = NotSent if isinstance(error, _BEFORE_SENDING) else NoAnswer
            raise kind(type(error).__name__) from None
        return response.status, bytes(answer)

    async def close(self) -> None:
        await self._session.close()
