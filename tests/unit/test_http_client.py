"""One HTTP request on real sockets: what is known to precede the sending, and what is not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ssl import SSLContext
from typing import Any, TypeAlias

import pytest

from handlers.domain.answers import NotSent, OutcomeUnknown
from handlers.google.http_client import HttpClient, HttpResponse
from local.authority import Authority
from local.google_apis import MARK

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Serve = Callable[[Reader, Writer], Awaitable[None]]
Server = Callable[[Serve], AbstractAsyncContextManager[str]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def listening(serve: Serve, context: SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: Reader, writer: Writer) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with running:
        yield running.sockets[0].getsockname()[1]


@pytest.fixture(params=["in the clear", "over TLS"])
def authority(request: pytest.FixtureRequest) -> Authority | None:
    """Who vouches for the server; None where it speaks in the clear."""
    return Authority() if request.param == "over TLS" else None


@pytest.fixture
def server(authority: Authority | None) -> Server:
    @asynccontextmanager
    async def serving(serve: Serve) -> AsyncIterator[str]:
        async with listening(serve, authority.server_context() if authority else None) as port:
            yield f"{'https' if authority else 'http'}://127.0.0.1:{port}/path"

    return serving


@pytest.fixture
async def http(authority: Authority | None) -> AsyncIterator[HttpClient]:
    client = HttpClient(authority.client_context()) if authority else HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def production() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


def answering(answer: bytes, seen: list[bytes] | None = None, *, times: int = 1) -> Serve:
    async def serve(reader: Reader, writer: Writer) -> None:
        for _ in range(times):
            request = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(request)
            writer.write(answer)
            await writer.drain()

    return serve


async def silent(reader: Reader, writer: Writer) -> None:
    await reader.read()


async def post(
    http: HttpClient, url: str, seconds: float = 5, *, headers: dict[str, str] | None = None, body: bytes = b""
) -> Any:
    sent = {"Content-Length": "0"} if headers is None else headers
    return await http.request("POST", url, headers=sent, body=body, seconds=seconds)


async def test_empty_post_has_a_length_of_zero(http: HttpClient, server: Server) -> None:
    seen: list[bytes] = []
    async with server(answering(OK, seen)) as url:
        assert HttpResponse(200, b"{}") == await post(http, url)
    assert seen[0].startswith(b"POST /path HTTP/1.1\r\n")
    assert 1 == seen[0].lower().count(b"content-length: 0\r\n")
    assert b"transfer-encoding" not in seen[0].lower()


@pytest.mark.parametrize("status", [307, 408, 429, 500, 503])
async def test_request_is_sent_once_and_never_redirected(http: HttpClient, server: Server, status: int) -> None:
    seen: list[bytes] = []
    answer = b"HTTP/1.1 %d X\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n" % status
    async with server(answering(answer, seen, times=2)) as url:
        assert status == (await post(http, url)).status
        assert 1 == len(seen)
        await post(http, url)
    assert b"cookie" not in seen[1].lower()


async def test_body_is_sent_as_it_is(production: HttpClient) -> None:
    body, seen = b"grant_type=refresh_token\r\n\r\n\xff", []

    async def whole(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(await reader.readexactly(len(body)))
        writer.write(OK)

    async with listening(whole) as port:
        await post(production, f"http://127.0.0.1:{port}/", headers={}, body=body)
    assert [body] == seen


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nrubb",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2_000_000,
    ],
    ids=["dropped", "not HTTP", "cut off", "bad gzip", "too long", "header of megabytes"],
)
async def test_broken_answer_leaves_it_in_doubt(http: HttpClient, server: Server, answer: bytes) -> None:
    seen: list[bytes] = []
    headers, body = {"Authorization": f"Bearer {MARK}-access"}, f"{MARK}-refresh".encode()
    async with server(answering(answer, seen)) as url:
        answered = await post(http, url, headers=headers, body=body)
    assert (OutcomeUnknown, 1) == (type(answered), len(seen))
    assert MARK not in answered.detail


async def test_silence_leaves_it_in_doubt(http: HttpClient, server: Server) -> None:
    async with server(silent) as url:
        assert isinstance(await post(http, url, seconds=0.3), OutcomeUnknown)


async def test_request_cut_off_later_leaves_it_in_doubt(http: HttpClient, server: Server) -> None:
    async with server(silent) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await post(http, url)


async def test_kept_connection_dropped_in_the_call_is_not_tried_again(http: HttpClient, server: Server) -> None:
    seen: list[bytes] = []

    async def drop_the_second(reader: Reader, writer: Writer) -> None:
        await answering(OK, seen)(reader, writer)
        seen.append(await reader.readuntil(b"\r\n\r\n"))

    async with server(drop_the_second) as url:
        await post(http, url)
        assert isinstance(await post(http, url), OutcomeUnknown)
    assert 2 == len(seen)


@pytest.mark.parametrize(
    "unasked",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"access_token":"alices"}',
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ],
    ids=["answers twice", "front end's 408"],
)
@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_unasked_answer_on_an_idle_connection_is_not_used(
    http: HttpClient, server: Server, unasked: bytes, pause: float
) -> None:
    bodies = iter([b"1", b"2"])

    async def serve(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + next(bodies))
        if not pause:
            writer.write(unasked)
        await writer.drain()
        await asyncio.sleep(pause)
        writer.write(unasked if pause else b"")
        await reader.read()

    async with server(serve) as url:
        assert HttpResponse(200, b"1") == await post(http, url)
        await asyncio.sleep(pause * 3)
        assert HttpResponse(200, b"2") == await post(http, url)


async def test_connections_are_kept_and_reused(http: HttpClient, server: Server) -> None:
    opened = []

    async def many(reader: Reader, writer: Writer) -> None:
        opened.append(1)
        await answering(OK, times=100)(reader, writer)

    async with server(many) as url:
        for _ in range(2):
            await asyncio.gather(*(post(http, url) for _ in range(20)))
        assert 20 >= len(opened)


# nothing was sent


async def test_refused_connection_is_not_sent(production: HttpClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert isinstance(await post(production, f"http://127.0.0.1:{closed.getsockname()[1]}/"), NotSent)


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", "https://[x/", "ftp://x/"])
async def test_unusable_address_is_not_sent(production: HttpClient, url: str) -> None:
    assert isinstance(await post(production, url), NotSent)


@pytest.mark.parametrize("serve", [silent, answering(b"no TLS here")], ids=["silent", "no TLS"])
async def test_failed_handshake_is_not_sent(production: HttpClient, serve: Serve) -> None:
    async with listening(serve) as port:
        assert isinstance(await post(production, f"https://127.0.0.1:{port}/", seconds=0.4), NotSent)


async def test_request_cut_off_while_connecting_is_not_sent(production: HttpClient) -> None:
    async with listening(silent) as port, asyncio.timeout(0.3):
        assert isinstance(await post(production, f"https://127.0.0.1:{port}/"), NotSent)


@pytest.mark.parametrize("names", [(), ("elsewhere.example",)], ids=["unknown authority", "other name"])
async def test_unverified_server_is_sent_nothing(names: tuple[str, ...]) -> None:
    seen: list[bytes] = []
    authority = Authority()
    http = HttpClient(authority.client_context() if names else None)
    async with listening(answering(OK, seen), authority.server_context(*names)) as port:
        assert isinstance(await post(http, f"https://127.0.0.1:{port}/"), NotSent)
    await http.close()
    assert not seen


# proxies


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_https_proxy_in_either_case_is_used(monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str) -> None:
    asked: list[bytes] = []
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with listening(answering(b"HTTP/1.1 403 Forbidden\r\n\r\n", asked)) as port:
        monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{port}")
        http = HttpClient()
        assert isinstance(await post(http, "https://dataportability.googleapis.com/v1"), NotSent)
        await http.close()
    assert asked[0].startswith(b"CONNECT dataportability.googleapis.com:443 HTTP/1.1\r\n")


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
async def test_no_proxy_in_either_case_is_honoured(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "127.0.0.1,other.example")
    authority = Authority()
    http = HttpClient(authority.client_context())
    async with listening(answering(OK), authority.server_context()) as port:
        assert HttpResponse(200, b"{}") == await post(http, f"https://127.0.0.1:{port}/")
    await http.close()


async def test_plain_http_to_this_machine_goes_by_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    http = HttpClient()
    async with listening(answering(OK)) as port:
        assert HttpResponse(200, b"{}") == await post(http, f"http://127.0.0.1:{port}/")
    await http.close()
