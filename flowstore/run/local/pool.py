"""The processes that run tasks: those at work, those that wait for the next attempt, and what starts more of them."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from flowstore.errors import FlowstoreError
from flowstore.run.executor import Setup
from flowstore.run.local import messages, server, turns
from flowstore.run.local.processes import Processes, Start, Starting, TaskServer, Worker, died
from flowstore.run.snapshot import Sources
from flowstore.store.codecs import SLOW, likely_slow

_NO_ROOM = (errno.EAGAIN, errno.ENOMEM)  # for one more process
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way to end a process

_Key = tuple[tuple[str, str], ...]  # a step's variables


class Pool:
    """The processes that run tasks.

    Args:
        setup: of the executor.
        sources: the flow's snapshot.

    Attributes:
        notice: what to tell the user about how tasks start, if there is something.
        workers: all that have not ended, by their numbers.
        started: the workers that have started since the executor last looked.
        ended: the workers that have ended since then, each with its exit code; 0 where there was no process.
    """

    def __init__(self, setup: Setup, sources: Sources) -> None:
        self.selector = selectors.DefaultSelector()
        self.workers: dict[int, Worker] = {}
        self.started: list[Worker] = []
        self.ended: list[tuple[Worker, int]] = []
        self._idle: dict[str, list[Worker]] = {}  # by step
        self._ready: dict[TaskServer, Worker] = {}  # have not run anything yet
        self._idents = 0
        self._reused = setup.reuse and turns.AVAILABLE
        self._processes = Processes(setup.flow, setup.graph, sources)
        main, self.notice = self._processes.fork_server(setup.method, setup.generators)
        self.servers: dict[_Key, TaskServer | None] = {(): main}  # None: tasks with these variables are spawned
        if main is not None:
            self._listen(main)
            self.warm_up(main, [SLOW.index(module) for module in likely_slow()])
            self.keep_ready(main)

    def _listen(self, server: TaskServer) -> None:
        self.selector.register(server.control, selectors.EVENT_READ, (None, server))

    # --- giving processes out, and taking them back

    def take(self, step: str, environment: Mapping[str, str]) -> Worker:
        """Return a process for an attempt of a step: one that waits, else a new one, with the step's variables."""
        idle = self._idle.get(step)
        return idle.pop() if idle else self._take_ready(environment) or self._start(environment)

    def send(self, worker: Worker, message: dict[str, Any]) -> None:
        """Send a message to a process; if that is not forked yet, once it is."""
        if worker.server is not None and worker.server.importing:
            worker.order = message
            return
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died already, as `hear` will find
            messages.send(worker.channel, message)

    def send_ahead(self, worker: Worker, frames: Sequence[bytes], numbers: Sequence[int]) -> None:
        """Send orders, each a message, to a process that is at work, and let it begin them one after the other."""
        assert worker.turns is not None
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died already, as `hear` will find
            worker.channel.sendall(b"".join(frames))
        worker.turns.give(numbers)

    def kill(self, worker: Worker, how: signal.Signals) -> None:
        """Send a signal to a process and its group."""
        if worker.process is not None:
            self._processes.spawner().kill(worker.process, how)
        elif worker.server is not None and worker.server.withdraw(worker.ident):
            self.ended.append((worker, -how))
        elif worker.server is not None:
            with contextlib.suppress(FlowstoreError):  # the server died, as `hear` will find
                worker.server.ask(server.KILL, worker.ident, how)

    def keep(self, worker: Worker) -> None:
        """Keep a process for the next attempt of its step."""
        worker.number = None
        self._idle.setdefault(worker.step, []).append(worker)

    def finish(self) -> list[Worker]:
        """Let the processes end that were kept; return them."""
        waiting = [worker for workers in self._idle.values() for worker in workers]
        self._idle.clear()
        for worker in waiting:
            with contextlib.suppress(OSError):  # it died, as `hear` will find
                worker.channel.shutdown(socket.SHUT_WR)
            if worker.turns is not None:
                worker.turns.end()
        return waiting

    def discard(self, worker: Worker) -> None:
        """Forget a process, and close the driver's ends of its connections."""
        self.workers.pop(worker.ident, None)
        if worker in (idle := self._idle.get(worker.step, [])):
            idle.remove(worker)
        if worker.server is not None:
            if self._ready.get(worker.server) is worker:
                del self._ready[worker.server]
            worker.server.withdraw(worker.ident)
        for name, _ in list(worker.connections()):
            self.close_connection(worker, name)
        worker.close_turns()
        if worker.process is not None:
            self._processes.spawner().leave(worker.process)

    def close_connection(self, worker: Worker, name: str) -> None:
        """Close one connection of a process."""
        connection = worker.take(name)
        with contextlib.suppress(KeyError, ValueError):  # at its end already
            self.selector.unregister(connection)
        messages.close(connection)

    def close(self) -> None:
        """End every process."""
        for worker in list(self.workers.values()):
            if worker.process is not None:
                self._processes.spawner().kill(worker.process, KILL)
            self.discard(worker)
        for known in self.servers.values():
            if known is not None:
                known.close(kill=known.importing)
        self._processes.close()
        self.selector.close()

    # --- starting processes

    def keep_ready(self, server: TaskServer | None) -> None:
        """Have a process that waits for the next attempt, so that this need not wait for a fork."""
        if server is not None and server not in self._ready and not server.importing:
            with contextlib.suppress(OSError):  # too many open files, perhaps: the next attempt fails, if still so
                self._ready[server] = self._start_on(server)

    def warm_up(self, server_: TaskServer | None, modules: Sequence[int]) -> None:
        """Have what a task had to import (indexes of `codecs.SLOW`) ready for those that start from now on."""
        for module in modules:
            if server_ is not None and module not in server_.warm:
                server_.warm.add(module)
                server_.ask(server.WARM_UP, 0, module)
                if server_ in self._ready:  # it was forked before
                    self.discard(self._ready[server_])
                    self.keep_ready(server_)

    def _take_ready(self, environment: Mapping[str, str]) -> Worker | None:
        """Take the process that waits; `None` where there is none, or where the system refused to start it."""
        server = self.servers.get(_key(environment))
        worker = self._ready.get(server) if server is not None else None
        while worker is not None and worker.pid is None and worker.refused is None:
            self.hear(worker.server, wait=True)
        if server is None or worker is None or worker.refused is not None:
            return None
        del self._ready[server]
        return worker

    def _start(self, environment: Mapping[str, str]) -> Worker:
        """Start a process with a step's variables."""
        key = _key(environment)
        if self.servers[()] is None or (key in self.servers and self.servers[key] is None):
            return self._connected(lambda worker, theirs, ends: self._spawn(worker, theirs, ends, environment))
        if key in self.servers:
            return self._start_on(self.servers[key])
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
        server = self._processes.import_server(environment, ends)
        self.servers[_key(environment)] = server
        self._listen(server)
        self._fork(server, worker, theirs, ends)

    def _spawn(
        self, worker: Worker, theirs: socket.socket, ends: Sequence[int], environment: Mapping[str, str]
    ) -> None:
        worker.process = self._processes.spawner().start(theirs, ends, environment)
        worker.pid = worker.process.pid

    def _connected(self, start: Start) -> Worker:
        """Return a worker that `start` has started; its connections are listened to."""
        self._idents += 1
        worker = Worker(self._idents)
        try:
            worker.connect(start, reused=self._reused)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                worker.disconnect()
                raise (died() if isinstance(error, ConnectionError) else error) from None
            self._refuse(worker, error.errno)
        self.workers[worker.ident] = worker
        for name, connection in worker.connections():
            self.selector.register(connection, selectors.EVENT_READ, (worker, name))
        return worker

    def _refuse(self, worker: Worker, number: int) -> None:
        """Note that there is no process for a worker, which ends it before it began."""
        worker.refused = number
        self.ended.append((worker, 0))

    # --- what servers and processes say

    @property
    def spawns(self) -> bool:
        """Whether there may be processes that nobody reports the end of."""
        return self._processes.spawns

    def look(self) -> None:
        """Note which of these processes have ended."""
        if self.spawns:
            gone = [worker for worker in self.workers.values() if worker.process and worker.process.poll() is not None]
            self.ended += [(worker, worker.process.returncode) for worker in gone if worker.process]
            self._processes.spawner().reap()

    def hear(self, sender: TaskServer | None, *, wait: bool) -> bool:
        """Take one message of a server's, if there is one; return whether there may be more."""
        assert sender is not None
        message = sender.hear(wait=wait)
        if message is None:
            return False
        kind, ident, argument = message
        worker = self.workers.get(ident)
        if kind in (b"", server.READY, server.UNSAFE):
            return self._settle(sender, kind)
        if worker is not None and kind == server.ENDED:
            self.ended.append((worker, os.waitstatus_to_exitcode(argument)))
        elif worker is not None and kind == server.REFUSED:
            self._refuse(worker, argument)
        elif worker is not None:
            worker.pid = argument
            if worker.number is not None:
                self.started.append(worker)
        return True

    def _settle(self, sender: TaskServer, kind: bytes) -> bool:
        """Start what waits for a server that is ready, or end it if the server never will be; return whether it is."""
        if not sender.importing:
            raise died()
        starting, sender.starting = sender.starting, []
        waiting = [(item, self.workers[item.ident]) for item in starting]
        key = next(key for key, known in self.servers.items() if known is sender)
        sender.importing = False
        if kind == server.READY:
            for item, worker in waiting:
                sender.fork(item.ident, item.descriptors)
                item.close()
                self.send(worker, worker.order or {})
            return True
        self.selector.unregister(sender.control)
        code = sender.close()
        if kind == server.UNSAFE:
            self.servers[key] = None
            for item, worker in waiting:
                self._spawn_instead(item, worker, dict(key))
            return False
        del self.servers[key]  # the import failed; the next attempt tries again
        for item, worker in waiting:
            item.close()
            self.ended.append((worker, code))
        return False

    def _spawn_instead(self, item: Starting, worker: Worker, environment: Mapping[str, str]) -> None:
        """Start an interpreter for a worker that was to be forked by a server that can't fork."""
        channel, *ends = item.descriptors
        worker.server = None
        with socket.socket(fileno=os.dup(channel)) as theirs:
            self._spawn(worker, theirs, ends, environment)
        self.started.append(worker)
        item.close()
        self.send(worker, worker.order or {})


def _key(environment: Mapping[str, str]) -> _Key:
    return tuple(sorted(environment.items()))
