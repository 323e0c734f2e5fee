"""Dask's side: a scheduler to connect with, a cluster of this machine, and the leases and hosts of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.run.remote.host import READ_BYTES, START

if TYPE_CHECKING:
    import distributed

CONNECT_S = 10.0
MOST_THREADS = 1000
START_S = 60.0  # for a cluster of this machine to start
OPEN_S = 30.0  # for a worker's event loop to take a stream

# --- a scheduler


def connect(address: str) -> distributed.Client:
    """Return a client of the scheduler at an address, or in a file."""
    where = address if "://" in address else _address_in(Path(address))
    _check_listens(where)
    import distributed  # which takes half a second

    results: list[distributed.Client | Exception] = []

    def try_it() -> None:
        try:
            results.append(distributed.Client(where, timeout=CONNECT_S, set_as_default=False))
        except Exception as error:  # whatever some other server's answer is taken for
            results.append(error)

    bounded(try_it, CONNECT_S + 5)  # longer than the time limit, which is not for a server that says nothing
    result = results[0] if results else TimeoutError("it does not answer")
    if isinstance(result, Exception):
        raise _refusal(where, result) from None
    return result


def _address_in(file: Path) -> str:
    """Return the address of the scheduler that has written a file."""
    try:
        return str(json.loads(file.read_text("utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FlowstoreError(f"{file} is not a file that dask scheduler --scheduler-file has written.") from None


def _check_listens(address: str) -> None:
    """Raise FlowstoreError where nobody listens at an address, for which Dask itself would look for seconds."""
    try:
        parts = urlsplit(address)
        if parts.scheme in ("tcp", "tls") and parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), CONNECT_S).close()
    except ValueError:
        raise FlowstoreError(f"{address} is not an address: it has the form tcp://HOST:PORT.") from None
    except OSError as error:
        why = error.strerror or error
        raise FlowstoreError(f"There is no Dask scheduler at {address} ({why}). Start one: dask scheduler") from None


def _refusal(address: str, error: Exception) -> FlowstoreError:
    """Return the error of an address to which no client can connect."""
    text = f"{error}" or type(error).__name__
    if any(word in text.lower() for word in ("ssl", "tls ")) or isinstance(error, FileNotFoundError):
        return FlowstoreError(
            f"The Dask scheduler at {address} needs TLS, and this process has no fitting certificates: "
            f"{text.rstrip('.')}. "
            "Set them where Dask looks for them: distributed.comm.tls in ~/.config/dask/distributed.yaml."
        )
    return FlowstoreError(
        f"The server at {address} does not answer as a Dask scheduler does ({text}). Give the scheduler's address: "
        "it prints it, tls://HOST:PORT with TLS, and tcp://HOST:PORT without."
    )


def silence() -> None:
    """Have Dask's client log nothing: what goes wrong is said once, by the executor."""
    import distributed.client  # noqa: F401  # makes its loggers, each with a level of its own

    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def bounded(call: Callable[[], object], seconds: float) -> bool:
    """Call something of Dask's that may wait for ever, as for a scheduler that is gone; return whether it ended."""

    def quietly() -> None:
        with contextlib.suppress(Exception):  # the caller sees that there is no result
            call()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


# --- a cluster of this machine


class Cluster:
    """A Dask cluster on this machine, in a process that ends with this one."""

    def __init__(self, slots: int) -> None:
        path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(context.__file__).parent.parent)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flowstore.run.remote.dask_cluster", str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        assert self._process.stdout is not None
        lines: list[bytes] = []
        read = self._process.stdout.readline
        in_time = bounded(lambda: lines.append(read()), START_S)
        self.address = b"".join(lines).decode().strip()
        if not self.address:
            why = f"it exited with {self._process.wait()}" if in_time else f"it was not ready within {START_S:g} s"
            self.close()
            raise FlowstoreError(f"The local Dask cluster could not be started: {why}.")

    def close(self) -> None:
        """End it; its hosts have ended, or end with their streams."""
        self._process.kill()
        self._process.communicate()


def serve_cluster(slots: int) -> None:
    """Run a Dask cluster until stdin ends: see `Cluster`."""
    import distributed

    with distributed.LocalCluster(
        n_workers=1,  # tasks are processes of its host anyway
        threads_per_worker=max(slots, MOST_THREADS),  # started when they are needed: by gangs
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123  # a device, not a path of the user's
            os.dup2(nothing.fileno(), 1)  # hosts inherit it, and nobody reads the pipe any more
        sys.stdin.buffer.read()
        os._exit(0)


# --- at a worker


class _Hosted:
    """A host beside a Dask worker, the leases that it has, and its stream, whose pieces may be asked for twice.

    Only the worker's event loop reads, writes and closes the stream. A loop that is not there when a descriptor is
    closed believes that it polls this number still, so it would never poll the worker's next connection that gets it.

    Args:
        loop: the worker's event loop, in whose thread this is not made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ident = uuid.uuid4().hex
        self.leases: dict[int, threading.Event] = {}
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(Path(context.__file__).parent.parent), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.was_called = False  # by its driver
        self._ended = threading.Lock()
        self._loop = loop
        opening = asyncio.run_coroutine_threadsafe(asyncio.open_connection(sock=ours, limit=READ_BYTES), loop)
        try:
            self._reader, self._writer = opening.result(OPEN_S)
        except BaseException:
            opening.cancel()  # the loop closes the stream, if it ever comes to that
            ours.shutdown(socket.SHUT_RDWR)
            self._end_process()
            raise
        self._reading, self._writing = asyncio.Lock(), asyncio.Lock()
        self._read_bytes = self._written_bytes = 0
        self._piece = b""  # the last one, which the driver may not have got

    @property
    def is_over(self) -> bool:
        """Whether the host has ended."""
        return self._process.poll() is not None

    async def write(self, at: int, data: bytes) -> None:
        """Pass bytes on to the host, but for those that it has; `at` says how many came before them."""
        self.was_called = True
        async with self._writing:
            fresh = data[self._written_bytes - at :]
            self._written_bytes += len(fresh)
            self._writer.write(fresh)
            await self._writer.drain()

    async def read(self, at: int, wait_s: float) -> bytes | None:
        """Return the bytes that follow the first `at` ones: none when it has waited in vain, `None` at the end."""
        async with self._reading:
            if at == self._read_bytes:
                try:
                    self._piece = await asyncio.wait_for(self._reader.read(READ_BYTES), wait_s)
                except TimeoutError:
                    return b""
                except OSError:
                    return None
                self._read_bytes += len(self._piece)
            return self._piece or None

    def _close(self) -> None:
        self._writer.transport.abort()

    def end(self) -> None:
        """Close the stream, at which the host ends, and see to it that it does."""
        with self._ended:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._close)  # which keeps the writer until then
            for lease in list(self.leases.values()):
                lease.set()
            self._end_process()

    def _end_process(self) -> None:
        """Wait for the host, whose stream has been closed, to end; kill it where it does not."""
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


_hosts: dict[str, _Hosted] = {}  # of this worker, by run and by ident
_starting = threading.Lock()


def key_of(run: str, lease: int) -> str:
    """Return the key of the task that holds a lease."""
    return f"flowstore-{run}-{lease}"


def hold(run: str, lease: int) -> None:
    """Hold a thread of this worker for a run, which has a host here, until the lease is given back."""
    from distributed.core import Status
    from distributed.worker import get_worker

    worker = get_worker()
    with _starting:
        worker.handlers.update(
            flowstore_write=_write, flowstore_read=_read, flowstore_drop=_drop, flowstore_release=_release
        )
        host = _hosts.get(run)
        if host is None or host.is_over:
            host = _hosts[run] = _Hosted(worker.loop.asyncio_loop)
            _hosts[host.ident] = host
        released = host.leases[lease] = threading.Event()
    worker.log_event(run, {"lease": lease, "host": f"{worker.address} {host.ident}"})
    usable = Status.running, Status.paused  # a worker that is paused starts no more tasks, but goes on with these
    while not released.wait(0.5) and not host.is_over and worker.status in usable:
        task = worker.state.tasks.get(key_of(run, lease))
        if not host.was_called and (task is None or task.state == "cancelled"):
            break  # the run ended before it knew of this host
    with _starting:
        del host.leases[lease]
        is_last = not host.leases
        if is_last and _hosts.get(run) is host:
            del _hosts[run]
    if is_last:
        host.end()
        _hosts.pop(host.ident, None)


async def _write(host: str, at: int, data: bytes) -> None:
    """Pass bytes on to a host: see `_Hosted.write`."""
    await _hosts[host].write(at, data)


async def _read(host: str, at: int, wait_s: float) -> bytes | None:
    """Wait for bytes from a host: see `_Hosted.read`."""
    known = _hosts.get(host)
    return None if known is None else await known.read(at, wait_s)


async def _drop(host: str) -> None:
    """End a host."""
    known = _hosts.get(host)
    if known is not None:
        for lease in list(known.leases.values()):
            lease.set()


async def _release(host: str, lease: int) -> None:
    """Let the task end that holds a lease."""
    known = _hosts.get(host)
    if known is not None and lease in known.leases:
        known.leases[lease].set()


if __name__ == "__main__":
    serve_cluster(int(sys.argv[1]))
