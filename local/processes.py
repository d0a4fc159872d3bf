"""Child processes that cannot outlive us.

Emulators and function servers start children of their own (`java` under a launcher, gunicorn's workers), so each is
put into a process group of its own and the whole group is ended. A tether ends it even when we die by SIGKILL: the
group holds one more process that waits for the end of a pipe whose other end is ours alone.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# The command replaces the shell, so the child's id is the command's own; the tether stays behind in its group.
_TETHERED = 'exec 3<&0; (read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'


class Child:
    """A running command, alone in its process group; everything it prints goes to `output`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _TETHERED, "tether", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The command's process id, which is its group's too."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """What the command ended with, None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the command to end, as Cloud Run does: SIGTERM to it alone."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the whole group now and wait until the command is gone. Does nothing the second time."""
        # Until the pipe is closed the tether keeps the group in being, so its id cannot mean anybody else's.
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.stdin.close()
        self._process.wait()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
