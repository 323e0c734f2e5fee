"""An executor without a store: its processes get orders ahead, and ask the driver's side for all inputs.

Everything crosses the connection as JSON, so neither the order nor the report holds anything but plain values. A flow
that imports this module can be run with `--executor ahead`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import selectors
import signal
import socket
import sys
from collections import deque

import attrs

from flowstore.flow.spec import FlowSpec
from flowstore.run import executor as contract
from flowstore.run import snapshot
from flowstore.run.attempt import run_attempt
from flowstore.run.executor import Died, Ended, Executor, Printed, Refreshed, Reported, Returned, Started
from flowstore.run.inputs import Source
from flowstore.run.local.ending import Ending, flush_output
from flowstore.run.local.interpreter import Interpreters
from flowstore.run.orders import decode_order, decode_report, encode_order, encode_report
from flowstore.run.randomness import Generators
from flowstore.store import codecs
from flowstore.store.blobs import CHUNK_BYTES, Blob, chunks_of
from flowstore.store.cards import RenderedCard
from flowstore.store.description import Description, NewBlob

contract.REGISTRY["ahead"] = "support.ahead:AheadExecutor"
MARK = b"\0"  # ends what an attempt has printed
WORKERS = int(os.environ.get("AHEAD_WORKERS", "2"))


# --- the connection


def _encoded(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        assert all(type(key) is str for key in value), value
        return {"dict": {key: _encoded(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    assert value is None or type(value) in (bool, int, float, str), value
    return value


def _decoded(value):
    if isinstance(value, dict):
        [(kind, content)] = value.items()
        if kind == "bytes":
            return base64.b64decode(content)
        return {key: _decoded(item) for key, item in content.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _send(connection, **message):
    body = json.dumps(_encoded(message)).encode()
    connection.sendall(len(body).to_bytes(8) + body)


class _Reader:
    """Messages out of a connection."""

    def __init__(self, connection):
        self._connection = connection
        self._buffer = b""
        self.waiting = deque()

    def read(self, *, wait):
        """Take what has arrived; return False at the end."""
        self._connection.setblocking(wait)
        try:
            data = self._connection.recv(1 << 20)
        except BlockingIOError:
            return True
        except ConnectionError:
            data = b""
        finally:
            self._connection.setblocking(True)
        self._buffer += data
        while len(self._buffer) >= 8 and len(self._buffer) >= (end := 8 + int.from_bytes(self._buffer[:8])):
            self.waiting.append(_decoded(json.loads(self._buffer[8:end])))
            self._buffer = self._buffer[end:]
        return bool(data)


def _packed(blob):
    return [blob.id, blob.sha, blob.description.packed, blob.data]


def _unpacked(packed):
    return Blob(Description.unpacked(packed[2]), packed[0], packed[1], packed[3])


# --- the driver's side


class _Worker:
    """A process, the orders that it has, and what it has begun."""

    def __init__(self, interpreters):
        self.connection, theirs = socket.socketpair()
        self.output, out = os.pipe()
        os.set_blocking(self.output, False)
        with theirs:
            self.process = interpreters.start(
                "support.ahead:work", {"channel": theirs.fileno()}, fds=[theirs.fileno()], stdout=out, stderr=out
            )
        os.close(out)
        self.reader = _Reader(self.connection)
        self.orders = {}  # by number, those that have not begun
        self.begun = None
        self.killed = {}  # by number, the signal that is to end it
        self.printed = b""
        self.missing = []  # of the large values that it sends, those that are taken

    def send(self, **message):
        """Send a message; if the process has died, `wait` finds that."""
        with contextlib.suppress(ConnectionError):
            _send(self.connection, **message)

    def close(self):
        """Close the driver's ends, once the process has gone."""
        self.connection.close()
        os.close(self.output)
        self.process.wait()


class AheadExecutor(Executor):
    """Runs attempts in a few processes, each of which has several orders."""

    name = "ahead"
    ahead = 4

    def __init__(self, setup):
        self._interpreters = Interpreters(setup.flow, setup.sources or snapshot.take(setup.flow))
        self._workers = []
        self._events = []
        self._number = 0
        self._selector = selectors.DefaultSelector()

    def connect(self, services):
        """Take what the driver offers."""
        self._services = services
        self._selector.register(services.waker, selectors.EVENT_READ)

    def launch(self, order):
        """Give an order to the process that has the fewest."""
        self._number += 1
        self._place(self._number, order)
        return self._number

    def _place(self, number, order):
        free = [worker for worker in self._workers if not worker.orders and worker.begun is None]
        if not free and (len(self._workers) < WORKERS or order.num_nodes):  # members of a gang run at the same time
            free = [_Worker(self._interpreters)]
            self._workers += free
            self._selector.register(free[0].connection, selectors.EVENT_READ)
            self._selector.register(free[0].output, selectors.EVENT_READ)
        worker = min(free or self._workers, key=lambda worker: len(worker.orders))
        worker.orders[number] = order
        without_store = attrs.evolve(order, run=attrs.evolve(order.run, store=""))
        worker.send(kind="order", number=number, order=encode_order(without_store))

    def kill(self, number, how):
        """End an attempt, or take its order back."""
        worker = self._find(number)
        if worker is not None and worker.begun == number:
            os.killpg(worker.process.pid, how)
        elif worker is not None:
            worker.killed[number] = how
            worker.send(kind="withdraw", number=number)

    def withdraw(self, number):
        """Take an order back."""
        worker = self._find(number)
        if worker is not None and number in worker.orders:
            worker.send(kind="withdraw", number=number)

    def _find(self, number):
        having = [worker for worker in self._workers if number in worker.orders or worker.begun == number]
        return having[0] if having else None

    def wait(self, timeout_s):
        """Return what has happened."""
        self._selector.select(0 if self._events else timeout_s)
        for worker in list(self._workers):
            is_open = worker.reader.read(wait=False)
            while worker.reader.waiting:
                self._take(worker, worker.reader.waiting.popleft())
            self._take_output(worker)
            if not is_open:
                self._end(worker)
        events, self._events = self._events, []
        return events

    def _take_output(self, worker):
        with contextlib.suppress(BlockingIOError):
            while data := os.read(worker.output, 1 << 16):
                worker.printed += data
        if worker.begun is not None:  # the process may be further: what it prints later is behind a mark
            data, mark, rest = worker.printed.partition(MARK)
            self._events += [Printed(worker.begun, "stdout", data)] if data else []
            worker.printed = mark + rest

    def _take(self, worker, message):
        kind, number = message["kind"], message.get("number")
        if kind == "ask":
            worker.send(kind="answer", **self._answer(message))
        elif kind == "began":
            worker.begun = number
            del worker.orders[number]
            self._events.append(Started(number, worker.process.pid, at_ms=message["at_ms"]))
            if number in worker.killed:
                os.killpg(worker.process.pid, worker.killed[number])
        elif kind == "returned":
            del worker.orders[number]
            self._events.append(Returned(number))
        elif kind == "offer":
            worker.missing = self._services.results.missing(number, [*map(NewBlob.unpacked, message["blobs"])])
        elif kind == "chunk" and message["index"] in worker.missing:
            self._services.results.take(number, message["data"])
        elif kind == "card":
            self._events.append(Refreshed(number, RenderedCard.unpacked(message["card"])))
        elif kind == "report":
            self._take_output(worker)
            self._events += [Reported(number, decode_report(message["report"])), Ended(number)]
            worker.begun, worker.printed = None, worker.printed.removeprefix(MARK)

    def _answer(self, message):
        source = self._services.source
        try:
            if message["what"] == "parameters":
                return {"answer": {name: _packed(blob) for name, blob in source.parameters().items()}}
            if message["what"] == "artifacts":
                tasks = source.artifacts(message["task_ids"], message["name"])
                return {"answer": [[task, {n: _packed(b) for n, b in had.items()}] for task, had in tasks.items()]}
            blob = _unpacked(message["blob"])
            count = max(1, -(-blob.size_bytes // CHUNK_BYTES))
            return {"answer": b"".join(source.chunk(blob, message["name"], n) for n in range(count))}
        except contract.FlowstoreError as error:
            return {"error": str(error)}

    def _end(self, worker):
        """A process has gone: what it had begun has died, what waited goes elsewhere."""
        code = worker.process.wait()
        if worker.begun is not None:
            self._take_output(worker)
            exited, killed_by = (code, None) if code >= 0 else (None, -code)
            self._events.append(Died(worker.begun, exited, killed_by))
        self._workers.remove(worker)
        self._selector.unregister(worker.connection)
        self._selector.unregister(worker.output)
        worker.close()
        for number, order in worker.orders.items():
            if number in worker.killed:
                self._events.append(Returned(number))
            else:
                self._place(number, order)

    def close(self):
        """End every process."""
        for worker in self._workers:
            os.killpg(worker.process.pid, signal.SIGKILL)
            worker.close()
        self._interpreters.close()
        self._selector.close()


# --- the process


class ChannelSource(Source):
    """Asks the driver's side."""

    def __init__(self, ask):
        self._ask = ask

    def parameters(self):
        """Return the run's parameters."""
        return {name: _unpacked(packed) for name, packed in self._ask(what="parameters").items()}

    def artifacts(self, task_ids, name=None):
        """Return the artifacts of tasks."""
        answer = self._ask(what="artifacts", task_ids=list(task_ids), name=name)
        return {task: {key: _unpacked(packed) for key, packed in had.items()} for task, had in answer}

    def load(self, blob, name):
        """Return a value, if its bytes match the hash."""
        data = self._ask(what="bytes", blob=_packed(blob), name=name)
        assert hashlib.sha256(data).digest() == blob.sha
        return codecs.decode(blob.codec, iter([data]), blob.size_bytes)


class _Process:
    """Runs the orders that it has, one after the other."""

    def __init__(self, connection):
        self._connection = connection
        self._reader = _Reader(connection)
        self._orders = {}  # by number
        self.answers = deque()

    def ask(self, **question):
        """Ask the driver's side; orders that come meanwhile wait."""
        _send(self._connection, kind="ask", **question)
        while not self.answers:
            self._read(wait=True)
        answer = self.answers.popleft()
        if "error" in answer:
            raise contract.FlowstoreError(answer["error"])
        return answer["answer"]

    def _read(self, *, wait):
        if not self._reader.read(wait=wait):
            os._exit(0)
        while self._reader.waiting:
            message = self._reader.waiting.popleft()
            if message["kind"] == "order":
                self._orders[message["number"]] = message["order"]
            elif message["kind"] == "answer":
                self.answers.append(message)
            elif self._orders.pop(message["number"], None) is not None:
                _send(self._connection, kind="returned", number=message["number"])

    def next(self):
        """Return the next order and its number."""
        self._read(wait=False)
        while not self._orders:
            self._read(wait=True)
        number = next(iter(self._orders))
        return number, decode_order(self._orders.pop(number))


def _refuse(event, _arguments):
    if event == "sqlite3.connect":
        raise AssertionError("a task has opened a store")


def _show(connection, number, card):
    _send(connection, kind="card", number=number, card=card.packed)


def work(flow: type[FlowSpec], graph, argument):
    """Run orders for ever."""
    import time

    generators = Generators(sys.modules[flow.__module__])
    connection = socket.socket(fileno=argument["channel"])
    connection.set_inheritable(False)
    process = _Process(connection)
    ending = Ending()
    sys.addaudithook(_refuse)
    while True:
        number, order = process.next()
        _send(connection, kind="began", number=number, at_ms=time.time_ns() // 1_000_000)
        generators.derive(order)
        show = functools.partial(_show, connection, number)
        product = run_attempt(flow, graph, order, ChannelSource(process.ask), ending, show)
        ending.flush()
        flush_output()
        os.write(1, MARK)
        large = [blob.packed for blob in product.report.blobs if blob.data is None]
        if large:
            _send(connection, kind="offer", number=number, blobs=large)
        for index, value in enumerate(product.large):
            for chunk in chunks_of(value.pieces):
                _send(connection, kind="chunk", number=number, index=index, data=bytes(chunk))
        _send(connection, kind="report", number=number, report=encode_report(product.report))
