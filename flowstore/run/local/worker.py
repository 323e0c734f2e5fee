"""The process that runs tasks: it takes an order from its channel, runs it, and delivers the results.

Large blobs are offered first, by hash, and sent only if the store lacks them. All else travels in the
report. The process ends as a script does (`ending`), but without Python's own exit.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from flowstore import later
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run.attempt import Product, run_attempt
from flowstore.run.executor import LOST_CONNECTION
from flowstore.run.inputs import Source, StoreSource
from flowstore.run.local import messages
from flowstore.run.local.ending import Ending, flush_from_c, flush_output
from flowstore.run.orders import Order, decode_order, encode_report
from flowstore.run.randomness import Generators
from flowstore.store.blobs import chunks_of
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import SLOW


def work(
    channel: socket.socket,
    flow: type[FlowSpec],
    graph: Graph,
    generators: Generators,
    ending: Ending,
    turns: socket.socket | None = None,
) -> None:
    """Run an order, or as many as come: an order says itself which.

    What is left to do at the end comes after the report, so that nothing there can cost an attempt its result.
    """

    def run(message: dict[str, Any]) -> Product:
        order = decode_order(message["order"])
        generators.derive(order)
        known = len(sys.modules)
        product = run_attempt(flow, graph, order, _source(channel, order), ending, show)
        flush_output()
        return _with_imports(product, known)

    def show(card: RenderedCard) -> None:
        _send(messages.send, channel, {"kind": "card", "card": card.packed})

    message = messages.receive(channel)
    if message is None:
        return
    if message["reuse"]:
        _work_on(channel, turns, message, run, ending)
        return
    product = run(message)
    _send(hand_over, channel, product, functools.partial(messages.receive, channel))
    ended = not ending.is_due()
    _send(report, channel, product, {"ended": ended})
    if not ended:
        ending.finish()
        _send(messages.send, channel, {"kind": "ended", "ended": True})


def _work_on(
    channel: socket.socket,
    turns: socket.socket | None,
    first: dict[str, Any],
    run: Callable[[dict[str, Any]], Product],
    ending: Ending,
) -> None:
    """Run orders until there are no more. The end of an attempt is sent with the begin of the next, if that is here."""
    from flowstore.run.local.turns import Inbox, Marks

    inbox, marks = Inbox(channel, turns, first), Marks()
    mark = first.get("mark")
    upcoming = inbox.next(wait=True)
    while upcoming is not None:
        began = time.perf_counter()
        product = run(upcoming)
        _send(hand_over, channel, product, inbox.answer)
        message: dict[str, Any] = {"ended": not ending.is_flush_due(often=True), "took_s": time.perf_counter() - began}
        if not message["ended"]:
            _send(report, channel, product, message)
            ending.flush()
            message = {"kind": "ended", "ended": True}
        if mark is not None:
            message["marked"] = marks.set(mark)
        upcoming = inbox.next(wait=False)
        if upcoming is not None:
            message["next"] = upcoming["number"], time.time_ns() // 1_000_000
        if "kind" in message:
            _send(messages.send, channel, message)
        else:
            _send(report, channel, product, message)
        del product
        upcoming = upcoming or inbox.next(wait=True)
    ending.finish()
    _send(messages.send, channel, {"kind": "ended", "ended": True})


def _with_imports(product: Product, known: int) -> Product:
    """Return the product of an attempt with what it imported, after the first `known` modules of its process."""
    # Names of other modules are left alone; `*` takes these at once, since a thread may be importing more.
    newest = [*itertools.islice(reversed(sys.modules), max(len(sys.modules) - known, 0))]
    modules = [name for name in newest if "." not in name and name not in sys.stdlib_module_names]
    if not modules:  # as in most tasks
        return product
    from flowstore.run.environment import versions

    return later.evolve(product, report=later.evolve(product.report, imported=versions(modules)))


def _source(channel: socket.socket, order: Order) -> Source:
    """Return where a task's inputs come from: the store or, on another machine, the channel."""
    if order.run.store:
        return StoreSource.of(order)
    from flowstore.run.remote.inputs import ChannelSource

    return ChannelSource(channel)


def _send(send: Callable[..., None], *what: Any) -> None:
    try:
        send(*what)
    except OSError:  # the step closed what is not its own, or the driver is gone
        os._exit(LOST_CONNECTION)


_replaced: list[Any] = []  # streams; a stream that is dropped would close what it writes to, which modules may hold


def fresh_streams() -> None:
    """Have Python's output streams pass each line on at once, whatever the terminal's encoding.

    Python's own are kept, since the flow's modules may hold them; those that are closed,
    replaced or unbuffered are made again.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, f"__{name}__")
        try:
            usable = stream.fileno() == descriptor and type(stream.buffer) is io.BufferedWriter
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
        except (AttributeError, ValueError, OSError):
            usable = False
        if not usable:
            _replaced.append(stream)
            stream = open(  # noqa: SIM115
                descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def hand_over(channel: socket.socket, product: Product, answer: Callable[[], dict[str, Any] | None]) -> None:
    """Send those of an attempt's large values that the store lacks; `answer` waits for what the driver answers."""
    if not product.large:
        return
    large = [blob.packed for blob in product.report.blobs if blob.data is None]
    messages.send(channel, {"kind": "offer", "large": large})
    wanted = answer()
    for index in () if wanted is None else wanted["send"]:
        messages.send_data(channel, chunks_of(product.large[index].pieces))


def report(channel: socket.socket, product: Product, end: Mapping[str, Any]) -> None:
    """Send an attempt's report.

    Args:
        channel: to the driver.
        product: what to send.
        end: what there is to say of the process; `ended`: whether nothing is left to do in it, else a message follows
            when that is done.
    """
    used = [n for n, module in enumerate(SLOW) if module in sys.modules]
    messages.send(channel, {"kind": "report", "report": encode_report(product.report), "used": used, **end})


def spawned(flow: type[FlowSpec], graph: Graph, argument: Mapping[str, Any]) -> None:
    """Run orders in a fresh interpreter; see `interpreter.Interpreters`."""
    generators = Generators(sys.modules[flow.__module__])
    if sys.platform == "win32":
        channel = socket.fromshare(sys.stdin.buffer.read())
    else:
        channel = socket.socket(fileno=argument["channel"])
    channel.set_inheritable(False)
    turns = None if argument["turns"] is None else socket.socket(fileno=argument["turns"])
    if turns is not None:
        turns.set_inheritable(False)
    fresh_streams()
    work(channel, flow, graph, generators, Ending(), turns)
    os._exit(0)


def die_with_parent(parent: int) -> None:
    """Have the system end this process when its parent ends; elsewhere than on Linux, watch for it."""
    if sys.platform == "linux":
        _prctl()(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: see prctl(2)
    elif sys.platform != "win32":
        import threading

        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if sys.platform != "win32" and os.getppid() != parent:
        os._exit(1)  # it ended before the system knew


@functools.cache
def _prctl() -> Any:
    import ctypes

    return ctypes.CDLL(None).prctl


def warm_up() -> None:
    """Do once, before forking, what each child would do: it then only moves its pipes to descriptors 1 and 2."""
    if sys.platform == "linux":
        _prctl()(1, 0)
        flush_from_c()
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123  # a device, not a path of the user's
        os.dup2(nothing.fileno(), 0)
    fresh_streams()


def _watch(parent: int) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(1)  # only Linux can send a signal when a parent ends
    os._exit(1)


_LARGEST, _LEAST = 1 << 16, 24  # bytes: what is larger than the first is pages of its own, and no piece is smaller
_SMALL = 1032  # bytes: of each size up to this one, glibc keeps a few pieces beside, which it gives first
_MOST_S = 0.02  # usually it takes a tenth of this
_COUNTS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"  # see mallinfo2(3)


def fill_holes() -> None:
    """Take the free pieces that imports have left all over the heap, before forking; only where it is glibc's.

    Else a child takes them for what it allocates first, each on a page that it then has to copy: where scikit-learn has
    been imported, SQLite copies 700 pages more when it reads the schema of the store.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return

    class Mallinfo(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _COUNTS.split())

    def free_bytes() -> int:
        info = libc.mallinfo2()
        return int(info.fordblks - info.keepcost)  # without what is at the end of the heap

    libc.mallinfo2.restype = Mallinfo
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    until = time.perf_counter() + _MOST_S
    size, free = _LARGEST, free_bytes()
    while size >= _LEAST and time.perf_counter() < until:
        for _ in range(32 if size <= _SMALL else 1):
            libc.malloc(size)
        before, free = free, free_bytes()
        if free >= before:  # no piece of this size was left
            size = size * 3 // 4
