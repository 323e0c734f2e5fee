"""Runs on a Dask cluster whose processes are killed and frozen at random."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from cluster.conftest import gone, processes_of
from support.flows import FOREACH, flow_source

pytestmark = [pytest.mark.cluster, pytest.mark.untraced, pytest.mark.timeout(900)]
LEASE_S = 6


def harm(cluster, mark, rng):
    """Kill or freeze a process of the cluster: a worker, its nanny, or a host."""
    kind = rng.choice(["worker", "worker", "host", "host", "host", "freeze"])
    if kind == "host":
        victims = processes_of("flowstore.run.remote.host", "cmdline")
    else:  # a nanny's child is the worker; without its nanny it ends, too
        victims = (
            processes_of("spawn_main", "cmdline") if rng.random() < 0.7 else processes_of("dask_worker", "cmdline")
        )
    victims = [pid for pid in victims if mark in _environment(pid)]
    if not victims:
        return
    victim = rng.choice(victims)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP if kind == "freeze" else signal.SIGKILL)
        if kind == "freeze":
            time.sleep(rng.choice([0.5, 2 * LEASE_S]))
            os.kill(victim, signal.SIGCONT)


def _environment(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def storm(make_cluster, flow, seed, tasks, seconds):
    """Run a flow again and again until it is done, and harm the cluster meanwhile for some seconds."""
    rng = random.Random(seed)
    mark = f"FLOWSTORE_STORM_{os.getpid()}_{seed}"
    cluster = make_cluster()
    for _ in range(3):
        cluster.worker(nanny=True, env={"STORM": mark})
    cluster.wait(3)
    body = """
    @retry(times=3, minutes_between_retries=0)
    time.sleep(0.3)
    self.y, self.large = self.input, os.urandom(100_000)
    """
    script = flow(
        flow_source(
            FOREACH, start=f"self.xs = list(range({tasks}))", body=body, join="self.sum = sum(i.y for i in inputs)"
        )
    )
    ends = time.monotonic() + seconds
    options = "--executor", f"dask:{cluster.address}", "--executor-option", f"lease={LEASE_S}", "--max-workers", 6
    words, runs = ["run"], 0
    while True:
        runs += 1
        process = script.start(*words, *options)
        deadline = time.monotonic() + 200
        while process.poll() is None:
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(rng.uniform(0.3, 1.5))
            if time.monotonic() < ends:
                harm(cluster, mark, rng)
            while len([p for p in cluster.processes if p.poll() is None]) < 4:
                cluster.worker(nanny=True, env={"STORM": mark})
        stderr = process.communicate()[1]
        if process.returncode:
            print(stderr.decode()[-600:])
        assert process.returncode in (0, 1), stderr.decode()[-3000:]
        assert b"Traceback" not in stderr, stderr.decode()[-3000:]
        if process.returncode == 0 and time.monotonic() >= ends:
            break
        words = ["resume"] if process.returncode else ["run"]
    last = script.client(runs)
    assert last["end"].task.successful
    assert script.sql(
        "select count(*) from (select 1 from attempts where status = 'successful' group by task_id having count(*) > 1)"
    ) == [0]
    assert script.sql("select count(*) from attempts where status = 'running'") == [0]
    assert last["join"].task.data.sum == sum(range(tasks))
    return cluster, mark


def test_a_storm(make_cluster, flow):
    """No finished attempt is lost or recorded twice; every run ends successful, or can be resumed."""
    cluster, mark = storm(make_cluster, flow, 1, 100, 25)
    cluster.close()
    assert gone(mark, 30)


@pytest.mark.soak
def test_a_long_storm(make_cluster, flow):
    """The same for five minutes, with fan-outs to 500 tasks."""
    cluster, mark = storm(make_cluster, flow, 2, 500, 300)
    cluster.close()
    assert gone(mark, 30)
