"""Runs on a Dask cluster whose processes are killed and frozen at random, and whose connections are cut."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import re
import signal
import time
from urllib.parse import urlsplit

import pytest

from cluster.conftest import Wire
from support.flows import FOREACH, flow_source

pytestmark = [pytest.mark.cluster, pytest.mark.untraced, pytest.mark.timeout(900)]
LEASE_S = 6
HANGS_S = 120
BODY = """
@retry(times=3, minutes_between_retries=0)
time.sleep(0.3)
self.y, self.large = self.input, os.urandom(100_000)
"""


class Storm:
    """A cluster that is harmed, and is given new processes where it has lost some.

    Two workers have nannies; a third one, and the scheduler, are reached by way of wires.
    """

    def __init__(self, make_cluster, seed, harms):
        self._make_cluster = make_cluster
        self._rng = random.Random(seed)
        self._harms = [harm for harm, weight in harms.items() for _ in range(weight)]
        self.counts = dict.fromkeys(harms, 0)
        self._wires = []
        self._start()

    def _start(self):
        self.cluster = self._make_cluster()
        self._wire = Wire(urlsplit(self.cluster.address).port)
        self.address = f"tcp://127.0.0.1:{self._wire.port}"
        self._wires = [self._wire]
        self._nannies, self._wired = [], None
        self.replace()

    def replace(self):
        """Start what is lacking: a worker, or, without a scheduler, another cluster."""
        if self.cluster.scheduler.poll() is not None:
            self.cluster.close()
            self._start()
            return
        self._nannies = [nanny for nanny in self._nannies if nanny.poll() is None]
        while len(self._nannies) < 2:
            self._nannies.append(self.cluster.worker(nanny=True))
        if self._wired is None or self._wired.poll() is not None:
            self._wires.append(self.cluster.wired_worker())
            self._wired = self.cluster.processes[-1]

    def harm(self, driver):
        """Do something bad."""
        harm = self._rng.choice(self._harms)
        self.counts[harm] += 1
        getattr(self, f"_{harm}")(driver)

    def _hit(self, pids, how=signal.SIGKILL):
        pid = self._rng.choice(sorted(pids)) if pids else None
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, how)
        return pid

    def _worker(self, driver):  # with its nanny, it comes again
        self._hit(self._workers())

    def _workers(self):
        return (self.cluster.members("spawn_main") - self.cluster.hosts()) | {self._wired.pid}

    def _nanny(self, driver):
        self._hit({nanny.pid for nanny in self._nannies})

    def _host(self, driver):
        self._hit(self.cluster.hosts())

    def _scheduler(self, driver):
        self._hit({self.cluster.scheduler.pid})

    def _freeze(self, driver):
        pid = self._hit(self._workers() | self.cluster.hosts() | {self.cluster.scheduler.pid}, signal.SIGSTOP)
        time.sleep(self._rng.choice([0.5, 2 * LEASE_S]))
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGCONT)

    def _cut(self, driver):
        self._rng.choice(self._wires).cut()

    def _hush(self, driver):  # to the scheduler, such a connection would have to be cut by TCP
        for wire in self._wires[1:]:
            wire.freeze()

    def _driver(self, driver):
        driver.kill()


def run_in(storm, flow, tasks, seconds):
    """Run a flow again and again until it is done, and harm the cluster meanwhile for some seconds."""
    script = flow(
        flow_source(
            FOREACH, start=f"self.xs = list(range({tasks}))", body=BODY, join="self.sum = sum(i.y for i in inputs)"
        )
    )
    ends = time.monotonic() + seconds
    words, rng = ["run"], random.Random(1)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        while True:
            options = "--executor", f"dask:{storm.address}", "--executor-option", f"lease={LEASE_S}"
            process = script.start(*words, *options, "--max-workers", 6)
            output = threads.submit(process.communicate)  # which has to be read, or the driver waits
            began = time.monotonic()
            while not output.done():
                if time.monotonic() - began > HANGS_S and time.monotonic() > ends + HANGS_S:
                    process.kill()
                    pytest.fail(f"it hangs: {output.result()[0].decode()[-3000:]}")
                concurrent.futures.wait([output], rng.uniform(0.3, 1.5))
                if time.monotonic() < ends and not output.done():
                    storm.harm(process)
                storm.replace()
            stdout, stderr = (text.decode() for text in output.result())
            check_run(script, process, stdout, stderr)
            if process.returncode == -signal.SIGKILL:
                assert wait_until_gone(storm.cluster.hosts, 30)
            if process.returncode == 0 and time.monotonic() >= ends:
                break
            begun = bool(script.db.exists() and script.sql("select count(*) from runs")[0])
            words = ["resume"] if process.returncode and begun else ["run"]
    check_all(script, tasks)
    storm.cluster.close()
    assert wait_until_gone(storm.cluster.hosts, 30)
    print(storm.counts, script.sql("select status, count(*) from runs group by 1"))


def wait_until_gone(pids, seconds):
    """Return whether all such processes have ended after so many seconds at most."""
    deadline = time.monotonic() + seconds
    while pids() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not pids()


def check_run(script, process, stdout, stderr):
    """Check that a run has ended in a way that is allowed, and that the tasks that it said had finished have."""
    assert process.returncode in (0, 1, -signal.SIGKILL), stderr[-3000:]
    assert "Traceback" not in stderr, stderr[-3000:]
    said = re.findall(r"\[(\d+)/body/(\d+) .*Task finished successfully", stdout)
    assert len(said) == len(set(said))
    if said:
        succeeded = script.sql(
            "select task_id from task_summary where run_id = ? and status = 'successful'", said[0][0]
        )
        assert {int(task) for _, task in said} <= set(succeeded)


def check_all(script, tasks):
    """Check that no attempt is recorded twice, lost in a resumed run, or left, and that the last run's sum is right."""
    twice = "select 1 from attempts where status = 'successful' group by task_id having count(*) > 1"
    assert script.sql(twice) == []
    again = """
    select 1 from task_summary as task join run_summary using (run_id)
    join task_summary as origin on origin.run_id = origin_run_id and origin.step = task.step
        and origin.foreach_path is task.foreach_path
    where origin.status = 'successful' and task.step = 'body' and task.origin_pathspec is null
    """
    assert script.sql(again) == []
    last = script.sql("select max(run_id) from run_summary where status = 'successful'")[0]
    assert script.sql("select 1 from task_summary where run_id = ? and status != 'successful'", last) == []
    assert script.client(last)["join"].task.data.sum == sum(range(tasks))


def test_a_storm(make_cluster, flow):
    """No finished attempt is lost or recorded twice; every run ends successful, or can be resumed."""
    harms = {"worker": 2, "host": 3, "cut": 2, "hush": 1, "freeze": 1}
    run_in(Storm(make_cluster, 1, harms), flow, 60, 15)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3])
def test_a_long_storm(make_cluster, flow, seed):
    """The storm for five minutes, with fan-outs to 500 tasks, and deaths of schedulers, nannies and drivers."""
    harms = {"worker": 4, "nanny": 2, "host": 6, "cut": 4, "hush": 2, "freeze": 3, "scheduler": 1, "driver": 1}
    run_in(Storm(make_cluster, seed, harms), flow, 500, 300)
