"""Asks a server for nothing, again and again, and prints at the end of its input how long it waited at most.

`python -m tests.e2e.prober PORT WORKER`: a process of its own, because a busy client would be measured in its place.
What counts is the CPU that the worker used while it let the prober wait: on a busy machine waiting alone says nothing.
"""

import http.client
import sys
import threading
import time

from tests.bench.process_tree import cpu_seconds


def probe(port: int, worker: int, ended: threading.Event) -> float:
    """Seconds of the worker's CPU during the longest wait."""
    worst = 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not ended.is_set():
        begun = cpu_seconds(worker)
        connection.request("GET", "/")
        connection.getresponse().read()
        worst = max(worst, cpu_seconds(worker) - begun)
        time.sleep(0.01)
    return worst


if __name__ == "__main__":
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    print(probe(int(sys.argv[1]), int(sys.argv[2]), ended))
