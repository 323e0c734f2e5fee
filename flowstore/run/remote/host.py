"""A host: a process on another machine that runs the attempts of one run there.

It is the executor of one machine behind a stream of bytes. It says who it is, receives the flow's snapshot, becomes
the flow's program as a spawned task would, and then passes orders in and events out. It never opens the store: what
tasks ask for it fetches from the driver, each blob once.

Both sides send something at least every few seconds. A host that hears nothing for as long as its lease kills its
tasks and ends, since its driver has died or counts it as lost; so does a host whose stream ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs

from flowstore import later
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run.executor import Died, Ended, Event, Printed, Refreshed, Reported, Setup, Started
from flowstore.run.local.executor import LocalExecutor
from flowstore.run.local.interpreter import become
from flowstore.run.local.processes import Worker
from flowstore.run.orders import decode_order, encode_report
from flowstore.run.randomness import Generators
from flowstore.run.remote.identity import identity, import_failure
from flowstore.run.remote.inputs import Cache, Incoming, Key, mismatch
from flowstore.run.remote.messages import Message, Reader, encode
from flowstore.run.snapshot import Sources, described
from flowstore.store.blobs import CHUNK_BYTES
from flowstore.store.description import NewBlob

START = (  # a program: its arguments are where flowstore is, and the descriptor of the stream
    "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv[1]]; "
    "from flowstore.run.remote.host import main; sys.path.pop(); main(int(sys.argv[2]))"
)
SETUP_S = 15.0  # for each of the first two messages of the driver, which may have died
CHUNKS_AHEAD = 2  # of a blob that is fetched: that many are asked for before the first has come
READ_BYTES = 1 << 20


class Stream:
    """The host's end of the stream to its driver."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.sent_at = self.heard_at = time.monotonic()
        self._reader = Reader()
        self._messages: deque[Message] = deque()
        os.register_at_fork(after_in_child=connection.close)  # tasks must not hold it open, or write to it

    def send(self, kind: str, *values: Any) -> None:
        """Send a message.

        Raises:
            OSError: the stream has ended, or the driver takes nothing any more.
        """
        self.connection.sendall(encode(kind, *values))
        self.sent_at = time.monotonic()

    def receive(self) -> list[Message]:
        """Return the messages that have arrived.

        Raises:
            EOFError: the stream has ended.
        """
        timeout = self.connection.gettimeout()
        waiting, self._messages = [*self._messages], deque()
        self.connection.settimeout(0)
        try:
            data = self.connection.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return waiting
        except OSError:
            raise EOFError from None
        finally:
            self.connection.settimeout(timeout)
        if not data:
            raise EOFError
        self.heard_at = time.monotonic()
        return [*waiting, *self._reader.feed(data)]

    def expect(self, kind: str, timeout_s: float) -> Any:
        """Wait for a message with one value, and return that."""
        self.connection.settimeout(timeout_s)
        while not self._messages:
            data = self.connection.recv(READ_BYTES)
            if not data:
                raise EOFError
            self._messages += self._reader.feed(data)
        message = self._messages.popleft()
        if message[0] != kind:
            raise EOFError
        return message[1]


@later.frozen(kw_only=True)
class Program:
    """A program for a host, as the driver's first message describes it.

    Attributes:
        flow: the module and the qualified name of the flow's class.
        argv: the program's arguments.
        sources: the snapshot but for its files.
        sizes: the size of each file.
        folder: where to run it; default: in a folder of the host's own, which has the files of the snapshot.
        lease_s: how long the host goes on without hearing from the driver.
        cache_bytes: how much of its disk to use for inputs.
        method: how processes start.
    """

    flow: Sequence[str]
    argv: Sequence[str]
    sources: Mapping[str, Any]
    sizes: Mapping[str, int]
    folder: str | None
    lease_s: float
    cache_bytes: int
    method: str | None

    @classmethod
    def of(cls, setup: Setup, sources: Sources, folder: str | None, lease_s: float, cache_bytes: int) -> Program:
        """Return what a driver has hosts run."""
        flow = setup.flow
        return cls(
            flow=[flow.__module__, flow.__qualname__],
            argv=sys.argv,
            sources=described(sources),
            sizes={path: len(data) for path, data in sources.files.items()},
            folder=folder,
            lease_s=lease_s,
            cache_bytes=cache_bytes,
            method=setup.method,
        )

    def unpack(self, files: bytes, scratch: Path) -> Sources:
        """Return the snapshot; without a folder, write its files to one."""
        unpacked: dict[str, bytes] = {}
        at = 0
        for path, size in self.sizes.items():
            unpacked[path] = files[at : at + size]
            at += size
        sources = Sources(files=unpacked, **self.sources)
        if self.folder is not None:
            return sources
        root = scratch / "code"
        root.mkdir()
        for path, data in unpacked.items():
            file = root / path
            if not file.resolve().is_relative_to(root):
                raise FlowstoreError(f"{path} is outside of the flow's folder.")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        main = None if sources.main_file is None else str(root / sources.script)
        return attrs.evolve(sources, root=str(root) if sources.root else "", main_file=main)


def main(descriptor: int) -> None:
    """Run a host whose stream is a socket that this process has inherited."""
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    serve(connection)


def serve(connection: socket.socket) -> NoReturn:
    """Run a host, and end this process with it.

    Args:
        connection: the stream to the driver.
    """
    scratch = Path(tempfile.mkdtemp(prefix="flowstore-host-")).resolve()
    leader = os.getpid()
    try:
        run(Stream(connection), scratch)
    except (EOFError, OSError):  # the driver has no more work, or is gone
        pass
    finally:
        if os.getpid() == leader:
            shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def run(stream: Stream, scratch: Path) -> None:
    """Run a host until its stream ends."""
    stream.send("hello", identity())
    program = Program(**stream.expect("setup", SETUP_S))
    sources = program.unpack(stream.expect("files", SETUP_S), scratch)
    stream.connection.settimeout(program.lease_s)
    os.chdir(program.folder or sources.root or scratch)
    sys.path.insert(0, sources.root if sources.main_file is not None and sources.module is None else str(Path.cwd()))

    def serve(flow: type[FlowSpec], graph: Graph) -> None:
        host = Host(stream, program, flow, graph, sources, scratch)
        try:  # nothing may leave through the user's own code, which has called this
            host.serve()
        except FlowstoreError as error:
            with contextlib.suppress(OSError):
                stream.send("failed", str(error))
        except OSError:
            pass
        finally:
            host.close()
            shutil.rmtree(scratch, ignore_errors=True)

    try:
        become(sources, program.argv, program.flow, serve)
    except (EOFError, OSError):
        raise
    except BaseException as error:  # whatever the import of the flow raises
        stream.send("failed", import_failure(error))


class _Executor(LocalExecutor):
    """The executor of this machine, with a host in place of a driver: what needs an answer goes there."""

    def __init__(self, setup: Setup, host: Host) -> None:
        super().__init__(setup)
        self._host = host
        self._results = host

    def listen(self, connection: socket.socket) -> None:
        """Have `wait` return when something has arrived."""
        self._pool.selector.register(connection, 1, (None, "waker"))  # EVENT_READ

    def answer(self, number: int, message: dict[str, Any]) -> None:
        """Answer an attempt's process, if it is still there."""
        worker = self._running.get(number)
        if worker is not None:
            self._pool.send(worker, message)

    def _take_message(self, worker: Worker, message: dict[str, Any]) -> list[Event]:
        assert worker.number is not None
        if message["kind"] == "ask":
            self._host.ask(worker.number, message["what"], message["arguments"])
            return []
        if message["kind"] == "offer":
            self._host.offer(worker.number, message["large"])
            return []
        return super()._take_message(worker, message)


@attrs.define(eq=False, repr=False)
class _Fetch:
    """A blob that the driver sends, for the attempts that wait for it."""

    name: str
    blob_id: int
    incoming: Incoming
    waiting: list[int]
    requested: int = 0  # chunks

    @property
    def chunks(self) -> int:
        return max(1, -(-self.incoming.size_bytes // CHUNK_BYTES))


class Host:
    """Passes orders to the executor of this machine, and its events to the driver.

    Args:
        stream: to the driver.
        program: what it runs.
        flow: the flow's class, as this process has imported it.
        graph: its steps.
        sources: its snapshot, as it is on this machine.
        scratch: a folder of the host's own.
    """

    def __init__(
        self, stream: Stream, program: Program, flow: type[FlowSpec], graph: Graph, sources: Sources, scratch: Path
    ) -> None:
        self._stream = stream
        self._lease_s = program.lease_s
        self._cache = Cache(scratch / "inputs", program.cache_bytes)
        generators = Generators(sys.modules[flow.__module__])
        setup = Setup(flow=flow, graph=graph, sources=sources, generators=generators, method=program.method)
        self._executor = _Executor(setup, self)
        self._executor.listen(stream.connection)
        self._slots: dict[int, int] = {}  # by pool, how many attempts may run at a time
        self._waiting: deque[tuple[int, int, Any]] = deque()  # pool, the driver's number, order
        self._running: dict[int, tuple[int, int]] = {}  # by our number: pool, the driver's number
        self._numbers: dict[int, int] = {}  # the driver's number: ours
        self._asks = 0
        self._asked: dict[int, int | _Fetch] = {}  # by ask: the attempt that waits, or what is fetched
        self._fetches: dict[Key, _Fetch] = {}
        self._closing = False

    def serve(self) -> None:
        """Work until the driver says that no more comes, or is gone."""
        self._stream.send("ready", self._executor.notice)
        beat_s = min(5.0, self._lease_s / 6)
        while not self._closing:
            for event in self._executor.wait(beat_s):
                self._forward(event)
            try:
                for message in self._stream.receive():
                    self._take(message)
            except EOFError:
                return
            self._start_waiting()
            now = time.monotonic()
            if now - self._stream.heard_at > self._lease_s:
                return
            if now - self._stream.sent_at > beat_s:
                self._stream.send("beat")

    def close(self) -> None:
        """End every attempt."""
        self._executor.close()

    # --- from the driver

    def _take(self, message: Message) -> None:
        kind, *values = message
        if kind == "order":
            self._waiting.append((values[0], values[1], values[2]))
        elif kind == "slots":
            self._slots[values[0]] = values[1]
        elif kind in ("kill", "withdraw"):
            self._end(values[0], values[1] if kind == "kill" else None)
        elif kind == "send":
            self._executor.answer(self._numbers.get(values[0], -1), {"send": values[1]})
        elif kind in ("answer", "refusal"):
            self._take_answer(values[0], message)
        elif kind == "close":
            self._closing = True

    def _end(self, number: int, how: int | None) -> None:
        for item in list(self._waiting):
            if item[1] == number:
                self._waiting.remove(item)
                self._stream.send("returned", number)
        if how is not None and number in self._numbers:
            self._executor.kill(self._numbers[number], signal.Signals(how))

    def _start_waiting(self) -> None:
        for item in list(self._waiting):
            pool, number, order = item
            if sum(other == pool for other, _ in self._running.values()) >= self._slots.get(pool, 0):
                continue
            self._waiting.remove(item)
            local = self._executor.launch(decode_order(order))
            self._running[local], self._numbers[number] = (pool, number), local

    # --- from attempts

    def _forward(self, event: Event) -> None:
        _, number = self._running[event.number]
        if isinstance(event, Started):
            self._stream.send("started", number, event.pid)
        elif isinstance(event, Printed):
            self._stream.send("printed", number, event.stream, event.data)
        elif isinstance(event, Refreshed):
            self._stream.send("card", number, event.card.packed)
        elif isinstance(event, Reported):
            self._stream.send("reported", number, encode_report(event.report))
        elif isinstance(event, (Ended, Died)):
            del self._running[event.number], self._numbers[number]
            if isinstance(event, Ended):
                self._stream.send("ended", number, event.code, event.signal)
            else:
                self._stream.send("died", number, event.code, event.signal, event.garbled, event.refused)

    def offer(self, local: int, large: Sequence[Any]) -> None:
        """Ask which large values of an attempt the store lacks."""
        self._stream.send("offer", self._running[local][1], large)

    def missing(self, number: int, offered: Sequence[NewBlob]) -> list[int]:  # noqa: ARG002  # of a protocol
        """See `executor.Results`; `offer` asks for it without waiting."""
        raise AssertionError

    def take(self, number: int, chunk: bytes) -> None:
        """Pass on a chunk of a large value."""
        self._stream.send("data", self._running[number][1], chunk)

    def ask(self, local: int, what: str, arguments: Sequence[Any]) -> None:
        """Answer what an attempt asks, from the cache or by asking the driver."""
        if what != "blob":
            self._send_ask(local, what, arguments)
            return
        blob_id, sha, codec, size_bytes, name = arguments
        key = sha, codec
        path = self._cache.find(key)
        if path is not None:
            self._executor.answer(local, {"answer": str(path)})
        elif key in self._fetches:
            self._fetches[key].waiting.append(local)
        else:
            fetch = self._fetches[key] = _Fetch(name, blob_id, self._cache.begin(key, size_bytes), [local])
            for _ in range(min(CHUNKS_AHEAD, fetch.chunks)):
                self._ask_chunk(fetch)

    def _ask_chunk(self, fetch: _Fetch) -> None:
        self._send_ask(fetch, "chunk", (fetch.blob_id, fetch.name, fetch.requested))
        fetch.requested += 1

    def _send_ask(self, asker: int | _Fetch, what: str, arguments: Sequence[Any]) -> None:
        self._asks += 1
        self._asked[self._asks] = asker
        self._stream.send("ask", self._asks, what, list(arguments))

    def _take_answer(self, ask: int, message: Message) -> None:
        asker = self._asked.pop(ask, None)
        if isinstance(asker, int):
            kind, _, *values = message
            self._executor.answer(asker, {"answer": values[0]} if kind == "answer" else {"error": values})
        elif asker is not None and self._fetches.get(asker.incoming.key) is asker:
            self._take_chunk(asker, message)

    def _take_chunk(self, fetch: _Fetch, message: Message) -> None:
        """Take a chunk of a blob, or why there is none; the attempts that wait go on once all of it has come."""
        kind, _, *values = message
        if kind == "refusal":
            fetch.incoming.drop()
            self._end_fetch(fetch, {"error": values})
            return
        try:
            fetch.incoming.write(values[0])
            path = fetch.incoming.finish() if fetch.incoming.is_complete else None
        except OSError as error:  # the disk is full
            fetch.incoming.drop()
            text = f"{fetch.name} could not be kept on {socket.gethostname()}: {error.strerror}."
            self._end_fetch(fetch, {"error": ("FlowstoreError", text)})
            return
        if path is not None:
            self._end_fetch(fetch, {"answer": str(path)})
        elif fetch.incoming.is_complete or not values[0]:
            fetch.incoming.drop()
            self._end_fetch(fetch, {"error": ("StoreCorrupt", str(mismatch(fetch.name)))})
        elif fetch.requested < fetch.chunks:
            self._ask_chunk(fetch)

    def _end_fetch(self, fetch: _Fetch, answer: dict[str, Any]) -> None:
        del self._fetches[fetch.incoming.key]
        for local in fetch.waiting:
            self._executor.answer(local, answer)
