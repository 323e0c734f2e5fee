"""Task servers and processes that run tasks, seen from the driver, and how the first of them start.

The variables of `@environment` must be there before the flow is imported. So each distinct set of variables has a fresh
interpreter, which imports the flow with them and then forks that step's tasks, as the driver's own server does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowstore import later
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run.local import messages, server, threads
from flowstore.run.local.turns import Printed, Turns
from flowstore.run.orders import Order
from flowstore.run.randomness import Generators

if TYPE_CHECKING:
    import subprocess

    from flowstore.run.local.interpreter import Interpreters, Spawner
    from flowstore.run.snapshot import Sources

END_S = 10.0  # for what the import of the flow has left to do in that interpreter


@later.frozen
class Starting:
    """A process that is to be forked once the server is ready: its number and its descriptors."""

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
        warm: the indexes in `codecs.SLOW` of what it has imported.
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

    def ask(self, kind: bytes, number: int, argument: int) -> None:
        """Send a message that needs no descriptors."""
        try:
            self.control.sendall(server.MESSAGE.pack(kind, number, argument))
        except ConnectionError:
            raise died() from None

    def fork(self, ident: int, descriptors: Sequence[int]) -> None:
        """Have it fork a process."""
        socket.send_fds(self.control, [server.MESSAGE.pack(server.FORK, ident, 0)], list(descriptors))

    def hear(self, *, wait: bool) -> tuple[bytes, int, int] | None:
        """Take one of its messages; `None` where there is none, one of no kind (`b""`) where it has ended."""
        data = (messages.receive_waiting if wait else messages.receive_now)(self.control, server.MESSAGE.size)
        if data is None:
            return None
        while 0 < len(data) < server.MESSAGE.size:
            more = messages.receive_waiting(self.control, server.MESSAGE.size - len(data))
            data = data + more if more else b""
        return server.MESSAGE.unpack(data) if data else (b"", 0, 0)

    def withdraw(self, ident: int) -> bool:
        """Take back the wish for a process; return False where the server has been asked for it already."""
        for item in self.starting:
            if item.ident == ident:
                self.starting.remove(item)
                item.close()
                return True
        return False

    def close(self, *, kill: bool = False) -> int:
        """Let it end, and wait for that; return the interpreter's exit code.

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
            "flowstore.run.local.server:imported",
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
    """Return the error that ends a run without its task server."""
    return FlowstoreError("The task server died, so no more tasks can be started.")


STREAMS = ("stdout", "stderr")
_CHANNEL = "channel"
Start = Callable[["Worker", socket.socket, list[int]], None]


class Worker:
    """One process that runs tasks, and the driver's ends of its three connections."""

    def __init__(self, ident: int) -> None:
        self.ident = ident  # what the task server calls it
        self.step = ""  # of the attempts that it has run
        self.number: int | None = None  # the attempt that it runs
        self.turns: Turns | None = None  # of one that is reused
        self.ahead: deque[tuple[int, Order]] = deque()  # the attempts that it is to run after that
        self.ahead_bytes = 0  # of what was sent for these
        self.may_have_more = False  # it has begun an attempt since turns were taken back
        self.began = 0.0  # when it began that, by the clock that never goes back
        self.printed: dict[str, Printed] = {}  # by stream, where attempts share it
        self.last = 0  # the attempt that it ran last
        self.reported = False  # that attempt is over, but for what the process does at its end
        self.pid: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket
        self.pipes: dict[str, int | socket.socket] = {}  # stream: what to read it from
        self.reader = messages.Reader()
        self.garbled = False
        self.refused: int | None = None  # the errno with which the system refused to start it
        self.server: TaskServer | None = None  # which forks it
        self.order: dict[str, Any] | None = None  # its first, where it is sent once the server is ready

    def connect(self, start: Start, *, reused: bool) -> None:
        """Make the connections, and have `start` start the process with the other ends; `reused`: with turns."""
        self.channel, theirs = socket.socketpair()
        ends: dict[str, tuple[int, int]] = {}
        try:
            for stream in STREAMS:
                ends[stream] = os.pipe()
            if reused:
                self.turns = Turns(self.channel)
                self.printed = {stream: Printed(self.turns.mark) for stream in STREAMS}
            more = [] if self.turns is None else [self.turns.theirs.fileno()]
            start(self, theirs, [*(end for _, end in ends.values()), *more])
        finally:
            theirs.close()
            for _, end in ends.values():
                os.close(end)
            self.pipes = {stream: messages.selectable(ours) for stream, (ours, _) in ends.items()}

    def connections(self) -> Iterator[tuple[str, int | socket.socket]]:
        """Yield the connections that can be read, with their names."""
        yield _CHANNEL, self.channel
        yield from self.pipes.items()

    def disconnect(self) -> None:
        """Close all connections of a worker that was never listened to."""
        for name, _ in list(self.connections()):
            messages.close(self.take(name))
        self.close_turns()

    def close_turns(self) -> None:
        """Close the driver's ends of its turns."""
        if self.turns is not None:
            self.turns.close()

    def take(self, name: str) -> int | socket.socket:
        """Return a connection that is to be closed."""
        return self.channel if name == _CHANNEL else self.pipes.pop(name)


def default_start_method() -> str:
    """Return `fork` where it is there and safe, else `spawn`."""
    return "fork" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"


class Processes:
    """Starts what runs the tasks of a flow.

    Args:
        flow: its class, as this process imported it.
        graph: its steps.
        sources: its snapshot.
    """

    def __init__(self, flow: type[FlowSpec], graph: Graph, sources: Sources) -> None:
        self._flow = flow
        self._graph = graph
        self._sources = sources
        self._spawner: Spawner | None = None
        self._interpreters: Interpreters | None = None

    def fork_server(self, method: str | None, generators: Generators | None) -> tuple[TaskServer | None, str | None]:
        """Fork this process into a task server.

        Returns:
            The server, `None` where tasks are to be spawned; and a sentence for the user about that.
        """
        if (method or default_start_method()) != "fork":
            self.spawner()
            return None, None
        generators = generators or Generators(sys.modules[self._flow.__module__])
        control, pid = server.start(self._flow, self._graph, generators)
        main = TaskServer(control, pid=pid)
        missed = threads.missed_after_fork()
        if missed and method is None:
            main.close(kill=True)  # it may hang, too
            self.spawner()
            return None, threads.notice(missed, forked=False)
        return main, threads.notice(missed, forked=True) if missed else None

    def import_server(self, environment: Mapping[str, str], ends: Sequence[int]) -> TaskServer:
        """Start the server for a step's variables; `ends` is where the import of the flow prints."""
        if self._interpreters is None:
            from flowstore.run.local.interpreter import Interpreters

            self._interpreters = Interpreters(self._flow, self._sources)
        return start(self._interpreters, environment, *ends[:2])

    def spawner(self) -> Spawner:
        """Return the spawner, which starts interpreters that run tasks themselves."""
        if self._spawner is None:
            from flowstore.run.local.interpreter import Spawner

            self._spawner = Spawner(self._flow, self._sources)
        return self._spawner

    @property
    def spawns(self) -> bool:
        """Whether there is, or was, a process that `spawner` started."""
        return self._spawner is not None

    def close(self) -> None:
        """Wait until all interpreters have ended."""
        if self._spawner is not None:
            self._spawner.close()
        if self._interpreters is not None:
            self._interpreters.close()
