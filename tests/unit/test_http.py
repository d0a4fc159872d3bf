"""Rules of the one POST, on real sockets: what is known to precede the sending, and what is not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ssl import SSLContext

import pytest

from handlers.http import HttpClient
from handlers.ports import NoAnswer, NotSent
from local.authority import Authority
from local.front_door import reset
from local.google_apis import MARK

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Server = Callable[[Serve], AbstractAsyncContextManager[str]]


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


@asynccontextmanager
async def listening(serve: Serve, context: SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()

    running = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with running:
        yield running.sockets[0].getsockname()[1]


def answering(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        writer.write(answer)
        await writer.drain()

    return serve


@pytest.fixture
async def http(authority: Authority | None) -> AsyncIterator[HttpClient]:
    client = HttpClient(authority.client_context()) if authority else HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def production() -> AsyncIterator[HttpClient]:
    """As production has it."""
    client = HttpClient()
    yield client
    await client.close()


async def post(http: HttpClient, url: str, seconds: float = 5) -> tuple[int, bytes]:
    return await http.post(url, headers={"Content-Length": "0"}, body=b"", seconds=seconds)


async def test_an_empty_post_has_a_length_of_zero_and_no_body(http: HttpClient, server: Server) -> None:
    seen: list[bytes] = []
    async with server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", seen)) as url:
        assert (200, b"{}") == await post(http, url)
    assert seen[0].startswith(b"POST /path HTTP/1.1\r\n")
    assert 1 == seen[0].lower().count(b"content-length: 0\r\n")
    assert b"transfer-encoding" not in seen[0].lower()


async def test_a_redirect_is_not_followed(http: HttpClient, server: Server) -> None:
    seen: list[bytes] = []
    redirect = b"HTTP/1.1 307 Temporary\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with server(answering(redirect, seen)) as url:
        assert 307 == (await post(http, url))[0]
    assert 1 == len(seen)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_no_answer_makes_the_library_send_it_again(http: HttpClient, server: Server, status: int) -> None:
    seen: list[bytes] = []
    async with server(answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, seen)) as url:
        assert status == (await post(http, url))[0]
    assert 1 == len(seen)


async def test_a_body_is_sent_as_it_is(http: HttpClient, server: Server) -> None:
    body, seen = b"grant_type=refresh_token\r\n\r\n\xff", []

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(await reader.readexactly(len(body)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with server(whole) as url:
        await http.post(url, headers={}, body=body, seconds=20)
    assert [body] == seen


broken = pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nrubb",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
    ],
    ids=["dropped", "not HTTP", "cut off", "bad gzip", "too long"],
)


@broken
async def test_once_it_is_sent_a_broken_answer_leaves_it_in_doubt(
    http: HttpClient, server: Server, answer: bytes
) -> None:
    seen: list[bytes] = []
    async with server(answering(answer, seen)) as url:
        with pytest.raises(NoAnswer):
            await post(http, url)
    assert 1 == len(seen)


async def test_a_reset_after_the_request_was_read_leaves_it_in_doubt(http: HttpClient, server: Server) -> None:
    seen: list[bytes] = []

    async def read_and_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        reset(writer)

    async with server(read_and_reset) as url:
        with pytest.raises(NoAnswer):
            await post(http, url)
    assert 1 == len(seen)


async def test_a_kept_connection_that_was_dropped_leaves_it_in_doubt_and_is_not_tried_again(
    http: HttpClient, server: Server
) -> None:
    seen: list[bytes] = []

    async def one_answer_then_drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", seen)(reader, writer)
        seen.append(await reader.readuntil(b"\r\n\r\n"))

    async with server(one_answer_then_drop) as url:
        await post(http, url)
        with pytest.raises(NoAnswer):
            await post(http, url)
    assert 2 == len(seen)


async def test_an_answer_that_never_comes_leaves_it_in_doubt(http: HttpClient, server: Server) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as url:
        with pytest.raises(NoAnswer):
            await post(http, url, seconds=0.2)


async def test_without_a_connection_nothing_was_sent(production: HttpClient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(NotSent):
            await post(production, f"http://127.0.0.1:{port}/")


async def test_a_name_that_does_not_resolve_means_that_nothing_was_sent(production: HttpClient) -> None:
    with pytest.raises(NotSent):
        await post(production, "http://no-such-host.invalid/")


async def test_a_handshake_that_fails_or_never_ends_means_that_nothing_was_sent(production: HttpClient) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    for serve in (silent, answering(b"no TLS here")):
        async with listening(serve) as port:
            with pytest.raises(NotSent):
                await post(production, f"https://127.0.0.1:{port}/", seconds=0.4)


async def test_a_post_that_is_cut_off_while_it_connects_was_not_sent(production: HttpClient) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as port:
        with pytest.raises(NotSent):
            async with asyncio.timeout(0.3):
                await post(production, f"https://127.0.0.1:{port}/")


async def test_a_post_that_is_cut_off_later_leaves_it_in_doubt(http: HttpClient, server: Server) -> None:
    seen: list[bytes] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async with server(silent) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await post(http, url)
    assert 1 == len(seen)


async def test_to_a_server_that_nobody_vouches_for_nothing_is_sent(production: HttpClient) -> None:
    seen: list[bytes] = []
    async with listening(answering(b"", seen), Authority().server_context()) as port:
        with pytest.raises(NotSent):
            await post(production, f"https://127.0.0.1:{port}/")
    assert not seen


async def test_to_a_server_that_is_vouched_for_under_another_name_nothing_is_sent() -> None:
    seen: list[bytes] = []
    authority = Authority()
    client = HttpClient(authority.client_context())
    async with listening(answering(b"", seen), authority.server_context("elsewhere.example")) as port:
        with pytest.raises(NotSent):
            await post(client, f"https://127.0.0.1:{port}/")
    await client.close()
    assert not seen


@broken
async def test_no_exception_tells_a_header_or_a_body(production: HttpClient, answer: bytes) -> None:
    headers, body = {"Authorization": f"Bearer {MARK}-access"}, f"{MARK}-refresh".encode()
    async with listening(answering(answer)) as port:
        with pytest.raises(NoAnswer) as caught:
            await production.post(f"http://127.0.0.1:{port}/", headers=headers, body=body, seconds=5)
    assert MARK not in f"{caught.value!r} {caught.value.__cause__!r}"
