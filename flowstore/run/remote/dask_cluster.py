"""Dask's side: a cluster of this machine, and the leases and hosts of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.run.remote.host import READ_BYTES, START

MOST_THREADS = 1000

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
        self.address = self._process.stdout.readline().decode().strip()
        if not self.address:
            raise FlowstoreError(f"The local Dask cluster could not be started: it exited with {self._process.wait()}.")

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
        sys.stdin.buffer.read()
        os._exit(0)


# --- at a worker


class _Hosted:
    """A host beside a Dask worker, and the leases that it has."""

    def __init__(self) -> None:
        self.ident = uuid.uuid4().hex
        self.leases: dict[int, threading.Event] = {}
        self.connection, theirs = socket.socketpair()
        self.connection.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(Path(context.__file__).parent.parent), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._ended = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the host has ended."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Close the stream, at which the host ends, and see to it that it does."""
        with self._ended:
            self.connection.close()
            for lease in list(self.leases.values()):
                lease.set()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


_hosts: dict[str, _Hosted] = {}  # of this worker, by run and by ident
_starting = threading.Lock()


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
            host = _hosts[run] = _Hosted()
            _hosts[host.ident] = host
        released = host.leases[lease] = threading.Event()
    worker.log_event(run, {"lease": lease, "host": f"{worker.address} {host.ident}"})
    while not released.wait(0.5) and not host.is_over and worker.status is Status.running:
        pass
    with _starting:
        del host.leases[lease]
        is_last = not host.leases
        if is_last and _hosts.get(run) is host:
            del _hosts[run]
    if is_last:
        host.end()
        _hosts.pop(host.ident, None)


async def _write(host: str, data: bytes) -> None:
    """Pass bytes on to a host."""
    await asyncio.get_running_loop().sock_sendall(_hosts[host].connection, data)


async def _read(host: str) -> bytes:
    """Wait for bytes from a host, which says something every few seconds; empty at the end."""
    known = _hosts.get(host)
    if known is None:
        return b""
    try:
        return await asyncio.get_running_loop().sock_recv(known.connection, READ_BYTES)
    except OSError:
        return b""


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
