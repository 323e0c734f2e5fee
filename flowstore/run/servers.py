"""The driver's end of a task server (`server`), and the start of one with a step's environment variables.

What a step asks for with `@environment` must be there before the flow is imported. So each distinct set of variables
has a fresh interpreter, which imports the flow with them and then forks that step's tasks, as the driver's own server
does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from flowstore.errors import FlowstoreError
from flowstore.run import server, streams

if TYPE_CHECKING:
    import subprocess

    from flowstore.run.interpreter import Interpreters

END_S = 10.0  # for what the import of the flow has left to do in that interpreter


@attrs.frozen(eq=False, repr=False)
class Starting:
    """A process that is to be forked once the server is ready: its number, its descriptors, its first order."""

    ident: int
    descriptors: Sequence[int]

    def close(self) -> None:
        """Close the descriptors, which the process has, or which nobody needs."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class TaskServer:
    """A task server, seen from the driver.

    Args:
        control: the socket to talk to it.
        pid: its process, where this one has forked it.
        process: the interpreter that forks it once it has imported the flow.

    Attributes:
        importing: whether it has not yet said that it is ready.
        starting: what waits for that.
        warm: what of `worker.LAZY` it has been told to import.
    """

    def __init__(
        self, control: socket.socket, *, pid: int | None = None, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.control = control
        self.importing = process is not None
        self.starting: list[Starting] = []
        self.warm: set[int] = set()
        self._pid = pid
        self._process = process

    def ask(self, what: bytes, number: int, argument: int) -> None:
        """Send a message that needs no descriptors."""
        try:
            self.control.sendall(server.MESSAGE.pack(what, number, argument))
        except ConnectionError:
            raise died() from None

    def fork(self, ident: int, descriptors: Sequence[int]) -> None:
        """Have it fork a process."""
        socket.send_fds(self.control, [server.MESSAGE.pack(server.FORK, ident, 0)], list(descriptors))

    def hear(self, *, wait: bool) -> tuple[bytes, int, int] | None:
        """Take one of its messages; `None` where there is none, of no kind (`b""`) where it has ended."""
        data = (streams.receive if wait else streams.receive_now)(self.control, server.MESSAGE.size)
        if data is None:
            return None
        while 0 < len(data) < server.MESSAGE.size:
            more = streams.receive(self.control, server.MESSAGE.size - len(data))
            data = data + more if more else b""
        return server.MESSAGE.unpack(data) if data else (b"", 0, 0)

    def withdraw(self, ident: int) -> bool:
        """Have a process not be forked after all; False where it has been asked for."""
        for item in self.starting:
            if item.ident == ident:
                self.starting.remove(item)
                item.close()
                return True
        return False

    def close(self, *, kill: bool = False) -> int:
        """Let it end, and wait for that; gives the interpreter's exit code.

        Args:
            kill: end it at once, with what it still imports.
        """
        for item in self.starting:
            item.close()
        if self._pid is not None:
            if kill:
                os.kill(self._pid, signal.SIGKILL)
            self.control.close()
            os.waitpid(self._pid, 0)
        self.control.close()
        if self._process is None:
            return 0
        if kill:
            self._process.kill()
        import subprocess

        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_S)
        self._process.kill()
        return self._process.wait()


def start(interpreters: Interpreters, environment: Mapping[str, str], out: int, err: int) -> TaskServer:
    """Start an interpreter that becomes a task server.

    Args:
        interpreters: how to start one.
        environment: variables that it has in addition to ours.
        out: where it writes what the import of the flow prints.
        err: where it writes what the import of the flow prints as errors.
    """
    ours, theirs = socket.socketpair()
    try:
        process = interpreters.start(
            "flowstore.run.server:imported",
            {"control": theirs.fileno()},
            fds=[theirs.fileno()],
            stdout=out,
            stderr=err,
            environment={**os.environ, **environment},
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return TaskServer(ours, process=process)


def died() -> FlowstoreError:
    """The error that ends a run without its task server."""
    return FlowstoreError("The task server died, so no more tasks can be started.")
