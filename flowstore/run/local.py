"""Tasks on this machine: an executor whose attempts are processes.

Each is forked by the task server, or is a fresh interpreter where there is no `fork`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run import imports, server, snapshot, streams, threads, wire
from flowstore.run.executor import Died, Ended, Event, Offered, Printed, Reported, Sent, Started
from flowstore.run.randomness import Generators
from flowstore.run.worker import LAZY, PARQUET

if TYPE_CHECKING:
    import subprocess

    from flowstore.run.snapshot import Sources
    from flowstore.run.spawn import Spawner

_STREAMS = ("stdout", "stderr")


class _Worker:
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


def default_start_method() -> str:
    """`fork` where it is there and safe, else `spawn`."""
    return "fork" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"


class LocalExecutor:
    """Runs attempts as processes of this machine.

    Made before the store is opened, and before what only a driver needs is imported: the task server is forked here,
    SQLite must not see a fork, and each fork of a smaller process is cheaper.

    Args:
        flow: its class, as this process imported it.
        graph: its steps.
        method: 'fork' or 'spawn'; default: `default_start_method`, but 'spawn' where this process has threads that a
            forked task would miss.
        reuse: whether attempts of a step may share a process, one after the other.
        generators: the random generators as the import of the flow left them; default: as they are now.
        sources: the flow's snapshot, by default taken now.

    Attributes:
        notice: what to tell the user about how tasks start, if there is something.
    """

    def __init__(
        self,
        flow: type[FlowSpec],
        graph: Graph,
        *,
        method: str | None = None,
        reuse: bool = False,
        generators: Generators | None = None,
        sources: Sources | None = None,
    ) -> None:
        if context.state.store is not None:
            context.state.store.close()  # opened while the flow was imported
        context.state.flow_module = sys.modules[flow.__module__]
        self.reuse = reuse
        self._flow = flow
        self._graph = graph
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}  # by ident, all that have not ended
        self._running: dict[int, _Worker] = {}  # by attempt number
        self._idle: dict[str, list[_Worker]] = {}  # by step
        self._ready: _Worker | None = None  # has not run anything yet
        self._started: list[Event] = []  # not yet told
        self._ended: list[tuple[_Worker, int]] = []  # processes that are gone, with exit codes; 0 where there was none
        self._numbers = 0
        self._idents = 0
        sources = snapshot.take(flow) if sources is None else sources
        imports.install(sources)
        self._warm: set[int] = set()  # what of `LAZY` the task server has been told to import
        self._control: socket.socket | None = None
        self._spawner: Spawner | None = None
        self.notice: str | None = None
        if (method or default_start_method()) == "fork":
            generators = generators or Generators(context.state.flow_module)
            self._control, self._server_pid = server.start(flow, graph, generators)
            if missed := threads.missed_after_fork():
                self.notice = threads.notice(missed, forked=method is not None)
                if not method:
                    os.kill(self._server_pid, signal.SIGKILL)  # it may hang, too
                    self._end_server()
        if self._control is not None:
            self._selector.register(self._control, selectors.EVENT_READ, (None, "control"))
            if "pyarrow" in sys.modules:  # pandas imports it, so that there may be frames to store
                self._warm_up([LAZY.index(PARQUET)])
            self._keep_ready()
        else:
            from flowstore.run.spawn import Spawner

            self._spawner = Spawner(flow, sources)

    def watch(self, waker: socket.socket) -> None:
        """Return from `wait` as soon as `waker` can be read."""
        self._selector.register(waker, selectors.EVENT_READ, (None, "waker"))

    def launch(self, order: Mapping[str, Any], step: str) -> int:
        """Start an attempt; gives the number that its events carry."""
        self._numbers += 1
        idle = self._idle.get(step)
        worker = idle.pop() if idle else self._take_ready() or self._start()
        worker.number = worker.last = self._numbers
        worker.step, worker.reported = step, False
        self._running[self._numbers] = worker
        if worker.pid is not None:
            self._started.append(Started(worker.number, worker.pid))
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died already, which `wait` tells
            wire.send(worker.channel, {**order, "reuse": self.reuse})
        if self._control is not None and self._graph[step].kind != "end":  # which nothing follows
            self._keep_ready()
        return self._numbers

    def answer(self, number: int, message: dict[str, Any]) -> None:
        """Reply to an offer."""
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died, which `wait` tells
            wire.send(self._running[number].channel, message)

    def kill(self, number: int, how: signal.Signals) -> None:
        """Send a signal to an attempt's process group."""
        worker = self._running[number]
        if self._control is not None:
            with contextlib.suppress(FlowstoreError):  # the server died, which `wait` tells
                self._ask(server.KILL, worker.ident, how)
        elif self._spawner is not None and worker.process is not None:
            self._spawner.kill(worker.process, how)

    def finish(self) -> list[int]:
        """Let the processes end that wait for attempts; gives the last attempt of each, whose `Ended` follows."""
        waiting = [worker for workers in self._idle.values() for worker in workers]
        self._idle.clear()
        for worker in waiting:
            worker.number, worker.reported = worker.last, True
            self._running[worker.last] = worker
            with contextlib.suppress(OSError):  # it died, which `wait` tells
                worker.channel.shutdown(socket.SHUT_WR)
        self.reuse = False
        return [worker.last for worker in waiting]

    def close(self) -> None:
        """End every process. What an attempt had not reported is lost."""
        for worker in list(self._workers.values()):
            if worker.process is not None and worker.number is not None:
                self.kill(worker.number, _KILL)
            self._discard(worker)
        if self._spawner is not None:
            self._spawner.close()
        self._end_server()
        self._selector.close()

    def _end_server(self) -> None:
        if self._control is not None:
            self._control.close()
            os.waitpid(self._server_pid, 0)
            self._control = None

    # --- processes

    def _ask(self, what: bytes, number: int, argument: int) -> None:
        """Send the task server a message that needs no descriptors."""
        assert self._control is not None
        try:
            self._control.sendall(server.MESSAGE.pack(what, number, argument))
        except ConnectionError:
            raise _server_died() from None

    def _keep_ready(self) -> None:
        """Have a process that waits for the next attempt, so that this need not wait for a fork."""
        if self._ready is None:
            with contextlib.suppress(OSError):  # too many open files, perhaps: the next attempt is told, if still so
                self._ready = self._start()

    def _take_ready(self) -> _Worker | None:
        """That process; `None` where the system refused it, which it may not do to the next."""
        worker = self._ready
        while worker is not None and worker.pid is None and worker.refused is None:
            self._hear(wait=True)
        if worker is None or worker.refused is not None:
            return None
        self._ready = None
        return worker

    def _start(self) -> _Worker:
        self._idents += 1
        worker = _Worker(self._idents)
        worker.channel, theirs = socket.socketpair()
        ends: dict[str, tuple[int, int]] = {}
        try:
            for stream in _STREAMS:
                ends[stream] = os.pipe()
            child_ends = [end for _, end in ends.values()]
            if self._control is not None:
                message = server.MESSAGE.pack(server.FORK, worker.ident, 0)
                socket.send_fds(self._control, [message], [theirs.fileno(), *child_ends])
            elif self._spawner is not None:
                worker.process = self._spawner.start(theirs, *child_ends)
                worker.pid = worker.process.pid
        except OSError as error:
            if error.errno not in _NO_ROOM:
                worker.channel.close()
                for ours, _ in ends.values():
                    os.close(ours)
                if isinstance(error, ConnectionError):
                    raise _server_died() from None
                raise
            self._refuse(worker, error.errno)
        finally:
            theirs.close()
            for _, end in ends.values():
                os.close(end)
        worker.pipes = {stream: streams.selectable(ends[stream][0]) for stream in _STREAMS}
        self._workers[worker.ident] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, (worker, "channel"))
        for stream, pipe in worker.pipes.items():
            self._selector.register(pipe, selectors.EVENT_READ, (worker, stream))
        return worker

    def _refuse(self, worker: _Worker, number: int) -> None:
        """There is no process for a worker, which ends it before it began."""
        worker.refused = number
        self._ended.append((worker, 0))

    def _discard(self, worker: _Worker) -> None:
        """Forget a worker, and close the driver's ends of its connections."""
        self._workers.pop(worker.ident, None)
        if worker.number is not None:
            self._running.pop(worker.number, None)
        if worker in (idle := self._idle.get(worker.step, [])):
            idle.remove(worker)
        if worker is self._ready:
            self._ready = None
        for connection in (worker.channel, *worker.pipes.values()):
            self._close(connection)
        worker.pipes = {}
        if self._spawner is not None and worker.process is not None:
            self._spawner.leave(worker.process)

    def _close(self, connection: int | socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):  # at its end already
            self._selector.unregister(connection)
        if isinstance(connection, int):
            os.close(connection)
        else:
            connection.close()

    # --- events

    def wait(self, timeout_s: float | None) -> list[Event]:
        """What attempts did; waits for the first of it, at most `timeout_s`."""
        if self._spawner is not None:  # nobody tells when a spawned process ends
            timeout_s = 0.1 if timeout_s is None else min(timeout_s, 0.1)
        ready = [key.data for key, _ in self._selector.select(0 if self._started or self._ended else timeout_s)]
        if (None, "control") in ready:
            while self._hear(wait=False):
                pass
        events: list[Event] = []
        for worker, what in ready:
            if worker is None or worker.ident not in self._workers:
                continue
            while worker.pid is None and worker.refused is None:  # what the task server told of it is on its way
                self._hear(wait=True)
            events += (self._channel(worker) or []) if what == "channel" else self._output(worker, what)
        events, self._started = self._started + events, []
        if self._spawner is not None:
            gone = [worker for worker in self._workers.values() if worker.process and worker.process.poll() is not None]
            self._ended += [(worker, worker.process.returncode) for worker in gone if worker.process]
            self._spawner.reap()
        ended, self._ended = self._ended, []
        for worker, code in ended:
            events += self._end(worker, code)
        return events

    def _hear(self, *, wait: bool) -> bool:
        """Take one message of the server's, if there is one."""
        assert self._control is not None
        receive = streams.receive if wait else streams.receive_now
        data = receive(self._control, server.MESSAGE.size)
        if data is None:
            return False
        while 0 < len(data) < server.MESSAGE.size:
            more = streams.receive(self._control, server.MESSAGE.size - len(data))
            data = data + more if more else b""
        if not data:
            raise _server_died()
        what, ident, argument = server.MESSAGE.unpack(data)
        worker = self._workers.get(ident)
        if worker is not None and what == server.ENDED:
            self._ended.append((worker, os.waitstatus_to_exitcode(argument)))
        elif worker is not None and what == server.REFUSED:
            self._refuse(worker, argument)
        elif worker is not None:
            worker.pid = argument
            if worker.number is not None:
                self._started.append(Started(worker.number, argument))
        return True

    def _output(self, worker: _Worker, stream: str) -> list[Event]:
        """What can be read of a stream now, in one piece."""
        pipe = worker.pipes.get(stream)
        if pipe is None:
            return []
        data = streams.read_now(pipe)
        if data:  # an idle worker's is a forgotten child's, and nobody's
            return [] if worker.number is None else [Printed(worker.number, stream, data)]
        if data is not None:
            self._close(worker.pipes.pop(stream))  # the step closed it
        return []

    def _all_output(self, worker: _Worker) -> list[Event]:
        events: list[Event] = []
        for stream in _STREAMS:
            while more := self._output(worker, stream):
                events += more
        return events

    def _channel(self, worker: _Worker) -> list[Event] | None:
        """What a worker has said; `None` where nothing has arrived."""
        data = streams.receive_now(worker.channel, streams.READ_BYTES)
        if not data:
            if data is not None:  # it closed its end; how it ended is told by the server, or by the process
                self._selector.unregister(worker.channel)
            return None
        events: list[Event] = []
        try:
            for kind, body in worker.reader.feed(data):
                events += self._said(worker, kind, body)
        except ValueError:  # the step wrote there, or a child of it
            if worker.number is None:
                self._discard(worker)
            elif not worker.garbled:
                worker.garbled = True
                self._selector.unregister(worker.channel)
                self.kill(worker.number, _KILL)
        return events

    def _said(self, worker: _Worker, kind: bytes, body: bytes) -> list[Event]:
        """What one frame from a worker means."""
        if worker.number is None:
            raise ValueError("it runs nothing, so it has nothing to say")
        if kind == wire.DATA:
            return [Sent(worker.number, body)]
        message = wire.decode_message(body)
        if message["kind"] == "offer":
            return [Offered(worker.number, message["large"])]
        events = self._all_output(worker)
        if message["kind"] == "report":
            worker.reported = True
            self._warm_up(message.pop("used"))
            events.append(Reported(worker.number, message))
        if message["kind"] == "ended" or message["ended"]:
            events.append(Ended(worker.number, kept=self.reuse))
            self._release(worker)
        return events

    def _warm_up(self, used: list[int]) -> None:
        """Have what a task had to import ready for those that start from now on."""
        for module in used:
            if self._control is not None and module not in self._warm:
                self._warm.add(module)
                self._ask(server.WARM_UP, 0, module)
                if self._ready is not None:  # it was forked before
                    self._discard(self._ready)
                    self._keep_ready()

    def _release(self, worker: _Worker) -> None:
        """A worker's attempt is over: keep it for the next one of its step, or let it end."""
        if self.reuse and worker.number is not None:
            del self._running[worker.number]
            worker.number = None
            self._idle.setdefault(worker.step, []).append(worker)
        else:
            self._discard(worker)

    def _end(self, worker: _Worker, code: int) -> list[Event]:
        """A process is gone: take what it still said, which may be the report."""
        events: list[Event] = []
        while worker.number is not None and worker.ident in self._workers:
            more = self._channel(worker) if worker.channel.fileno() in self._selector.get_map() else None
            if more is None:
                break
            events += more
        if worker.ident not in self._workers:
            return events
        events += self._all_output(worker)
        if worker.number is not None:
            exited, killed_by = (code, None) if code >= 0 else (None, -code)
            if worker.reported:
                events.append(Ended(worker.number, exited or 0, killed_by))
            else:
                events.append(Died(worker.number, exited, killed_by, worker.garbled, worker.refused))
        self._discard(worker)
        return events


_NO_ROOM = (errno.EAGAIN, errno.ENOMEM)  # for one more process
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way to end a process


def _server_died() -> FlowstoreError:
    return FlowstoreError("The task server died, so no more tasks can be started.")
