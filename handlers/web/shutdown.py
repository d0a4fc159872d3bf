"""SIGTERM: Cloud Run kills an instance ten seconds after it (https://cloud.google.com/run/docs/container-contract#lifecycle).

What is in hand goes on; what has not begun its call to Google is handed back, and the server takes nothing new.
"""

import asyncio
import signal
import threading
from typing import Any


def listen(began: asyncio.Event, *, exits: bool) -> None:
    """Set `began` at the signal, beside the server, which stops taking requests at it.

    `exits`: let the process exit when the server is done. uvicorn raises SIGTERM anew then, and its default handler
    would kill the process with the spans that are still here. Blocked, the signal stays pending.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # no other thread may listen for signals; whoever runs us in one ends us some other way
    server = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        began.set()
        if callable(server):
            if exits:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            server(number, frame)

    signal.signal(signal.SIGTERM, handle)
