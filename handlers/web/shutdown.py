"""SIGTERM: Cloud Run kills an instance ten seconds after it (https://cloud.google.com/run/docs/container-contract#lifecycle).

What is in hand goes on; what has not begun its call to Google is handed back, and the server takes nothing new.
"""

import signal
import threading
from typing import Any


class Shutdown:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self._began = False

    def __call__(self) -> bool:
        return self._began

    def start(self) -> None:
        self._began = True

    def listen(self) -> None:
        """Listen for the signal beside the server, which stops taking requests at it."""
        if threading.current_thread() is not threading.main_thread():
            return  # no other thread may listen for signals; whoever runs us in one ends us some other way
        server = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            self.start()
            if callable(server):
                server(number, frame)

        signal.signal(signal.SIGTERM, handle)
