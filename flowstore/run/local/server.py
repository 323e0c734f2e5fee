"""The task server: a process that has imported the flow and forks a child for each attempt, or for several.

It is forked from the driver before that opens the store, because SQLite's connections don't survive a fork,
and it never has a thread. The driver sends it descriptors for each child (channel, stdout, stderr, for a
reused one its turns); it answers with the child's pid, and later with how the child ended. When the driver dies, so do
the server and all children, each with whatever process group it leads.

Messages are 9 bytes: a letter, the child's number, a number. To the server: `F` fork, `K` kill (signal),
`W` warm up (which of `codecs.SLOW`). From it: `S` started (pid), `X` ended (wait status), or instead of both
`R` refused (errno), where the system had no process to give. A server in an interpreter of its own begins with `Y`,
ready, or with `U`, where the import has left threads that a forked task would miss.

What costs time to import, and only some flows need, is imported here once a child has needed it, or is likely to, so
that the later ones have it already.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Mapping
from types import FrameType
from typing import Any

from flowstore import context, later
from flowstore.flow import spec
from flowstore.flow.decorators import step
from flowstore.flow.graph import Graph, Node
from flowstore.flow.spec import FlowSpec
from flowstore.run.attempt import run_attempt
from flowstore.run.inputs import StoreSource
from flowstore.run.local import messages, threads, worker
from flowstore.run.local.ending import Ending, flush_imported, flush_output
from flowstore.run.orders import Inline, OpenSplit, Order, RunFacts, decode_order, encode_order
from flowstore.run.randomness import Generators
from flowstore.store.codecs import SLOW, entry_of, import_common, import_slow

MESSAGE = struct.Struct("!cii")
FORK, KILL, WARM_UP, STARTED, ENDED, REFUSED = b"F", b"K", b"W", b"S", b"X", b"R"
READY, UNSAFE = b"Y", b"U"
_OF_TASKS = (  # modules of whose values each task makes some
    "flow.spec", "run.attempt", "run.orders", "run.plan", "store.blobs", "store.codecs.contract", "store.description",
    "store.json_levels", "store.plain",
)  # fmt: skip
REHEARSED_FORK = 12  # a run with so many tasks is likely to have many more: a rehearsal takes the time of twenty


def start(flow: type[FlowSpec], graph: Graph, generators: Generators) -> tuple[socket.socket, int]:
    """Fork the server; return the socket to talk to it, and its pid."""
    ours, theirs = socket.socketpair()
    pid = _fork(theirs, flow, graph, generators, [ours])
    theirs.close()
    return ours, pid


def imported(flow: type[FlowSpec], graph: Graph, argument: Mapping[str, Any]) -> None:
    """Serve from a fresh interpreter that has imported the flow with a step's variables; see `servers.start`.

    The server is a fork of it. This process waits for the server's end, and then ends like a script, for what the
    import has made.
    """
    generators = Generators(sys.modules[flow.__module__])
    control = socket.socket(fileno=argument["control"])
    control.set_inheritable(False)
    pid = _fork(control, flow, graph, generators, [])
    if threads.missed_after_fork():
        os.kill(pid, signal.SIGKILL)
        control.sendall(MESSAGE.pack(UNSAFE, 0, 0))
    else:
        control.sendall(MESSAGE.pack(READY, 0, 0))
    control.close()
    os.waitpid(pid, 0)
    Ending().finish()


def _fork(
    control: socket.socket,
    flow: type[FlowSpec],
    graph: Graph,
    generators: Generators,
    others: list[socket.socket],
) -> int:
    import_common()  # before the fork, since the driver needs them, too
    if any(node.kind in {"foreach", "parallel"} for node in graph):
        _complete_values()  # here: in the server it would leave holes in memory, which each child would fill
    files = flush_imported()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for any thread: see `threads`
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for other in others:
                other.close()
            _Server(control, flow, graph, generators, files).serve()
            status = 0
        finally:
            os._exit(status)
    return pid


def _complete_values() -> None:
    """Have attrs complete the classes of what each task makes, for a run that is likely to have many."""
    later.complete_all(*(f"flowstore.{module}" for module in _OF_TASKS))


class _Server:
    def __init__(
        self,
        control: socket.socket,
        flow: type[FlowSpec],
        graph: Graph,
        generators: Generators,
        files: list[Any],
    ) -> None:
        self._control = control
        self._flow = flow
        self._graph = graph
        self._generators = generators
        self._ending = Ending(files)
        self._forks = 0
        self._children: dict[int, int] = {}  # pid: number

    def serve(self) -> None:
        """Work until the driver closes its end."""
        os.setsid()
        self._prepare_signals()
        wakeup, wake = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        worker.warm_up()
        self._ending.leave_streams()
        spec.fixed_names(self._flow)
        _settle()
        with contextlib.suppress(ConnectionError):  # the driver died before it had read everything
            self._loop(wakeup)
        for pid in self._children:
            _kill_group(pid, signal.SIGKILL)

    def _loop(self, wakeup: int) -> None:
        poll = select.poll()  # less than what `selectors` adds to it: each page that is written here was copied
        poll.register(self._control, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if wakeup in ready:
                os.read(wakeup, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._take_message():
                return

    def _prepare_signals(self) -> None:
        """Set what server and children do on signals once: each call in a child would cost it copies of pages."""
        server = os.getpid()

        def interrupt(_signal: int, _frame: FrameType | None) -> None:
            if os.getpid() != server:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, _ignore)

    def _warm_up(self, module: str) -> None:
        """Import what a child had to, or may have to, and do once what each that uses it would do."""
        with contextlib.suppress(Exception):  # a package is broken: the task that needs it says so
            import_slow(module)
        if module == entry_of("pickle").slow:
            from flowstore.store import pickling

            pickling.register_classes(sys.modules[self._flow.__module__])
        _settle()

    def _take_message(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE.size, 4)
        while message and len(message) < MESSAGE.size:
            message += self._control.recv(MESSAGE.size - len(message))
        if not message:
            return False
        order, number, argument = MESSAGE.unpack(message)
        if order == FORK:
            self._fork(number, descriptors)
        elif order == WARM_UP:
            self._warm_up(SLOW[argument])
        else:
            for pid, child in self._children.items():
                if child == number:
                    _kill_group(pid, signal.Signals(argument))
        return True

    def _rehearse(self) -> None:
        _complete_values()
        rehearse(self._generators, self._ending)
        _settle()

    def _fork(self, number: int, descriptors: list[int]) -> None:
        parent = os.getpid()
        self._forks += 1
        if self._forks == REHEARSED_FORK:
            self._rehearse()
        try:
            pid = os.fork()
        except OSError as error:
            self._report(REFUSED, number, error.errno or 0)
        else:
            if pid == 0:
                try:
                    self._become_child(descriptors, parent)
                finally:
                    os._exit(1)
            self._children[pid] = number
            self._report(STARTED, number, pid)
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_child(self, descriptors: list[int], parent: int) -> None:
        signal.set_wakeup_fd(-1)
        os.setsid()
        os.close(self._control.fileno())  # as `close` does, in C: less of Python is touched
        channel, out, err, *turns = descriptors
        worker.die_with_parent(parent)
        for number, pipe in ((1, out), (2, err)):
            os.dup2(pipe, number)
            os.close(pipe)
        connection = socket.socket(fileno=channel)
        theirs = socket.socket(fileno=turns[0]) if turns else None
        worker.work(connection, self._flow, self._graph, self._generators, self._ending, theirs)
        os._exit(0)  # here, with the channel open: Python's own way to close it would copy more pages

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._children.pop(pid, None)
            if number is not None:
                self._report(ENDED, number, status)

    def _report(self, what: bytes, number: int, argument: int) -> None:
        try:  # noqa: SIM105  # `suppress` would cost each fork copies of pages
            self._control.sendall(MESSAGE.pack(what, number, argument))
        except ConnectionError:  # the driver is gone: the next read says so
            pass


def _settle() -> None:
    """Have what is in memory stay shared with the children: they neither look through it nor fill its holes."""
    worker.fill_holes()
    gc.freeze()


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """SIGCHLD only has to wake the loop."""


def _kill_group(pid: int, number: signal.Signals) -> None:
    for kill in (os.killpg, os.kill):  # the group exists once the child has made itself its leader
        try:
            kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
        return


_TIMES = 8  # that often, Python 3.11 has called a function when it adapts it


class _Rehearsal(FlowSpec):
    @step
    def only(self) -> None:
        self.value = self.input
        self.next(self.only)


_GRAPH = Graph(flow="", file="", line=0, doc="", nodes={"only": Node(name="only", kind="linear", targets=("only",))})
_SPLIT = OpenSplit("foreach", 1, 0, "", 0, Inline("json", b"0"))
_RUN = RunFacts(
    flow="", run_id=0, store="", trusted=False, max_num_splits=1, parameters={}, constants=[],
    current={"namespace": None},
)  # fmt: skip
_ORDER = Order(run=_RUN, step="only", task_id=0, base_id=0, splits=[_SPLIT])


def rehearse(generators: Generators, ending: Ending) -> None:
    """Run the task a few times, from its order to its report, which nobody reads."""
    module = context.state.flow_module
    driver, channel = socket.socketpair()
    with driver, channel:
        for _ in range(_TIMES):
            threading._after_fork()  # type: ignore[attr-defined]  # as in each fork
            messages.send(driver, {"order": encode_order(_ORDER), "reuse": False})
            message = messages.receive(channel)
            assert message is not None
            order = decode_order(message["order"])
            generators.derive(order)
            product = run_attempt(_Rehearsal, _GRAPH, order, StoreSource.of(order), ending)
            flush_output()
            worker.report(channel, product, {"ended": not ending.is_due()})
    context.state.flow_module = module
