"""A hostile peer between the function and the stand-ins of Google: it has the certificate, and answers as it likes.

It passes every request on, reads the honest answer, and gives that or what a mischief makes of it.
"""

import contextlib
import gzip
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self

from local.authority import Authority

_KEY = re.compile(r"/v1/archiveJobs/(?P<job>[^:]+):retry|refresh_token=(?P<token>[^&]+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MEGABYTE = 1 << 20
_MOST_BYTES = 1 << 30  # of what has no end: the function has to have hung up long before


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and the honest answer's parts. Sending raises OSError where nobody is there to take it."""

    request: bytes
    status: str
    body: bytes
    caller: ssl.SSLSocket
    over: threading.Event  # nobody waits any more

    def answer(self, body: bytes | None = None, status: str = "", **headers: str) -> None:
        """Send an answer; what is not given is the honest one's."""
        body = self.body if body is None else body
        told = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.send(_head(status or self.status, told) + body)

    def send(self, data: bytes) -> None:
        """Send these bytes as they are."""
        self.caller.sendall(data)

    def hang_up(self) -> None:
        """Without a word of TLS."""
        self.caller.shutdown(socket.SHUT_RDWR)

    @property
    def bearer(self) -> str:
        """The access token that came with the request."""
        return self.request.partition(b"Bearer ")[2].partition(b"\r\n")[0].decode()


Mischief = Callable[[Exchange], None]


class HostilePeer(AbstractContextManager["HostilePeer"]):
    """It serves at `port` while entered, in front of `google_port`, each connection in a thread.

    `mischiefs` are by what a request is for: a job's id, or a refresh token. Each is done once; others get the truth.
    """

    def __init__(self, google_port: int, authority: Authority, mischiefs: Mapping[str, Mischief]) -> None:
        self.port = 0
        self._google_port = google_port
        self._serves, self._trusts = authority.server_context(), authority.client_context()
        self._mischiefs = dict(mischiefs)
        self._over = threading.Event()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Listen on a free port of the loopback interface."""
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up on everybody."""
        self._over.set()
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                self._open.append(caller.dup())  # to hang up by: what TLS holds is its thread's alone
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), self._serves.wrap_socket(raw, server_side=True) as caller:
            for request in _requests(caller.makefile("rb")):
                mischief = self._mischiefs.pop(_key(request), Exchange.answer)
                mischief(Exchange(request, *self._honest(request), caller, self._over))

    def _honest(self, request: bytes) -> tuple[str, bytes]:
        with (
            socket.create_connection(("127.0.0.1", self._google_port)) as raw,
            self._trusts.wrap_socket(raw, server_hostname="127.0.0.1") as google,
        ):
            google.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            head, _, body = google.makefile("rb").read().partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0].decode().partition(" ")[2], body


def _requests(reader: BinaryIO) -> Iterator[bytes]:
    head = b""
    while line := reader.readline():
        head += line
        if line == b"\r\n":
            length = _LENGTH.search(head)
            yield head + (reader.read(int(length[1])) if length else b"")
            head = b""


def _key(request: bytes) -> str:
    found = _KEY.search(request.decode("latin-1"))
    return (found["job"] or found["token"]) if found else ""


def _head(status: str, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# Mischiefs


def twice(exchange: Exchange) -> None:
    """The answer, and once more unasked, when the connection is idle."""
    exchange.answer()
    exchange.over.wait(0.05)
    exchange.answer()


def late(seconds: float) -> Mischief:
    """The honest answer, so much later."""

    def answer(exchange: Exchange) -> None:
        exchange.over.wait(seconds)
        exchange.answer()

    return answer


def endless_body(exchange: Exchange) -> None:
    """A body without an end, as fast as it is taken."""
    exchange.send(_head("200 OK", {"Content-Type": "application/json"}) + b'{"archiveJobId": "')
    for _ in range(_MOST_BYTES // _MEGABYTE):
        exchange.send(b"x" * _MEGABYTE)


def dripping_body(exchange: Exchange) -> None:
    """A body that comes a byte at a time, and never ends."""
    exchange.send(_head("200 OK", {"Content-Type": "application/json", "Content-Length": "100000"}))
    while not exchange.over.wait(0.2):
        exchange.send(b" ")


def endless_headers(exchange: Exchange) -> None:
    """Headers without an end."""
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(_MOST_BYTES // 1024):
        exchange.send(f"X-{number}: {'x' * 1000}\r\n".encode())


def megabytes_of_headers(exchange: Exchange) -> None:
    """The honest answer under one header of four megabytes."""
    exchange.answer(X_Padding="x" * 4 * _MEGABYTE)


def bomb(exchange: Exchange) -> None:
    """A gigabyte of blanks in a megabyte: members of a gzip file, one after the other, are one file."""
    exchange.answer(gzip.compress(b" " * 32 * _MEGABYTE) * 32, Content_Encoding="gzip")


def cut_off(exchange: Exchange) -> None:
    """Half of the honest answer, and the end."""
    exchange.send(_head("200 OK", {"Content-Length": str(len(exchange.body))}) + exchange.body[:-5])
    exchange.hang_up()


def no_http(exchange: Exchange) -> None:
    """Bytes that are no HTTP."""
    exchange.send(b"220 mail.example ESMTP\r\n")
    exchange.hang_up()


def redirect(exchange: Exchange) -> None:
    """To where the same request would tell its secret."""
    exchange.answer(b"", "307 Temporary Redirect", Location="https://elsewhere.example/")


def bearer_as_id(exchange: Exchange) -> None:
    """The access token as the new job's id."""
    exchange.answer(json.dumps({"archiveJobId": exchange.bearer}).encode())


def changed(**fields: Any) -> Mischief:
    """The honest answer with other values in it."""

    def answer(exchange: Exchange) -> None:
        exchange.answer(json.dumps(json.loads(exchange.body) | fields).encode())

    return answer
