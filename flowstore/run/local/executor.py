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
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run import snapshot
from flowstore.run.executor import Died, Ended, Event, Offered, Printed, Reported, Sent, Started
from flowstore.run.local import imports, messages, server
from flowstore.run.local.processes import STREAMS, Processes, Start, Starting, TaskServer, Worker, died
from flowstore.run.randomness import Generators
from flowstore.store.codecs import SLOW, likely_slow
from flowstore.store.description import NewBlob

if TYPE_CHECKING:
    from flowstore.run.snapshot import Sources


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
        self._workers: dict[int, Worker] = {}  # by ident, all that have not ended
        self._running: dict[int, Worker] = {}  # by attempt number
        self._idle: dict[str, list[Worker]] = {}  # by step
        self._ready: dict[TaskServer, Worker] = {}  # have not run anything yet
        self._started: list[Event] = []  # not yet told
        self._ended: list[tuple[Worker, int]] = []  # processes that are gone, with exit codes; 0 where there was none
        self._numbers = 0
        self._idents = 0
        sources = snapshot.take(flow) if sources is None else sources
        imports.install(sources)
        self._processes = Processes(flow, graph, sources)
        main, self.notice = self._processes.fork_server(method, generators)
        self._servers: dict[_Key, TaskServer | None] = {(): main}  # None: tasks with these variables are spawned
        if main is not None:
            self._listen(main)
            self._warm_up(main, [SLOW.index(module) for module in likely_slow()])
            self._keep_ready(main)

    def _listen(self, server: TaskServer) -> None:
        self._selector.register(server.control, selectors.EVENT_READ, (None, server))

    def watch(self, waker: socket.socket) -> None:
        """Return from `wait` as soon as `waker` can be read."""
        self._selector.register(waker, selectors.EVENT_READ, (None, "waker"))

    def launch(self, order: Mapping[str, Any], step: str) -> int:
        """Start an attempt; gives the number that its events carry."""
        self._numbers += 1
        idle = self._idle.get(step)
        environment = order["environment"]
        worker = idle.pop() if idle else self._take_ready(environment) or self._start(environment)
        worker.number = worker.last = self._numbers
        worker.step, worker.reported = step, False
        self._running[self._numbers] = worker
        if worker.pid is not None:
            self._started.append(Started(worker.number, worker.pid))
        self._order(worker, {**order, "reuse": self.reuse})
        if worker.server is not None and self._graph[step].kind != "end":  # which nothing follows
            self._keep_ready(worker.server)
        return self._numbers

    def _order(self, worker: Worker, order: dict[str, Any]) -> None:
        if worker.server is not None and worker.server.importing:
            worker.order = order
            return
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died already, which `wait` tells
            messages.send(worker.channel, order)

    def answer(self, number: int, message: dict[str, Any]) -> None:
        """Reply to an offer."""
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died, which `wait` tells
            messages.send(self._running[number].channel, message)

    def kill(self, number: int, how: signal.Signals) -> None:
        """Send a signal to an attempt's process group."""
        worker = self._running[number]
        if worker.process is not None:
            self._processes.spawner().kill(worker.process, how)
        elif worker.server is not None and worker.server.withdraw(worker.ident):
            self._ended.append((worker, -how))
        elif worker.server is not None:
            with contextlib.suppress(FlowstoreError):  # the server died, which `wait` tells
                worker.server.ask(server.KILL, worker.ident, how)

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
            if worker.process is not None:
                self._processes.spawner().kill(worker.process, _KILL)
            self._discard(worker)
        for each in self._servers.values():
            if each is not None:
                each.close(kill=each.importing)
        self._processes.close()
        self._selector.close()

    # --- processes

    def _keep_ready(self, server: TaskServer) -> None:
        """Have a process that waits for the next attempt, so that this need not wait for a fork."""
        if server not in self._ready and not server.importing:
            with contextlib.suppress(OSError):  # too many open files, perhaps: the next attempt is told, if still so
                self._ready[server] = self._start_on(server)

    def _take_ready(self, environment: Mapping[str, str]) -> Worker | None:
        """Take the process that waits; `None` where there is none, or where the system refused to start it."""
        server = self._servers.get(_key(environment))
        worker = self._ready.get(server) if server is not None else None
        while worker is not None and worker.pid is None and worker.refused is None:
            self._hear(worker.server, wait=True)
        if server is None or worker is None or worker.refused is not None:
            return None
        del self._ready[server]
        return worker

    def _start(self, environment: Mapping[str, str]) -> Worker:
        """A new process, with a step's variables."""
        key = _key(environment)
        if self._servers[()] is None or (key in self._servers and self._servers[key] is None):
            return self._connected(lambda worker, theirs, ends: self._spawn(worker, theirs, ends, environment))
        if key in self._servers:
            return self._start_on(self._servers[key])
        return self._connected(lambda worker, theirs, ends: self._start_server(worker, theirs, ends, environment))

    def _start_on(self, server: TaskServer | None) -> Worker:
        return self._connected(lambda worker, theirs, ends: self._fork(server, worker, theirs, ends))

    def _fork(self, server: TaskServer | None, worker: Worker, theirs: socket.socket, ends: Sequence[int]) -> None:
        assert server is not None
        worker.server = server
        descriptors = [theirs.fileno(), *ends]
        if server.importing:
            server.starting.append(Starting(worker.ident, [os.dup(descriptor) for descriptor in descriptors]))
        else:
            server.fork(worker.ident, descriptors)

    def _start_server(
        self, worker: Worker, theirs: socket.socket, ends: Sequence[int], environment: Mapping[str, str]
    ) -> None:
        """Start the server for a step's variables; what the import of the flow prints there is its first task's."""
        made = self._processes.import_server(environment, ends)
        self._servers[_key(environment)] = made
        self._listen(made)
        self._fork(made, worker, theirs, ends)

    def _spawn(
        self, worker: Worker, theirs: socket.socket, ends: Sequence[int], environment: Mapping[str, str]
    ) -> None:
        worker.process = self._processes.spawner().start(theirs, ends[0], ends[1], environment)
        worker.pid = worker.process.pid

    def _connected(self, start: Start) -> Worker:
        """A worker that `start` starts, and that is listened to."""
        self._idents += 1
        worker = Worker(self._idents)
        try:
            worker.connect(start)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                worker.disconnect()
                raise (died() if isinstance(error, ConnectionError) else error) from None
            self._refuse(worker, error.errno)
        self._workers[worker.ident] = worker
        for what, connection in worker.connections():
            self._selector.register(connection, selectors.EVENT_READ, (worker, what))
        return worker

    def _refuse(self, worker: Worker, number: int) -> None:
        """There is no process for a worker, which ends it before it began."""
        worker.refused = number
        self._ended.append((worker, 0))

    def _discard(self, worker: Worker) -> None:
        """Forget a worker, and close the driver's ends of its connections."""
        self._workers.pop(worker.ident, None)
        if worker.number is not None:
            self._running.pop(worker.number, None)
        if worker in (idle := self._idle.get(worker.step, [])):
            idle.remove(worker)
        if worker.server is not None:
            if self._ready.get(worker.server) is worker:
                del self._ready[worker.server]
            worker.server.withdraw(worker.ident)
        for what, _ in list(worker.connections()):
            self._close(worker, what)
        if worker.process is not None:
            self._processes.spawner().leave(worker.process)

    def _close(self, worker: Worker, what: str) -> None:
        connection = worker.take(what)
        with contextlib.suppress(KeyError, ValueError):  # at its end already
            self._selector.unregister(connection)
        messages.close(connection)

    # --- events

    def wait(self, timeout_s: float | None) -> list[Event]:
        """What attempts did; waits for the first of it, at most `timeout_s`."""
        if self._processes.spawns:  # nobody tells when a spawned process ends
            timeout_s = 0.1 if timeout_s is None else min(timeout_s, 0.1)
        ready = [key.data for key, _ in self._selector.select(0 if self._started or self._ended else timeout_s)]
        for _, what in ready:
            if isinstance(what, TaskServer):
                while self._hear(what, wait=False):
                    pass
        events: list[Event] = []
        for worker, what in ready:
            if worker is None or worker.ident not in self._workers:
                continue
            while self._is_expected(worker):  # what the task server told of it is on its way
                self._hear(worker.server, wait=True)
            events += (self._channel(worker) or []) if what == "channel" else self._output(worker, what)
        events, self._started = self._started + events, []
        if self._processes.spawns:
            gone = [worker for worker in self._workers.values() if worker.process and worker.process.poll() is not None]
            self._ended += [(worker, worker.process.returncode) for worker in gone if worker.process]
            self._processes.spawner().reap()
        ended, self._ended = self._ended, []
        for worker, code in ended:
            events += self._end(worker, code)
        return events

    def _is_expected(self, worker: Worker) -> bool:
        importing = worker.server is not None and worker.server.importing
        return worker.pid is None and worker.refused is None and not importing

    def _hear(self, sender: TaskServer | None, *, wait: bool) -> bool:
        """Take one message of a server's, if there is one."""
        assert sender is not None
        message = sender.hear(wait=wait)
        if message is None:
            return False
        what, ident, argument = message
        worker = self._workers.get(ident)
        if what in (b"", server.READY, server.UNSAFE):
            return self._settle(sender, what)
        if worker is not None and what == server.ENDED:
            self._ended.append((worker, os.waitstatus_to_exitcode(argument)))
        elif worker is not None and what == server.REFUSED:
            self._refuse(worker, argument)
        elif worker is not None:
            worker.pid = argument
            if worker.number is not None:
                self._started.append(Started(worker.number, argument))
        return True

    def _settle(self, sender: TaskServer, what: bytes) -> bool:
        """A server is ready, or will never be: start what waits for it, or end that; False where it is gone."""
        if not sender.importing:
            raise died()
        starting, sender.starting = sender.starting, []
        waiting = [(item, self._workers[item.ident]) for item in starting]
        key = next(key for key, known in self._servers.items() if known is sender)
        sender.importing = False
        if what == server.READY:
            for item, worker in waiting:
                sender.fork(item.ident, item.descriptors)
                item.close()
                self._order(worker, worker.order or {})
            return True
        self._selector.unregister(sender.control)
        code = sender.close()
        if what == server.UNSAFE:
            self._servers[key] = None
            environment = dict(key)
            for item, worker in waiting:
                channel, *ends = item.descriptors
                worker.server = None
                with socket.socket(fileno=os.dup(channel)) as theirs:
                    self._spawn(worker, theirs, ends, environment)
                self._started.append(Started(worker.last, worker.pid or 0))
                item.close()
                self._order(worker, worker.order or {})
            return False
        del self._servers[key]  # the import failed; the next attempt tries again
        for item, worker in waiting:
            item.close()
            self._ended.append((worker, code))
        return False

    def _output(self, worker: Worker, stream: str) -> list[Event]:
        """What can be read of a stream now, in one piece."""
        pipe = worker.pipes.get(stream)
        if pipe is None:
            return []
        data = messages.read_now(pipe)
        if data:  # an idle worker's is a forgotten child's, and nobody's
            return [] if worker.number is None else [Printed(worker.number, stream, data)]
        if data is not None:
            self._close(worker, stream)  # the step closed it
        return []

    def _all_output(self, worker: Worker) -> list[Event]:
        events: list[Event] = []
        for stream in STREAMS:
            while more := self._output(worker, stream):
                events += more
        return events

    def _channel(self, worker: Worker) -> list[Event] | None:
        """What a worker has said; `None` where nothing has arrived."""
        data = messages.receive_now(worker.channel, messages.READ_BYTES)
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

    def _said(self, worker: Worker, kind: bytes, body: bytes) -> list[Event]:
        """What one frame from a worker means."""
        if worker.number is None:
            raise ValueError("it runs nothing, so it has nothing to say")
        if kind == messages.DATA:
            return [Sent(worker.number, body)]
        message = messages.decode_message(body)
        if message["kind"] == "offer":
            return [Offered(worker.number, [*map(NewBlob.unpacked, message["large"])])]
        events = self._all_output(worker)
        if message["kind"] == "report":
            worker.reported = True
            self._warm_up(worker.server, message.pop("used"))
            message["artifacts"] = [(name, NewBlob.unpacked(packed)) for name, packed in message["artifacts"]]
            events.append(Reported(worker.number, message))
        if message["kind"] == "ended" or message["ended"]:
            events.append(Ended(worker.number, kept=self.reuse))
            self._release(worker)
        return events

    def _warm_up(self, sender: TaskServer | None, used: list[int]) -> None:
        """Have what a task had to import ready for those that start from now on."""
        for module in used:
            if sender is not None and module not in sender.warm:
                sender.warm.add(module)
                sender.ask(server.WARM_UP, 0, module)
                if sender in self._ready:  # it was forked before
                    self._discard(self._ready[sender])
                    self._keep_ready(sender)

    def _release(self, worker: Worker) -> None:
        """A worker's attempt is over: keep it for the next one of its step, or let it end."""
        if self.reuse and worker.number is not None:
            del self._running[worker.number]
            worker.number = None
            self._idle.setdefault(worker.step, []).append(worker)
        else:
            self._discard(worker)

    def _end(self, worker: Worker, code: int) -> list[Event]:
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


_Key = tuple[tuple[str, str], ...]  # a step's variables


def _key(environment: Mapping[str, str]) -> _Key:
    return tuple(sorted(environment.items()))
