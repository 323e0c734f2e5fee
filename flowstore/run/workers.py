"""A process that runs tasks, seen from the driver: its state, and this end of its three connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flowstore.run import streams, wire

if TYPE_CHECKING:
    import subprocess

    from flowstore.run.servers import TaskServer

STREAMS = ("stdout", "stderr")
_CHANNEL = "channel"
Start = Callable[["Worker", socket.socket, list[int]], None]


class Worker:
    """One process that runs tasks, and the driver's ends of its three connections."""

    def __init__(self, ident: int) -> None:
        self.ident = ident  # what the task server calls it
        self.step = ""  # of the attempts that it has run
        self.number: int | None = None  # the attempt that it runs
        self.last = 0  # the attempt that it ran last
        self.reported = False  # that attempt is over, but for what the process does at its end
        self.pid: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket
        self.pipes: dict[str, int | socket.socket] = {}  # stream: what to read it from
        self.reader = wire.Reader()
        self.garbled = False
        self.refused: int | None = None  # the errno with which the system refused to start it
        self.server: TaskServer | None = None  # which forks it
        self.order: dict[str, Any] | None = None  # its first, where it is sent once the server is ready

    def connect(self, start: Start) -> None:
        """Make the connections, and have `start` start the process with the other ends."""
        self.channel, theirs = socket.socketpair()
        ends: dict[str, tuple[int, int]] = {}
        try:
            for stream in STREAMS:
                ends[stream] = os.pipe()
            start(self, theirs, [end for _, end in ends.values()])
        finally:
            theirs.close()
            for _, end in ends.values():
                os.close(end)
            self.pipes = {stream: streams.selectable(ours) for stream, (ours, _) in ends.items()}

    def connections(self) -> Iterator[tuple[str, int | socket.socket]]:
        """Yield the connections that can be read, with their names."""
        yield _CHANNEL, self.channel
        yield from self.pipes.items()

    def disconnect(self) -> None:
        """Close all connections of a worker that was never listened to."""
        for what, _ in list(self.connections()):
            streams.close(self.take(what))

    def take(self, what: str) -> int | socket.socket:
        """A connection that is to be closed."""
        return self.channel if what == _CHANNEL else self.pipes.pop(what)
