"""The contract of executors, which run a driver's orders, and the registry in which they are found by name.

An executor gets orders from the driver and says in events what becomes of them. How it starts processes, how it talks
to them and how it carries large results is its own affair, so that tasks can run elsewhere than on this machine.
"""

from __future__ import annotations

import abc
import errno
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from flowstore import later
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run.inputs import StoreSource
from flowstore.run.orders import Order, Report
from flowstore.run.randomness import Generators
from flowstore.store.cards import RenderedCard
from flowstore.store.description import NewBlob
from flowstore.text import did_you_mean

if TYPE_CHECKING:
    from flowstore.run.snapshot import Sources

LOST_CONNECTION = 74  # the exit code of a process that could not send its report: EX_IOERR of sysexits(3)

# --- events


@later.frozen
class Started:
    """An attempt has begun, in the process `pid`.

    Attributes:
        number: the attempt's.
        pid: the process's.
        host: the machine's name, where it is not this one.
        at_ms: when it began, in milliseconds since 1970; `None` for now.
    """

    number: int
    pid: int
    host: str | None = None
    at_ms: int | None = None


@later.frozen
class Printed:
    """An attempt wrote to `stream`, which is 'stdout' or 'stderr'."""

    number: int
    stream: str
    data: bytes


@later.frozen
class Refreshed:
    """An attempt has drawn one of its cards again while it runs."""

    number: int
    card: RenderedCard


@later.frozen
class Reported:
    """An attempt is over, and this is its report. Its process goes on until `Ended`, like a script after its last line.

    The large blobs that the report names have been handed over before (see `Results`).
    """

    number: int
    report: Report


@later.frozen
class Ended:
    """The process of an attempt that has reported has done what was left to do, or died meanwhile.

    Attributes:
        number: the attempt's.
        code, signal: how the process died, if it did not end by itself.
        kept: whether it waits for the next attempt of its step.
    """

    number: int
    code: int = 0
    signal: int | None = None
    kept: bool = False

    def __str__(self) -> str:
        how = f"exited with code {self.code}" if self.signal is None else f"was killed by {signal_name(self.signal)}"
        return f"The task's process {how} after it had delivered its result, while it was ending. The result is kept."


@later.frozen
class Died:
    """An attempt's process ended without a report: `signal` killed it, or it exited with `code`.

    Attributes:
        number: the attempt's.
        code, signal: how the process ended.
        garbled: whether it had sent something that is not a message, so that the executor killed it.
        refused: the errno with which the system refused to start it, so that there was no process.
        lost: where it ran and how that was lost, such as `node7, whose connection ended`.
    """

    number: int
    code: int | None
    signal: int | None
    garbled: bool = False
    refused: int | None = None
    lost: str | None = None

    def __str__(self) -> str:
        if self.lost is not None:
            return f"The task was lost with its host {self.lost}."
        if self.refused is not None:
            name = errno.errorcode.get(self.refused, self.refused)
            return (
                f"The task's process could not be started ({name}: {os.strerror(self.refused)}): a limit on processes "
                "or memory is reached. Run fewer tasks at a time, with --max-workers, or raise the limit "
                "(ulimit -u, or the container's)."
            )
        if self.garbled:
            return "The task's process was killed, since it wrote to the connection that flowstore uses itself."
        if self.code == LOST_CONNECTION:
            return (
                f"The task's process exited with code {self.code}: its connection to the driver was closed, "
                "by the step perhaps, so that its results could not be sent."
            )
        if self.signal is not None:
            name = signal_name(self.signal)
            hint = " (out of memory, perhaps)" if self.signal == signal.SIGKILL else ""
            return f"The task's process was killed by {name}{hint}."
        return f"The task's process exited with code {self.code} before the step had finished."


@later.frozen
class Returned:
    """The executor gives an order back that it had taken ahead; the attempt has not begun and never will."""

    number: int


Event = Started | Printed | Refreshed | Reported | Ended | Died | Returned


def signal_name(number: int) -> str:
    """Return the name of a signal, with what it means.

    >>> signal_name(11)
    'SIGSEGV, segmentation fault'
    """
    try:
        words = signal.strsignal(number)
        return signal.Signals(number).name + (f", {words[0].lower()}{words[1:]}" if words else "")
    except ValueError:
        return f"signal {number}"


# --- the contract


class Results(Protocol):
    """Takes the large blobs of attempts on their way into the store.

    An artifact of more than `blobs.INLINE_BYTES` is not in its report. The executor asks which of these blobs the store
    lacks, hands them over chunk by chunk, and then passes the report on. An executor with tasks that can't wait for an
    answer lets them send everything, and drops what the store has already.
    """

    def missing(self, number: int, offered: Sequence[NewBlob]) -> list[int]:
        """Return the indexes of an attempt's large blobs that are to be handed over, in this order.

        It is to be called once for an attempt at most.
        """

    def take(self, number: int, chunk: bytes) -> None:
        """Take the next chunk: all have `blobs.CHUNK_BYTES`, except for the last one of each blob.

        Raises:
            FlowstoreError: the store could not take an earlier one.
        """


@later.frozen(kw_only=True)
class Services:
    """Services of a driver for its executor.

    Attributes:
        waker: `wait` returns as soon as this socket can be read.
        results: takes the large blobs of attempts.
        source: answers what tasks ask that can't read the store's file themselves.
    """

    waker: socket.socket
    results: Results
    source: StoreSource


@later.frozen(kw_only=True)
class Setup:
    """The arguments from which an executor is made.

    Attributes:
        flow: the flow's class, as this process imported it.
        graph: its steps.
        sources: its snapshot; default: taken when it is needed.
        generators: the random generators as the import of the flow left them; default: as they are.
        address: what follows the colon in `--executor NAME:ADDRESS`.
        options: those of `--executor-option`, by name.
        with_: the decorators of `--with`.
        max_workers: how many attempts may run at a time; default: `Executor.capacity`.
        method: how processes are to start, 'fork' or 'spawn'; default: the executor's choice.
        reuse: whether attempts of a step may share a process, one after the other.
    """

    flow: type[FlowSpec]
    graph: Graph
    sources: Sources | None = None
    generators: Generators | None = None
    address: str = ""
    options: Mapping[str, str] = later.field(factory=dict)
    with_: Sequence[str] = ()
    max_workers: int | None = None
    method: str | None = None
    reuse: bool = False


class Executor(abc.ABC):
    """Runs attempts and reports what they do.

    The driver calls all methods from one thread. It makes an executor from a `Setup` before it opens the store, calls
    `connect` once, then `launch` and `wait` again and again, and `close` at the end in any case. For each number that
    `launch` returned, `wait` returns these events in this order:

        Started, then Printed any number of times, then Reported, Printed…, Ended     the attempt has a result
        Started, then Printed any number of times, then Died                          it has none
        Died                                                                          no process could be started
        Returned                                                                      it will not begin; see `ahead`

    `Refreshed` may come wherever `Printed` may come before the report.

    Each order is run at most once: whatever repeats work on its own (as a cluster may) has to be kept from it. What was
    printed comes before the report or the death that ended the attempt.

    Example:
        >>> class Nowhere(Executor):
        ...     name = "nowhere"
        ...     def __init__(self, setup):
        ...         self._numbers = []
        ...     def launch(self, order):
        ...         self._numbers.append(len(self._numbers))
        ...         return self._numbers[-1]
        ...     def wait(self, timeout_s):
        ...         numbers, self._numbers = self._numbers, []
        ...         return [Died(number, code=None, signal=None, refused=11) for number in numbers]
        ...     def kill(self, number, how):
        ...         pass
        ...     def close(self):
        ...         pass

    Attributes:
        name: its name in the registry, and in the run's tag `runtime:NAME`.
        notice: a sentence for the user about how tasks will run, if there is something to say.
        capacity: how many attempts it can run at a time, where that is not the number of this machine's cores.
        ahead: how many orders it takes beyond the driver's `--max-workers`; `wait` may change it. While it is 0, which
            is the default, an attempt is recorded as running before its order is handed over. Otherwise it is recorded
            when `Started` says that it began; an order that only waits is nowhere in the store. Orders that waited for
            a process that died have not begun: they go to another process or are `Returned`, and are not `Died`.
            Members of a gang (`Order.num_nodes`) run at the same time, so none of them may wait for another.
    """

    name: str
    notice: str | None = None
    capacity: int | None = None
    ahead: int = 0

    @classmethod
    def check(cls, address: str, options: Mapping[str, str]) -> None:
        """Check an address and options before anything is started; the default allows none.

        Raises:
            FlowstoreError: the address has another form, or there is no such option.
        """
        if address:
            raise FlowstoreError(f"The executor {cls.name!r} takes no address, so not {address!r}.")
        if options:
            raise FlowstoreError(f"The executor {cls.name!r} has no options, so not {next(iter(options))!r}.")

    @abc.abstractmethod
    def __init__(self, setup: Setup) -> None: ...

    def connect(self, services: Services) -> None:  # noqa: B027  # optional
        """Take what the driver offers, before the first order. May be left out by an executor that needs none of it."""

    @abc.abstractmethod
    def launch(self, order: Order) -> int:
        """Take an order, to be begun at once or as soon as a process is free.

        Args:
            order: the attempt to run.

        Returns:
            The number that the attempt's events carry; each is used once.

        Raises:
            FlowstoreError: no attempt can be run any more, so the run ends.
        """

    @abc.abstractmethod
    def wait(self, timeout_s: float | None) -> list[Event]:
        """Return what attempts did since the last call, in order, as soon as there is anything.

        Args:
            timeout_s: how long to wait for the first event; `None` for ever. The waker ends the waiting, too.

        Raises:
            FlowstoreError: no attempt can be run any more, or the store could not take a large blob.
        """

    @abc.abstractmethod
    def kill(self, number: int, how: signal.Signals) -> None:
        """Send a signal to an attempt's process and to all processes that it has started.

        `Died` or `Ended` follows if that ends it. An attempt that has not begun is `Returned`. An attempt may be
        gone already, with a last event that `wait` has not returned yet; that is not an error.
        """

    def withdraw(self, number: int) -> None:  # noqa: B027  # optional
        """Take an order back: `Returned` follows unless the attempt has begun. May be left out where `ahead` is 0."""

    def finish(self) -> list[int]:
        """End the processes that wait for attempts, since no more will come.

        Returns:
            The last attempt of each such process, which was `kept`; another `Ended` follows for each. An executor that
            keeps no processes may leave this out.
        """
        return []

    @abc.abstractmethod
    def close(self) -> None:
        """End every process, and wait for that. What an attempt had not reported is lost."""


# --- the registry

REGISTRY: dict[str, str] = {  # name: module and class, which is imported when it is first asked for
    "local": "flowstore.run.local.executor:LocalExecutor",
    "dask": "flowstore.run.remote.dask:DaskExecutor",
    "slurm": "flowstore.run.remote.slurm:SlurmExecutor",
}


def find_executor(where: str) -> type[Executor]:
    """Return the class of the executor that `--executor WHERE` names, as NAME or NAME:ADDRESS.

    Raises:
        FlowstoreError: there is none of this name, or it needs packages that are not installed.

    Example:
        >>> find_executor("local").__name__
        'LocalExecutor'
        >>> find_executor("locl")
        Traceback (most recent call last):
        ...
        flowstore.errors.FlowstoreError: There is no executor 'locl'. There are: local... Did you mean 'local'?
    """
    import importlib

    name = where.partition(":")[0]
    if name not in REGISTRY:
        near = did_you_mean(name, REGISTRY)
        raise FlowstoreError(f"There is no executor {name!r}. There are: {', '.join(REGISTRY)}.{near}")
    module, _, kind = REGISTRY[name].partition(":")
    try:
        executor: type[Executor] = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "flowstore":
            raise
        raise _missing(name, error.name) from None
    return executor


@later.frozen
class Choice:
    """An executor that was chosen: its class, and the `address` and the `options` of its `Setup`."""

    kind: type[Executor]
    address: str
    options: Mapping[str, str]


def choose(where: str, texts: Sequence[str]) -> Choice:
    """Return the executor that `--executor WHERE` and `--executor-option NAME=VALUE`, each a text, choose.

    Raises:
        FlowstoreError: there is none of this name, or it can't be used so.

    Example:
        >>> choose("local", []).kind.name
        'local'
    """
    kind = find_executor(where)
    pairs = [text.partition("=") for text in texts]
    for name, sign, value in pairs:
        if not name or not sign or not value:
            raise FlowstoreError(f"--executor-option {name}{sign}{value}: write NAME=VALUE, such as lease=60.")
    choice = Choice(kind, where.partition(":")[2], {name: value for name, _, value in pairs})
    kind.check(choice.address, choice.options)
    return choice


def check_package(name: str, package: str) -> None:
    """Raise FlowstoreError where a package is not installed that an executor needs."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise _missing(name, package)


def _missing(name: str, package: str) -> FlowstoreError:
    return FlowstoreError(
        f"The executor {name!r} needs the package {package}, which is not installed. "
        f"Install it: pip install 'flowstore[{name}]'"
    )
