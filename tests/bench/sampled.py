"""`functions-framework` with a sampler in its worker: which parts of the program an event's CPU goes to.

At the first BEGIN it begins to count, at END it writes the milliseconds by part to the file that SAMPLED_INTO names.
"""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from functions_framework._cli import _cli

BEGIN, END = signal.SIGRTMIN, signal.SIGRTMIN + 1  # signals that neither gunicorn nor uvicorn uses
_EVERY = 0.001  # seconds of CPU between two samples

# The innermost frame whose file is in one of these has the sample: the standard library works for its caller.
PARTS = {
    "HTTP client: token endpoint and API": ("/site-packages/aiohttp/", "/site-packages/yarl/", "http_client.py"),
    "gRPC": ("/site-packages/grpc/",),
    "Google's generated clients": ("/site-packages/google/", "/site-packages/proto/"),
    "server and framework": ("/uvicorn/", "/uvicorn_worker/", "/starlette/", "/functions_framework/", "/gunicorn/"),
    "log line": ("/handlers/telemetry/", "/logging/"),
    "ledger": ("/handlers/google/firestore.py", "/handlers/ledger.py", "/handlers/domain/ledger_entry.py"),
    "batches": ("/handlers/google/batching.py",),
    "access tokens": (
        "/handlers/google/oauth.py",
        "/handlers/google/user_tokens.py",
        "/handlers/google/secret_manager.py",
    ),
    "use case and the rest of handlers/": ("/handlers/",),
}
_REST = "event loop, reading of TLS, the rest"
_THREADS = "gRPC, in threads of its own"


def part_of(frame: FrameType | None) -> str:
    while frame and not frame.f_code.co_filename.endswith("asyncio/runners.py"):
        for part, fragments in PARTS.items():
            if any(fragment in frame.f_code.co_filename for fragment in fragments):
                return part
        frame = frame.f_back
    return _REST


class Sampler:
    """In one process, from its start to its end."""

    def __init__(self, into: Path) -> None:
        self._into = into
        self._found: Counter[str] = Counter()
        self._seen = 0.0, 0.0  # seconds of CPU: of the main thread, and of the whole process
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
        signal.signal(BEGIN, lambda number, frame: self._found.clear())
        signal.signal(END, lambda number, frame: self._write())

    def _sample(self, number: int, frame: FrameType | None) -> None:
        main, process = self._seen
        spent, of_all = time.thread_time() - main, time.process_time() - process
        self._found[part_of(frame)] += round(spent * 1e6)
        self._found[_THREADS] += round((of_all - spent) * 1e6)
        self._seen = time.thread_time(), time.process_time()  # without what the sampler takes

    def _write(self) -> None:
        self._into.write_text(json.dumps({part: spent / 1000 for part, spent in self._found.items()}))


if __name__ == "__main__":
    os.register_at_fork(after_in_child=lambda: Sampler(Path(os.environ["SAMPLED_INTO"])))
    _cli()
