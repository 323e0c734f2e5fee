"""Tasks on this machine: an executor that runs attempts as processes.

Each is forked by the task server, or is a fresh interpreter where there is no `fork`.
"""

from __future__ import annotations

import selectors
import signal
import sys
from typing import Any

from flowstore import context
from flowstore.run import snapshot
from flowstore.run.executor import (
    Died,
    Ended,
    Event,
    Executor,
    Printed,
    Refreshed,
    Reported,
    Results,
    Services,
    Setup,
    Started,
)
from flowstore.run.local import imports, messages
from flowstore.run.local.pool import KILL, Pool
from flowstore.run.local.processes import STREAMS, TaskServer, Worker
from flowstore.run.orders import Order, decode_report, encode_order
from flowstore.store.cards import RenderedCard
from flowstore.store.description import NewBlob


class LocalExecutor(Executor):
    """Runs attempts as processes of this machine.

    It is made before the store is opened, and before what only a driver needs is imported: the task server is forked
    here, SQLite must not see a fork, and each fork of a smaller process is cheaper.

    Processes start by default as `default_start_method` says, but by 'spawn' where this process has threads that a
    forked task would miss. A large result waits in its process until the driver has said whether the store lacks it.
    """

    name = "local"

    def __init__(self, setup: Setup) -> None:
        if context.state.store is not None:
            context.state.store.close()  # opened while the flow was imported
        context.state.flow_module = sys.modules[setup.flow.__module__]
        self._reuse = setup.reuse
        self._graph = setup.graph
        self._results: Results | None = None
        self._running: dict[int, Worker] = {}  # by attempt number
        self._started: list[Event] = []  # not yet returned by `wait`
        self._numbers = 0
        sources = snapshot.take(setup.flow) if setup.sources is None else setup.sources
        imports.install(sources)
        self._pool = Pool(setup, sources)
        self.notice = self._pool.notice

    def connect(self, services: Services) -> None:
        """Take what the driver offers."""
        self._results = services.results
        self._pool.selector.register(services.waker, selectors.EVENT_READ, (None, "waker"))

    def launch(self, order: Order) -> int:
        """Start an attempt; return the number that its events carry."""
        self._numbers += 1
        worker = self._pool.take(order.step, order.environment)
        worker.number = worker.last = self._numbers
        worker.step, worker.reported = order.step, False
        self._running[self._numbers] = worker
        if worker.pid is not None:
            self._started.append(Started(worker.number, worker.pid))
        self._pool.send(worker, {"order": encode_order(order), "reuse": self._reuse})
        if self._graph[order.step].kind != "end":  # which nothing follows
            self._pool.keep_ready(worker.server)
        return self._numbers

    def kill(self, number: int, how: signal.Signals) -> None:
        """Send a signal to an attempt's process group."""
        worker = self._running.get(number)
        if worker is not None:
            self._pool.kill(worker, how)

    def finish(self) -> list[int]:
        """Let the processes end that wait for attempts; return the last attempt of each; its `Ended` follows."""
        waiting = self._pool.finish()
        for worker in waiting:
            worker.number, worker.reported = worker.last, True
            self._running[worker.last] = worker
        self._reuse = False
        return [worker.last for worker in waiting]

    def close(self) -> None:
        """End every process. What an attempt had not reported is lost."""
        self._pool.close()

    # --- events

    def wait(self, timeout_s: float | None) -> list[Event]:
        """Return what attempts did, after waiting at most `timeout_s` for the first of it."""
        pool = self._pool
        if pool.spawns:  # nobody reports when a spawned process ends
            timeout_s = 0.1 if timeout_s is None else min(timeout_s, 0.1)
        nothing = not (self._started or pool.started or pool.ended)
        ready = [key.data for key, _ in pool.selector.select(timeout_s if nothing else 0)]
        for _, name in ready:
            if isinstance(name, TaskServer):
                while pool.hear(name, wait=False):
                    pass
        events: list[Event] = []
        for worker, name in ready:
            if worker is None or worker.ident not in pool.workers:
                continue
            while _is_expected(worker):  # the task server's message about it is on its way
                pool.hear(worker.server, wait=True)
            events += (self._read_channel(worker) or []) if name == "channel" else self._output(worker, name)
        events = self._begun() + events
        pool.look()
        ended, pool.ended = pool.ended, []
        for worker, code in ended:
            events += self._end(worker, code)
        return events

    def _begun(self) -> list[Event]:
        """Return the attempts that have begun since the last call."""
        started, self._started = self._started, []
        workers, self._pool.started = self._pool.started, []
        return started + [Started(worker.last, worker.pid or 0) for worker in workers]

    def _output(self, worker: Worker, stream: str) -> list[Event]:
        """Return what can be read of a stream now, in one piece."""
        pipe = worker.pipes.get(stream)
        if pipe is None:
            return []
        data = messages.read_now(pipe)
        if data:  # an idle worker's is a forgotten child's, and nobody's
            return [] if worker.number is None else [Printed(worker.number, stream, data)]
        if data is not None:
            self._pool.close_connection(worker, stream)  # the step closed it
        return []

    def _all_output(self, worker: Worker) -> list[Event]:
        events: list[Event] = []
        for stream in STREAMS:
            while more := self._output(worker, stream):
                events += more
        return events

    def _read_channel(self, worker: Worker) -> list[Event] | None:
        """Return what a worker has sent; `None` where nothing has arrived."""
        selector = self._pool.selector
        data = messages.receive_now(worker.channel, messages.READ_BYTES)
        if not data:
            if data is not None:  # it closed its end; the server, or its process, says how it ended
                selector.unregister(worker.channel)
            return None
        events: list[Event] = []
        try:
            for kind, body in worker.reader.feed(data):
                events += self._take_frame(worker, kind, body)
        except ValueError:  # the step wrote there, or a child of it
            if worker.number is None:
                self._discard(worker)
            elif not worker.garbled:
                worker.garbled = True
                selector.unregister(worker.channel)
                self._pool.kill(worker, KILL)
        return events

    def _take_frame(self, worker: Worker, kind: bytes, body: bytes) -> list[Event]:
        """Act on one frame from a worker; return the events that it means."""
        if worker.number is None:
            raise ValueError("it runs nothing, so it has nothing to send")
        assert self._results is not None
        if kind == messages.DATA:
            self._results.take(worker.number, body)
            return []
        return self._take_message(worker, messages.decode_message(body))

    def _take_message(self, worker: Worker, message: dict[str, Any]) -> list[Event]:
        assert self._results is not None
        assert worker.number is not None
        if message["kind"] == "card":
            return [Refreshed(worker.number, RenderedCard.unpacked(message["card"]))]
        if message["kind"] == "offer":
            offered = [*map(NewBlob.unpacked, message["large"])]
            self._pool.send(worker, {"send": self._results.missing(worker.number, offered)})
            return []
        events = self._all_output(worker)
        if message["kind"] == "report":
            worker.reported = True
            self._pool.warm_up(worker.server, message["used"])
            events.append(Reported(worker.number, decode_report(message["report"])))
        if message["kind"] == "ended" or message["ended"]:
            events.append(Ended(worker.number, kept=self._reuse))
            self._release(worker)
        return events

    def _release(self, worker: Worker) -> None:
        """Keep a worker, now that its attempt is over, for the next one of its step, or let it end."""
        if self._reuse and worker.number is not None:
            del self._running[worker.number]
            self._pool.keep(worker)
        else:
            self._discard(worker)

    def _discard(self, worker: Worker) -> None:
        if worker.number is not None:
            self._running.pop(worker.number, None)
        self._pool.discard(worker)

    def _end(self, worker: Worker, code: int) -> list[Event]:
        """Return what a worker that is gone had still sent, which may be the report, and how it ended."""
        pool = self._pool
        events: list[Event] = []
        while worker.number is not None and worker.ident in pool.workers:
            more = self._read_channel(worker) if worker.channel.fileno() in pool.selector.get_map() else None
            if more is None:
                break
            events += more
        if worker.ident not in pool.workers:
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


def _is_expected(worker: Worker) -> bool:
    """Return whether a worker's server has yet to say that it has started."""
    importing = worker.server is not None and worker.server.importing
    return worker.pid is None and worker.refused is None and not importing
