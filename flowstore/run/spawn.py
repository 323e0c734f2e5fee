"""Fresh interpreters that run tasks, each in a session of its own, so that a kill reaches what its step has started.

When the driver is killed, the system ends the interpreters (`worker.die_with_parent`), and a guard what their steps
have started: a process that was told of each.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

from flowstore.flow.spec import FlowSpec
from flowstore.run import guard
from flowstore.run.interpreter import Interpreters
from flowstore.run.snapshot import Sources


class Spawner:
    """Starts the interpreters, and knows those that have not ended."""

    def __init__(self, flow: type[FlowSpec], sources: Sources) -> None:
        self._interpreters = Interpreters(flow, sources)
        self._leaving: list[subprocess.Popen[bytes]] = []
        self._guard: subprocess.Popen[bytes] | None = None
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # all else goes on without it
                self._guard = subprocess.Popen(
                    [sys.executable, "-IS", guard.__file__],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )

    def start(
        self, channel: socket.socket, out: int, err: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start an interpreter that takes its orders from a channel, with variables in addition to ours."""
        handle = channel.fileno()
        fds = [] if sys.platform == "win32" else [handle]
        process = self._interpreters.start(
            "flowstore.run.worker:spawned",
            {"channel": handle},
            fds=fds,
            stdout=out,
            stderr=err,
            environment={**os.environ, **environment},
        )
        if sys.platform == "win32":
            assert process.stdin is not None
            process.stdin.write(channel.share(process.pid))
            process.stdin.close()
        self._tell(process.pid)
        return process

    def kill(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """Send a signal to a process, and to what its step has started."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, how)

    def leave(self, process: subprocess.Popen[bytes]) -> None:
        """Let a process end, for which nothing is left to do."""
        self._leaving.append(process)

    def reap(self) -> None:
        """Take note of those that have ended."""
        for process in self._leaving:
            if process.poll() is not None:
                self._tell(-process.pid)
        self._leaving = [process for process in self._leaving if process.returncode is None]

    def close(self) -> None:
        """Wait until all have ended."""
        for process in self._leaving:
            process.wait()
        self._interpreters.close()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()

    def _tell(self, number: int) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed
                self._guard.stdin.write(f"{number}\n".encode())
