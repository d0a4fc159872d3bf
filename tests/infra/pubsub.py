"""A double of Pub/Sub's REST API, as far as the smoke test uses it."""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class PubSub:
    """Answers the smoke test's event with `rejection`, after it has refused `refusals` calls."""

    rejection: Mapping[str, object] | None = None
    refusals: int = 0
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
        message = {"data": data, "attributes": {"userId": event["userId"]}}
        return 200, {"receivedMessages": [{"ackId": "a", "message": message}]}


@contextmanager
def serving() -> Iterator[PubSub]:
    """The double behind an address."""
    double = PubSub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            read = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, found = double.answer(self.path, read)
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        double.address = f"127.0.0.1:{server.server_port}"
        yield double
        server.shutdown()
