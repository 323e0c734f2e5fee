"""Tasks on this machine: an executor that runs attempts as processes.

Each is forked by the task server, or is a fresh interpreter where there is no `fork`.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
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
    Returned,
    Services,
    Setup,
    Started,
)
from flowstore.run.local import imports, messages, turns
from flowstore.run.local.backlog import Backlog
from flowstore.run.local.pool import KILL, Pool
from flowstore.run.local.processes import STREAMS, TaskServer, Worker
from flowstore.run.orders import Order, decode_report, encode_order
from flowstore.store.cards import RenderedCard
from flowstore.store.description import NewBlob

_LATE_S = 0.05  # attempts that take longer have no orders behind them
_AHEAD_BYTES = 1 << 16  # of orders that a process has ahead: its channel holds them while it can't read


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
        self._started: list[Event] = []  # not yet returned by `wait`, nor the next ones
        self._returned: list[Event] = []
        self._backlog = Backlog()
        self._most = setup.max_workers or os.cpu_count() or 1
        self._hands_out = setup.reuse and turns.AVAILABLE  # orders ahead, once it knows that a step's tasks are short
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
        """Start an attempt, or keep its order until a process can have it; return the number that its events carry."""
        self._numbers += 1
        if self.ahead and not order.num_nodes:
            self._backlog.add(self._numbers, order)
        else:
            self._start(self._numbers, order)
        return self._numbers

    def _start(self, number: int, order: Order) -> None:
        """Have a process begin an attempt."""
        worker = self._pool.take(order.step, order.environment)
        worker.step = order.step
        self._enter(worker, number)
        if worker.pid is not None:
            self._started.append(Started(number, worker.pid))
        message = {"order": encode_order(order), "reuse": self._reuse, "number": number}
        if worker.turns is not None:
            message["mark"] = worker.turns.mark
        self._pool.send(worker, message)
        if worker.turns is not None:
            worker.turns.give([number])
        if self._graph[order.step].kind != "end":  # which nothing follows
            self._pool.keep_ready(worker.server)

    def _enter(self, worker: Worker, number: int) -> None:
        """Note that a worker is at an attempt now."""
        worker.number = worker.last = number
        worker.reported, worker.may_have_more, worker.began = False, True, time.monotonic()
        if not worker.ahead:
            worker.ahead_bytes = 0
        self._running[number] = worker

    def kill(self, number: int, how: signal.Signals) -> None:
        """Send a signal to an attempt's process group, or take its order back."""
        self.withdraw(number)
        worker = self._running.get(number)
        if worker is not None:
            self._pool.kill(worker, how)

    def withdraw(self, number: int) -> None:
        """Take an order back if it has not begun."""
        for worker in self._running.values():
            if any(number == waiting for waiting, _ in worker.ahead):
                self._take_back(worker)
        if self._backlog.remove(number):
            self._returned.append(Returned(number))

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
        self._hand_out()
        if pool.spawns:  # nobody reports when a spawned process ends
            timeout_s = 0.1 if timeout_s is None else min(timeout_s, 0.1)
        if any(worker.ahead for worker in self._running.values()):
            timeout_s = _LATE_S if timeout_s is None else min(timeout_s, _LATE_S)
        nothing = not (self._started or self._returned or pool.started or pool.ended)
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
        self._relieve()
        if not self._running and self._backlog.first() is None:  # what comes next is of another step, perhaps
            self.ahead = 0
        returned, self._returned = self._returned, []
        return events + returned

    # --- orders ahead

    def _hand_out(self) -> None:
        """Give orders to processes that are free, else to those of their step that have few."""
        given: dict[Worker, list[int]] = {}
        sent: dict[Worker, list[bytes]] = {}
        while (first := self._backlog.first()) is not None:
            number, order = first
            if len(self._running) < self._most:
                self._backlog.pop(order.step)
                self._start(number, order)
                continue
            worker = self._with_room(order.step)
            if worker is None:
                break
            frame = messages.framed({"order": encode_order(order), "reuse": True, "number": number})
            if worker.ahead_bytes + len(frame) > _AHEAD_BYTES:
                break
            worker.ahead.append(self._backlog.pop(order.step))
            worker.ahead_bytes += len(frame)
            given.setdefault(worker, []).append(number)
            sent.setdefault(worker, []).append(frame)
        for worker, numbers in given.items():
            self._pool.send_ahead(worker, sent[worker], numbers)

    def _with_room(self, step: str) -> Worker | None:
        """Return the worker at a step that has the fewest orders, if it may have one more."""
        most = self._backlog.at_once(step)
        if most < 2:
            return None
        having = [worker for worker in self._running.values() if worker.step == step and worker.may_have_more]
        worker = min(having, key=_ahead_of, default=None)
        return worker if worker is not None and worker.pid is not None and len(worker.ahead) + 1 < most else None

    def _relieve(self) -> None:
        """Take back what waits behind attempts that turn out to be long."""
        for worker in self._running.values():
            if worker.ahead and time.monotonic() - worker.began > _LATE_S:
                self._take_back(worker)

    def _take_back(self, worker: Worker) -> None:
        """Take back the orders that a worker has ahead; it gets no others before it has begun another attempt."""
        assert worker.turns is not None
        numbers = worker.turns.take_back()
        if worker.number is not None and worker.number in numbers:  # its process is just starting
            worker.turns.give([worker.number])
        self._backlog.put_back(item for item in worker.ahead if item[0] in numbers)
        worker.ahead = deque(item for item in worker.ahead if item[0] not in numbers)
        worker.may_have_more = False

    def _go_on(self, worker: Worker, begun: tuple[int, int] | None) -> list[Event]:
        """Have a worker that has ended an attempt be at its next one; return that event, none if it has no other.

        Args:
            worker: the worker.
            begun: what it says it has begun: the number, and when. An order that came too late for that is begun as
                soon as it is read.
        """
        if begun is not None and (not worker.ahead or worker.ahead[0][0] != begun[0]):
            raise ValueError("it has begun what it was not to")
        if not worker.ahead:
            worker.number = None
            return []
        number, _ = worker.ahead.popleft()
        self._enter(worker, number)
        events: list[Event] = [Started(number, worker.pid or 0, at_ms=None if begun is None else begun[1])]
        for stream, printed in worker.printed.items():
            if text := printed.take():
                events.append(Printed(number, stream, text))
        return events

    def _begun(self) -> list[Event]:
        """Return the attempts that have begun since the last call."""
        started, self._started = self._started, []
        workers, self._pool.started = self._pool.started, []
        return started + [Started(worker.last, worker.pid or 0) for worker in workers]

    def _read_output(self, worker: Worker, stream: str) -> bytes:
        """Return what has arrived of a stream, in one piece; empty where nothing has."""
        pipe = worker.pipes.get(stream)
        data = None if pipe is None else messages.read_now(pipe)
        if data == b"":
            self._pool.close_connection(worker, stream)  # the step closed it
        return data or b""

    def _output(self, worker: Worker, stream: str) -> list[Event]:
        """Return what can be read of a stream now, in one piece, as far as the present attempt has printed it."""
        data = self._read_output(worker, stream)
        if worker.number is None or not data:  # an idle worker's is a forgotten child's, and nobody's
            return []
        if worker.printed:
            worker.printed[stream].add(data)
            data = worker.printed[stream].take()
        return [Printed(worker.number, stream, data)] if data else []

    def _last_output(self, worker: Worker, marked: Sequence[bool] | None) -> list[Event]:
        """Return what else an attempt that is over has printed: up to its mark or, without one, all that there is."""
        events: list[Event] = []
        for stream, has_mark in zip(STREAMS, marked or (False, False), strict=True):
            printed = worker.printed.get(stream)
            while printed is None or not (has_mark and printed.pass_mark()):
                data = self._read_output(worker, stream)
                if printed is not None:
                    printed.add(data)
                    text = printed.take(whole=not (has_mark or data))
                else:
                    text = data
                if text:
                    events.append(Printed(worker.number or 0, stream, text))
                if not data:
                    break
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
        events = self._last_output(worker, message.get("marked"))
        if message["kind"] == "report":
            worker.reported = True
            self._pool.warm_up(worker.server, message["used"])
            if self._hands_out:
                self._backlog.note(worker.step, message["took_s"])
                self.ahead = self._most * (self._backlog.at_once(worker.step) - 1)
            events.append(Reported(worker.number, decode_report(message["report"])))
        if message["ended"]:
            events.append(Ended(worker.number, kept=self._reuse))
            events += self._release(worker, message.get("next"))
        return events

    def _release(self, worker: Worker, begun: tuple[int, int] | None) -> list[Event]:
        """Have a worker whose attempt is over go on, keep it for the next one of its step, or let it end."""
        if not self._reuse or worker.number is None:
            self._discard(worker)
            return []
        del self._running[worker.number]
        events = self._go_on(worker, begun)
        if not events:
            self._pool.keep(worker)
        return events

    def _discard(self, worker: Worker) -> None:
        if worker.number is not None:
            self._running.pop(worker.number, None)
        self._pool.discard(worker)

    def _end(self, worker: Worker, code: int) -> list[Event]:
        """Return what a worker that is gone had still sent, which may be the report, and how it ended."""
        pool = self._pool
        events: list[Event] = []
        if worker.ahead:
            self._take_back(worker)
        while worker.number is not None and worker.ident in pool.workers:
            more = self._read_channel(worker) if worker.channel.fileno() in pool.selector.get_map() else None
            if more is None:
                break
            events += more
        if worker.ident not in pool.workers:
            return events
        self._backlog.put_back(worker.ahead)  # what it begins is said before it runs any of it
        if worker.number is not None:
            events += self._last_output(worker, None)
            exited, killed_by = (code, None) if code >= 0 else (None, -code)
            if worker.reported:
                events.append(Ended(worker.number, exited or 0, killed_by))
            else:
                events.append(Died(worker.number, exited, killed_by, worker.garbled, worker.refused))
        self._discard(worker)
        return events


def _ahead_of(worker: Worker) -> int:
    return len(worker.ahead)


def _is_expected(worker: Worker) -> bool:
    """Return whether a worker's server has yet to say that it has started."""
    importing = worker.server is not None and worker.server.importing
    return worker.pid is None and worker.refused is None and not importing
