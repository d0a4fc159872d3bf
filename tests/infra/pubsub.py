"""A double of Pub/Sub's REST API, as far as the smoke test uses it."""

import base64
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class PubSub:
    """Answers the smoke test's event with `rejection`, after it has refused `refusals` calls.

    `faults` are what goes wrong with the answers to a verb, one after the other, once the call is carried out.
    `others` wait beside the rejection.
    """

    rejection: Mapping[str, object] | None = None
    refusals: int = 0
    faults: dict[str, list[str]] = field(default_factory=dict)
    others: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str, body: Any) -> tuple[int, object]:
        self.calls.append((path, body))
        if self.refusals:
            self.refusals -= 1
            return 403, {"error": {"code": 403, "message": "User not authorized to perform this action."}}
        if not path.endswith(":pull") or self.rejection is None:
            return 200, {}
        published = next(body for path, body in self.calls if path.endswith(":publish"))
        event = json.loads(base64.b64decode(published["messages"][0]["data"]))
        data = base64.b64encode(json.dumps({**self.rejection, "archiveJobId": event["archiveJobId"]}).encode()).decode()
        return 200, {"receivedMessages": [*self.others, received("a", data, userId=event["userId"])]}


def received(ack_id: str, data: str, hours_ago: float = 0, **attributes: str) -> dict[str, Any]:
    """A message as it is pulled, with the nanoseconds that Google gives."""
    published = f"{datetime.now(UTC) - timedelta(hours=hours_ago):%Y-%m-%dT%H:%M:%S.123456789Z}"
    return {"ackId": ack_id, "message": {"data": data, "attributes": attributes, "publishTime": published}}


@contextmanager
def serving() -> Iterator[PubSub]:
    """The double behind an address."""
    double = PubSub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            read = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, found = double.answer(self.path, read)
            fault = (double.faults.get(self.path.rpartition(":")[2]) or [""]).pop(0)
            if fault == "disconnected":
                return
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            body = b"<html>" if fault == "no JSON" else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (fault == "cut off")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        double.address = f"127.0.0.1:{server.server_port}"
        yield double
        server.shutdown()
