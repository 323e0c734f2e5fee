"""Dask clusters of real processes, for these tests only."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support.processes import wait_for

HAS_DASK = importlib.util.find_spec("distributed") is not None


@pytest.hookimpl(tryfirst=True)  # before the marks choose
def pytest_collection_modifyitems(items):
    """Make soaks of what repeats, in the matrix, a graph or a behaviour that others of its cases have.

    Without Dask, only the tests of Slurm run.
    """
    for item in items:
        if not HAS_DASK and item.path.parent == Path(__file__).parent and item.path.name != "test_slurm.py":
            item.add_marker(pytest.mark.skip(reason="needs flowstore[dask]"))
        if item.path == Path(__file__).with_name("test_matrix.py"):
            behaviour, graph = item.originalname, item.callspec.id
            chosen = "linear" if behaviour == "test_resume_from_each_step" else "switch in foreach"
            if behaviour != "test_resume_after_a_failure" and graph != chosen:
                item.add_marker("soak")


class Cluster:
    """A Dask scheduler and its workers, each a process with a folder of its own."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes = []
        self._mark = f"FLOWSTORE_TEST_{os.getpid()}_{time.time_ns()}"
        self.options = options
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", self.file, *options,
        )  # fmt: skip
        wait_for(lambda: self.file.exists() and self.file.read_text(), 60)
        self.address = json.loads(self.file.read_text())["address"]

    def _start(self, what, *options, env=None, cwd=None, python=sys.executable):
        with (self.folder / f"{what}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [python, "-P", "-m", f"distributed.cli.dask_{what}", *map(str, options)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=cwd or self.folder,
                env={**os.environ, "PYTHONWARNINGS": "ignore", "CLUSTER": self._mark, **(env or {})},
            )
        self.processes.append(process)
        return process

    def worker(self, *options, threads=2, nanny=False, env=None, python=sys.executable):
        """Start a worker; return its process."""
        cwd = self.folder / f"worker-{len(self.processes)}"
        cwd.mkdir()
        nannied = "--nanny" if nanny else "--no-nanny"
        where = () if "--listen-address" in options else ("--host", "127.0.0.1")
        return self._start(
            "worker", self.address, nannied, "--nthreads", threads, *where, "--no-dashboard",
            "--local-directory", cwd, *self.options, *options, env=env, cwd=cwd, python=python,
        )  # fmt: skip

    def wired_worker(self, **options):
        """Start a worker that others reach only by way of a wire, which is returned."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        wire = Wire(port)
        at = f"tcp://127.0.0.1:{wire.port}", "--listen-address", f"tcp://127.0.0.1:{port}"
        self.worker("--contact-address", *at, **options)
        return wire

    def wait(self, count, **env):
        """Wait until so many workers are there."""
        code = "import sys, distributed as d; d.Client(sys.argv[1]).wait_for_workers(int(sys.argv[2]), timeout=60)"
        subprocess.run(
            [sys.executable, "-c", code, self.address, str(count)], check=True, timeout=90, env={**os.environ, **env}
        )

    def members(self, text):
        """Return the ids of its processes with a text in their command line."""
        return set(processes_of(text, "cmdline")) & set(processes_of(self._mark, "environ"))

    def hosts(self):
        """Return the ids of its hosts, and of what they have forked."""
        return self.members("flowstore.run.remote.host")

    def close(self):
        """End all processes; hosts end with their workers."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()


class Wire:
    """A port that leads to another one, by connections that can be cut and frozen."""

    def __init__(self, port):
        self.only = None  # the id of the one process whose connections are taken
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._frozen = set()
        self._received = {}
        self._connections = []
        threading.Thread(target=self._accept, args=[port], daemon=True).start()

    def _accept(self, port):
        while True:
            near, (_, theirs) = self._server.accept()
            if self.only is not None and not _has_port(self.only, theirs):
                near.close()
                continue
            try:
                pair = near, socket.create_connection(("127.0.0.1", port))
            except OSError:  # which is not there yet, or no more
                near.close()
                continue
            self._connections.append(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._carry, args=[source, sink, pair], daemon=True).start()

    def _carry(self, source, sink, pair):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                if source is pair[0]:
                    self._received[pair] = self._received.get(pair, 0) + len(data)
                if pair not in self._frozen:
                    sink.sendall(data)
        self._end(pair)

    def _end(self, pair):
        for connection in pair:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def count(self):
        """How many connections there have been."""
        return len(self._connections)

    @property
    def received_bytes(self):
        """How many bytes went to where this leads."""
        return sum(self._received.values())

    def cut(self):
        """End all connections that there are."""
        for pair in self._connections:
            self._end(pair)

    def freeze(self):
        """Let the connections that there are carry nothing any more."""
        self._frozen |= set(self._connections)


def _has_port(pid, port):
    """Return whether a process has a connection from a port of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}")}
    with contextlib.suppress(OSError):
        return any(os.readlink(file) in sockets for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.fixture
def make_cluster(tmp_path):
    """Return a function that starts a scheduler."""
    clusters = []

    def make(*options):
        folder = tmp_path / f"cluster-{len(clusters)}"
        folder.mkdir()
        clusters.append(Cluster(folder, *options))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cluster of two workers with two threads each, which no test harms."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    cluster.worker()
    cluster.worker()
    cluster.wait(2)
    yield cluster
    cluster.close()


def on(cluster):
    """Return the options that choose a cluster."""
    return "--executor", f"dask:{cluster.address}"


def processes_of(text, *where):
    """Return the ids of the processes whose command line or environment holds a text."""
    holding = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if any(text.encode() in (folder / name).read_bytes() for name in where or ("environ", "cmdline")):
                    holding.append(int(folder.name))
    return holding


def gone(text, seconds):
    """Return whether no such process is left after so many seconds at most."""
    deadline = time.monotonic() + seconds
    while processes_of(text) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(text)
