"""Dask clusters of real processes, for these tests only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import wait_for

pytest.importorskip("distributed", reason="needs flowstore[dask]")


class Cluster:
    """A Dask scheduler and its workers, each a process with a folder of its own."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes = []
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
                env={**os.environ, "PYTHONWARNINGS": "ignore", **(env or {})},
            )
        self.processes.append(process)
        return process

    def worker(self, *options, threads=2, nanny=False, env=None, python=sys.executable):
        """Start a worker; return its process."""
        cwd = self.folder / f"worker-{len(self.processes)}"
        cwd.mkdir()
        nannied = "--nanny" if nanny else "--no-nanny"
        return self._start(
            "worker", self.address, nannied, "--nthreads", threads, "--host", "127.0.0.1", "--no-dashboard",
            "--local-directory", cwd, *self.options, *options, env=env, cwd=cwd, python=python,
        )  # fmt: skip

    def wait(self, count, **env):
        """Wait until so many workers are there."""
        code = "import sys, distributed as d; d.Client(sys.argv[1]).wait_for_workers(int(sys.argv[2]), timeout=60)"
        subprocess.run(
            [sys.executable, "-c", code, self.address, str(count)], check=True, timeout=90, env={**os.environ, **env}
        )

    def close(self):
        """End all processes, and wait until their hosts have ended, too."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()


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


def processes_of(text, *where):
    """The ids of the processes whose command line or environment holds a text."""
    holding = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if any(text.encode() in (folder / name).read_bytes() for name in where or ("environ", "cmdline")):
                    holding.append(int(folder.name))
    return holding


def gone(text, seconds):
    """Whether no such process is left after so many seconds at most."""
    deadline = time.monotonic() + seconds
    while processes_of(text) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(text)
