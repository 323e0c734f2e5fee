"""The streams between a driver and the hosts beside Dask's workers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.conftest import on
from flowstore.store.blobs import BATCH_BYTES
from support.flows import FOREACH, LINEAR, MIDDLE, flow_source
from support.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

DROPS = """
import asyncio, select, sys
from pathlib import Path
from flowstore.run.remote.dask import DaskEngine
from flowstore.run.remote.hosts import Granted

def unpolled():  # what a worker's event loop believes that it polls, and does not
    selector = asyncio.get_running_loop()._selector
    lines = Path(f"/proc/self/fdinfo/{selector.fileno()}").read_text().splitlines()
    return sorted(selector.get_map().keys() - {int(line.split()[1]) for line in lines if line.startswith("tfd")})

engine = DaskEngine(sys.argv[1], None, 10.0)
for lease in range(4):
    engine.request([lease], {})
    while True:
        assert select.select([engine.waker], [], [], 30)[0], "no lease is granted"
        hosts = [notice.host for notice in engine.notices() if isinstance(notice, Granted)]
        if hosts:
            break
    with engine.open(hosts[0]) as stream:
        assert stream.recv(1 << 16), "the host says nothing"
        select.select([stream], [], [], 0.3)  # while the worker waits for more
    while True:  # until the lease is over, and the stream closed
        assert select.select([engine.waker], [], [], 30)[0], "the lease does not end"
        if engine.notices():
            break
print(*{descriptor for descriptors in engine._client.run(unpolled).values() for descriptor in descriptors})
engine.close()
"""


def test_a_dropped_host_leaves_the_worker_as_it_was(shared):
    """A driver that leaves a host which has not ended harms no later connection of the worker."""
    ran = subprocess.run([sys.executable, "-c", DROPS, shared.address], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "\n"), ran.stderr[-3000:]


def test_a_run_leaves_no_host(shared, flow):
    """When a run has ended its hosts end soon, also those that were still starting."""
    script = flow(flow_source(FOREACH, start="self.xs = list(range(4))"))
    for _ in range(2):
        script("run", *on(shared), timeout=120)
        wait_for(lambda: not shared.hosts(), 10)


@pytest.mark.parametrize("harm", ["cut", "freeze"])
def test_a_lost_connection_is_made_again(make_cluster, flow, harm):
    """A connection to a worker that is cut, or carries nothing any more, costs neither an attempt nor a line of it."""
    cluster = make_cluster()
    wire = cluster.wired_worker()
    cluster.wait(1)
    mark = cluster.folder / "begun"
    body = f"""
    Path({str(mark)!r}).touch()
    for n in range(400):
        print(n, "x" * 100)
        time.sleep(0.01)
    """
    script = flow(flow_source(MIDDLE, middle=body))
    process = script.start("run", "--executor", f"dask:{cluster.address}", "--executor-option", "lease=12")
    wait_for(mark.exists, 60)
    before = wire.count
    assert before
    getattr(wire, harm)()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0, stderr.decode()[-2000:]
    assert wire.count > before
    task = script.client()["middle"].task
    assert task.current_attempt == 0
    assert [line.split()[0] for line in task.stdout.splitlines()] == [str(n) for n in range(400)]


def test_workers_that_only_the_scheduler_reaches(make_cluster, flow):
    """A worker to which the driver can't connect is reached by way of the scheduler."""
    cluster = make_cluster()
    wire = cluster.wired_worker()
    wire.only = cluster.scheduler.pid
    cluster.wait(1)
    script = flow(flow_source(LINEAR, start="self.large = os.urandom(1 << 20) * 8", end="assert len(self.large) > 9"))
    script("run", *on(cluster), timeout=120)
    assert script.client().successful
    assert wire.received_bytes > 8 << 20


def test_an_artifact_goes_to_a_host_once(make_cluster, flow):
    """A large artifact that a task made and ten others read crosses the network once for each of the two hosts."""
    cluster = make_cluster()
    wires = [cluster.wired_worker(), cluster.wired_worker()]
    cluster.wait(2)
    size = 256 << 20
    script = flow(
        flow_source(
            FOREACH,
            start=f"self.xs = list(range(10))\nself.large = os.urandom(1 << 20) * {size >> 20}",
            body="self.n = len(self.large)\nself.folder = str(Path.cwd())\ntime.sleep(1)",
            join="self.ns = {i.n for i in inputs}\nself.folders = {i.folder for i in inputs}",
        )
    )
    script("run", *on(cluster), timeout=200)
    data = script.client()["join"].task.data
    assert (data.ns, len(data.folders)) == ({size}, 2)
    for wire in wires:
        assert size <= wire.received_bytes < size * 1.01


@pytest.mark.parametrize("large_mib", [256, pytest.param(1024, marks=pytest.mark.soak)])
def test_memory_of_the_driver(shared, flow, large_mib):
    """A large artifact costs the driver no more than the two batches that are written and filled at a time."""
    script = flow(
        flow_source(LINEAR, members="mib = Parameter('mib', default=1)", start=LARGE, end="assert len(self.large) > 9")
    )
    small, large = (peak_bytes(script.start("run", *on(shared), "--mib", mib)) for mib in (1, large_mib))
    print(f"{small >> 20} MiB, and {(large - small) >> 20} MiB more")
    assert large - small < 2 * BATCH_BYTES + (12 << 20)  # the pieces that are on their way


LARGE = "self.large = b''.join(os.urandom(1 << 20) for _ in range(self.mib))"


def peak_bytes(process):
    """Wait until a process has succeeded; return how much memory it had at most."""
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max(peak, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")), 0)
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()[1]
    process.communicate()
    return peak
