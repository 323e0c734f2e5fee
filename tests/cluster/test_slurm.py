"""Flows on a real Slurm cluster: two nodes of four cores each, of which the second has a GPU, on this machine."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

import flowstore
from cluster.conftest import gone, processes_of
from support.cli import stop
from support.flows import FOREACH, GANG, LINEAR, MIDDLE, flow_source
from support.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.usefixtures("slurm")]
ON = "--executor", "slurm"
PILOT = "flowstore.run.remote.pilot"

NESTED = {
    "start": "self.next(self.outer, foreach='xs')",
    "outer": "self.next(self.inner, foreach='ys')",
    "inner": "self.next(self.join_inner)",
    "join_inner": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
BRANCH_OF_SWITCHES = {
    "start": "self.next(self.a, self.b)",
    "a": "self.next({'x': self.c, 'y': self.d}, condition='which')",
    "c": "self.next(self.a2)",
    "d": "self.next(self.a2)",
    "a2": "self.next(self.join)",
    "b": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}


def option(**values):
    """Return the options that give the executor these values."""
    return [word for name, value in values.items() for word in ("--executor-option", f"{name}={value}")]


def pilots(slurm):
    """Return the ids of the processes that became hosts, by job, without the shells and sruns around them."""
    hosts = {}
    for pid in processes_of(PILOT, "cmdline"):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if (
                str(slurm.config).encode() in environment
                and b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
            ):
                hosts.setdefault(re.search(rb"SLURM_JOB_ID=(\d+)", environment)[1].decode(), pid)
    return hosts


def mark():
    """Return a text that only one test's processes have."""
    return f"FLOWSTORE_TEST_{os.getpid()}_{time.time_ns()}"


class TestAsLocally:
    """A task in a job has all that one on this machine has; see also the contract of executors."""

    def test_nested_foreaches(self, flow, tmp_path):
        """Tasks of several jobs pass on what they set; code beside the script comes along."""
        script = flow(
            flow_source(
                NESTED,
                head=f"import helper\nJOBS = Path({str(tmp_path)!r}) / 'jobs'",
                start="self.xs, self.large = [1, 2], b'ab' * 3_000_000",
                outer="self.ys = [self.input * 10 + n for n in range(2)]",
                inner="self.z = helper.double(self.input)\nself.n = len(self.large)\n"
                "self.where = os.environ['SLURM_JOB_ID'], os.getcwd()\n(JOBS / self.where[0]).touch()\n"
                "while len([*JOBS.iterdir()]) < 2: time.sleep(0.1)",
                join_inner="self.zs = [i.z for i in inputs]\nself.where = [i.where for i in inputs]\n"
                "assert all(i.n == 6_000_000 for i in inputs)",
                join="self.zs = [i.zs for i in inputs]\nself.where = [w for i in inputs for w in i.where]",
            )
        )
        (script.folder / "helper.py").write_text("def double(n): return 2 * n")
        (tmp_path / "jobs").mkdir()
        script("run", *ON, "--max-workers", 4, timeout=120)
        data = script.client()["end"].task.data
        assert data.zs == [[20, 22], [40, 42]]
        assert len({job for job, _ in data.where}) > 1
        assert str(script.folder) not in {folder for _, folder in data.where}
        assert set(script.sql("select host from task_summary")) <= {"node1", "node2"}

    def test_a_branch_and_a_switch(self, flow):
        """A branch takes the way that a switch chooses; one job has room for both branches with `pilots=1`."""
        script = flow(
            flow_source(
                BRANCH_OF_SWITCHES,
                a="self.which = 'y'",
                d="self.way = 'd'",
                a2="self.job = os.environ['SLURM_JOB_ID']",
                b="self.way = None\nself.job = os.environ['SLURM_JOB_ID']",
                join="self.ways = [i.way for i in inputs]\nself.jobs = {i.job for i in inputs}",
            )
        )
        stdout = script("run", *ON, *option(pilots=1), "--max-workers", 2).stdout
        data = script.client()["join"].task.data
        assert data.ways == ["d", None]
        assert len(data.jobs) == 1
        assert re.search(r"\(pid \d+ on node[12]\)\] Task is starting", stdout)

    def test_a_gang_is_one_job(self, flow):
        """Members run on the nodes of one job, in its order, and reach the first by its address."""
        body = """
        @parallel
        import socket
        me = current.parallel.node_index
        if me == 0:
            server = socket.create_server((current.parallel.main_ip, int(self.port)))
            for _ in range(current.parallel.num_nodes - 1): server.accept()[0].sendall(b'x')
        else:
            for _ in range(500):
                try: connection = socket.create_connection((current.parallel.main_ip, int(self.port))); break
                except OSError: time.sleep(0.02)
            assert connection.recv(1) == b'x'
        names = 'SLURM_JOB_ID', 'SLURM_PROCID', 'SLURMD_NODENAME', 'SLURM_NTASKS'
        self.seen = [os.environ[name] for name in names]
        """
        tails = {**GANG, "start": "self.next(self.body, num_parallel=6)"}
        port = random.randrange(20_000, 30_000)
        source = flow_source(tails, start=f"self.port = {port}", body=body, join="self.seen = [i.seen for i in inputs]")
        script = flow(source)
        script("run", *ON, "--max-workers", 1, timeout=90)
        jobs, ranks, nodes, sizes = zip(*script.client()["join"].task.data.seen, strict=True)
        assert (len(set(jobs)), ranks, set(sizes)) == (1, tuple("012345"), {"6"})
        assert (nodes[0], set(nodes)) == ("node1", {"node1", "node2"})

    def test_resources(self, flow):
        """`@resources` are what a job asks for, one task a job; the rest runs in another."""
        script = flow(
            flow_source(
                MIDDLE,
                middle="@resources(gpu=1, cpu=2, memory=500)\nself.names = dict(os.environ)",
                end="self.cpus = os.environ['SLURM_CPUS_PER_TASK']",
            )
        )
        script("run", *ON, "--max-workers", 4)
        names = script.client()["middle"].task.data.names
        assert names["SLURMD_NODENAME"] == "node2"
        assert (names["SLURM_CPUS_PER_TASK"], names["SLURM_MEM_PER_NODE"]) == ("2", "500")
        assert names["SLURM_JOB_GPUS"] == "0"
        assert names["SLURM_JOB_NAME"].startswith("flowstore-F-")
        assert script.client()["end"].task.data.cpus == "1"

    def test_resume_goes_between_executors(self, flow):
        """A run in jobs is resumed on this machine, and the other way round."""
        script = flow(flow_source(MIDDLE, middle="assert os.environ.get('MENDED'), 'no'"))
        script("run", *ON, expect=1)
        script("resume", expect=1)
        script("resume", *ON, MENDED="1")
        assert script.client(3).successful
        assert script.counts(3) == {"start": 1, "middle": 1, "end": 1}


class TestRefusals:
    """Each thing that cannot work is refused at once, in one message."""

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (["--executor", "slurm:here"], "takes no address"),
            ([*ON, *option(partitoin="main")], "no option 'partitoin'. There are: partition, account, time"),
            ([*ON, *option(pilots="some")], "pilots=some: this must be a number"),
            ([*ON, *option(pilots=1.5)], "pilots=1.5: this must be a whole number"),
            ([*ON, *option(time="an hour")], "time=an hour: this must be minutes"),
            ([*ON, *option(listen="a b")], "this must be an address of this machine"),
        ],
    )
    def test_wrong_options(self, flow, options, why):
        """A wrong address or option is wrong usage, before there is a run."""
        script = flow(flow_source(LINEAR))
        assert why in script("run", *options, expect=2).stderr
        assert not script.db.exists()

    def test_no_slurm(self, flow, tmp_path):
        """Without sbatch, the message says where to run the flow."""
        script = flow(flow_source(LINEAR))
        stderr = script("run", *ON, expect=2, PATH=str(tmp_path)).stderr
        assert "needs the command sbatch, which is not on the PATH" in stderr

    @pytest.mark.parametrize(
        ("body", "options", "why"),
        [
            (
                "pass",
                option(partition="nowhere"),
                "no partition 'nowhere'. Choose another: --executor-option partition=",
            ),
            ("pass", option(constraint="slow"), "Step start: Slurm refuses such a job: Invalid feature specification."),
            ("@resources(gpu=4)\npass", [], "Step start: @resources(gpu=4) is more than any node of Slurm offers."),
            ("@resources(memory=5000)\npass", [], "They offer: cpu=4, memory=4000; cpu=4, memory=4000, gpu=1."),
            ("pass", option(listen="192.0.2.7"), "cannot listen at 192.0.2.7:0"),
        ],
    )
    def test_what_nobody_has(self, flow, body, options, why):
        """Resources that no node has end the command before there is a run."""
        script = flow(flow_source(LINEAR, start=body))
        assert why in script("run", *ON, *options, expect=1).stderr
        assert not script.db.exists()

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (option(partition="short", time=60), "Slurm will not start job {}: PartitionTimeLimit."),
            (option(partition="physics", account="arts"), "Slurm will not start job {}: Job's account not"),
            (option(partition="down"), "Slurm will not start job {}: PartitionDown."),
            (option(python="/nowhere/python"), "There is no Python at /nowhere/python on node1: choose another"),
        ],
    )
    def test_what_never_starts(self, flow, options, why):
        """A job that waits for what will never come, or that can't start, ends the run."""
        script = flow(flow_source(LINEAR))
        stderr = script("run", *ON, *options, expect=1).stderr
        assert re.search(re.escape(why).replace(r"\{\}", r"\d+"), stderr), stderr

    @pytest.mark.parametrize(
        ("reason", "message", "code"),
        [
            ("AssocGrpCpuLimit", "Job {} waits in Slurm's queue: AssocGrpCpuLimit.", 0),
            ("QOSMaxCpuPerJobLimit", "Slurm will not start job {}: QOSMaxCpuPerJobLimit.", 1),
        ],
    )
    def test_why_a_job_waits(self, slurm, flow, tmp_path, reason, message, code):
        """A reason that may pass is told once; one that never does ends the run.

        The limits of accounts need a database, so here squeue takes another reason for one of these.
        """
        fake = tmp_path / "squeue"
        fake.write_text(f'#!/bin/sh\n{shutil.which("squeue")} "$@" | sed "s/PENDING|[A-Z].*/PENDING|{reason}/"\n')
        fake.chmod(0o755)
        script = flow(flow_source(LINEAR))
        slurm.ask("sbatch", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 6")
        result = script("run", *ON, expect=code, PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert len(re.findall(re.escape(message).replace(r"\{\}", r"\d+"), result.stderr)) == 1, result.stderr
        slurm.ask("scancel", "--user=root")

    def test_a_limit_on_the_number_of_jobs(self, flow, tmp_path):
        """A run goes on in the jobs that it has; here sbatch takes a second one for too many."""
        fake = tmp_path / "sbatch"
        limit = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
        fake.write_text(
            '#!/bin/sh\ncase "$*" in *--test-only*) ;;\n'
            f'*) mkdir {tmp_path}/once 2>/dev/null || {{ echo "{limit}" >&2; exit 1; }};;\nesac\n'
            f'exec {shutil.which("sbatch")} "$@"\n'
        )
        fake.chmod(0o755)
        script = flow(flow_source(FOREACH, start="self.xs = list(range(6))", body="time.sleep(0.1)"))
        result = script("run", *ON, "--max-workers", 4, PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert result.stderr.count("Slurm refuses a job: Job violates accounting/QOS policy (job submit limit).") == 1
        assert script.client().successful

    def test_a_gang_that_can_never_fit(self, flow):
        """A gang that is larger than the cluster is refused at once, with the number that would fit."""
        tails = {**GANG, "start": "self.next(self.body, num_parallel=9)"}
        script = flow(flow_source(tails, body="@parallel\npass"))
        stderr = script("run", *ON, expect=1).stderr
        assert "Step body needs 9 tasks at the same time, but there is room for 8." in stderr

    def test_a_node_without_flowstore(self, flow, tmp_path):
        """The message names the node, and what to install there."""
        script = flow(flow_source(LINEAR))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {shutil.which("env")} -i FLOWSTORE_PILOT=x python3 -IS "$@"\n')
        python.chmod(0o755)
        stderr = script("run", *ON, *option(python=python), expect=1).stderr
        assert f"flowstore is not installed for {python} on node1. Install it there: pip install" in stderr
        assert f"'flowstore[slurm]=={flowstore.__version__}'" in stderr

    def test_a_node_with_another_version(self, flow, tmp_path):
        """Another version of flowstore is refused; both are named."""
        copy = tmp_path / "other" / "flowstore"
        package = Path(flowstore.__file__).parent
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "docs", "tutorials"))
        (copy / "_version.py").write_text('"""Version."""\n__version__ = "9.9"\n')
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexport PYTHONPATH={copy.parent}\nexec {os.sys.executable} "$@"\n')
        python.chmod(0o755)
        script = flow(flow_source(LINEAR))
        stderr = script("run", *ON, *option(python=python), expect=1).stderr
        assert f"node1 has flowstore 9.9, and this process has flowstore {flowstore.__version__}" in stderr


class TestDeaths:
    """Attempts and jobs end as they should when something dies."""

    BODY = """
    @retry(times=1, minutes_between_retries=0)
    with open(RAN, 'a') as file: print(current.retry_count, os.environ['SLURM_JOB_ID'], os.getpid(), file=file)
    if current.retry_count == 0: time.sleep(300)
    self.value = current.retry_count
    """

    def started(self, flow, *options):
        """Start a run whose second step waits; return the script, the process and the job of the attempt."""
        script = flow(flow_source(MIDDLE, middle=self.BODY))
        ran = script.folder / "ran"
        script.rewrite(script.file.read_text().replace("RAN", repr(str(ran))))
        process = script.start("run", *ON, *options)
        wait_for(lambda: ran.exists() and ran.read_text().endswith("\n"), 60)
        _, job, pid = ran.read_text().split()
        return script, process, job, int(pid)

    def lost(self, script, process, how):
        """Wait for the end of the run, whose first attempt was lost in this way."""
        assert process.wait(60) == 0, process.communicate()
        process.communicate()
        assert script.client()["middle"].task.data.value == 1
        [message] = script.sql("select error_message from attempts where status = 'failed'")
        assert re.search(rf"The task was lost with its host node[12], {how}", message), message
        assert [line[0] for line in (script.folder / "ran").read_text().splitlines()] == ["0", "1"]

    def test_a_cancelled_job(self, slurm, flow):
        """Its attempt dies with a message that names node and job, and runs again in another."""
        script, process, job, pid = self.started(flow)
        slurm.ask("scancel", job)
        self.lost(script, process, f"whose job {job} was cancelled")
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 10)

    def test_a_killed_host(self, slurm, flow):
        """A pilot's process that is killed alone takes its task along."""
        script, process, job, pid = self.started(flow)
        pilot = pilots(slurm)[job]
        os.kill(pilot, signal.SIGKILL)
        self.lost(script, process, f"whose job {job} (failed|ended)")
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 10)

    def test_a_frozen_host(self, slurm, flow):
        """A host that stops answering is lost after its lease, and its job is ended."""
        script, process, job, _ = self.started(flow, *option(lease=3))
        slurm.ask("scancel", "--signal=STOP", "--batch", job)
        os.kill(pilots(slurm)[job], signal.SIGSTOP)
        self.lost(script, process, "from which nothing was heard for 3 s")
        wait_for(lambda: job not in slurm.jobs(), 20)

    def test_a_killed_driver(self, slurm, flow):
        """Neither tasks nor jobs are left, those in the queue included, and the run can be resumed."""
        text = mark()
        body = f"@environment(vars={{'MARK': {text!r}}})\nimport subprocess\nsubprocess.Popen(['sleep', '300'])"
        script = flow(
            flow_source(
                FOREACH,
                start="self.xs = list(range(30))",
                body=f"{body}\nPath(BEGUN).touch()\nif 'MENDED' not in os.environ: time.sleep(300)",
            )
        )
        begun = script.folder / "begun"
        script.rewrite(script.file.read_text().replace("BEGUN", repr(str(begun))))
        process = script.start("run", *ON, "--max-workers", 20)
        wait_for(lambda: begun.exists() and "PENDING" in slurm.ask("squeue", "-h", "-o", "%T"), 60)
        process.kill()
        process.communicate()
        assert gone(text, 30)
        slurm.wait(lambda: not slurm.jobs(), "the end of all jobs", 30)
        script("resume", "--max-workers", 20, MENDED="1", timeout=100)

    def test_a_stop(self, slurm, flow):
        """Ctrl-C ends tasks and jobs, and keeps what had finished."""
        script, process, _, pid = self.started(flow)
        assert stop(process, signal.SIGINT).code == 130
        assert not Path(f"/proc/{pid}").exists()
        assert "RUNNING" not in slurm.ask("squeue", "-h", "-o", "%T")
        assert script.sql("select status from runs") == ["stopped"]
        assert script.counts(where="status = 'successful'") == {"start": 1}

    def test_a_controller_that_starts_again(self, slurm, flow):
        """A run goes on while Slurm's controller is away, since its hosts need none."""
        script = flow(flow_source(FOREACH, start="self.xs = list(range(8))", body="time.sleep(0.5)"))
        process = script.start("run", *ON, *option(pilots=1), "--max-workers", 2)
        wait_for(lambda: script.db.exists() and script.counts().get("body"), 60)
        slurm.kill("slurmctld", signal.SIGTERM)  # it saves its jobs: where it gives an id again, a node is drained
        try:
            assert process.wait(60) == 0, process.communicate()
            process.communicate()
        finally:
            slurm.start_controller()
            slurm.wait_for_nodes()
        assert script.client().successful


def test_idle_jobs_end(slurm, flow):
    """A job without a task ends after a while, though the run goes on."""
    script = flow(
        flow_source(
            MIDDLE,
            start="@resources(gpu=1)\nself.job = os.environ['SLURM_JOB_ID']",
            middle="""
            import subprocess
            while self.job in subprocess.check_output(['squeue', '-h', '-o', '%i', '--state=R'], text=True).split():
                time.sleep(0.2)
            """,
        )
    )
    script("run", *ON, *option(idle=1))
    assert script.client()["middle"].task.data.job not in slurm.jobs()


def test_the_secret_of_a_pilot_is_nowhere_to_be_seen(slurm, flow):
    """It is in no command line, log or listing, nor in the environment of tasks."""
    script = flow(flow_source(MIDDLE, middle="self.names = dict(os.environ)\ntime.sleep(3)"))
    process = script.start("run", *ON, *option(python=os.sys.executable))
    wait_for(lambda: script.db.exists() and script.counts().get("middle"), 60)
    [pilot, *_] = pilots(slurm).values()
    environment = Path(f"/proc/{pilot}/environ").read_bytes()
    [secret] = re.findall(rb"FLOWSTORE_PILOT=\S+ \d+ \d+ ([0-9a-f]{64})", environment)
    assert processes_of(secret.decode(), "cmdline") == []
    listing = (
        slurm.ask("scontrol", "show", "job", "-dd") + slurm.ask("squeue", "-O", "all") + slurm.ask("squeue", "--json")
    )
    assert secret.decode() not in listing
    logs = [file for file in slurm.folder.glob("*") if file.suffix in {".log", ".out"}]
    assert len(logs) >= 3
    assert not any(secret in file.read_bytes() for file in logs)
    assert process.wait(60) == 0
    process.communicate()
    assert "FLOWSTORE_PILOT" not in script.client()["middle"].task.data.names


def harm(slurm, rng, kinds):
    """Cancel a job, kill or freeze its pilot, or end Slurm's controller for a while."""
    kind = rng.choice(kinds)
    jobs, hosts = slurm.ask("squeue", "-h", "-o", "%i", "--state=R").split(), [*pilots(slurm).values()]
    if kind == "cancel" and jobs:
        slurm.ask("scancel", rng.choice(jobs))
    elif kind == "controller":
        slurm.kill("slurmctld", signal.SIGTERM)  # at SIGKILL it forgets jobs, and drains the nodes that have them
        time.sleep(rng.uniform(0, 5))
        slurm.start_controller()
        slurm.wait(slurm.states)
        # The controller may have drained them as "duplicate".
        slurm.ask("scontrol", "update", "nodename=node[1-2]", "state=resume")
    elif hosts:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(hosts), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)


def storm(slurm, flow, seed, tasks, seconds, kinds):
    """Run and resume a flow until it is done, and harm its jobs for some seconds: nothing is lost, or there twice."""
    rng = random.Random(seed)
    body = """
    @retry(times=3, minutes_between_retries=0)
    time.sleep(0.3)
    self.y, self.large = self.input, os.urandom(99_999)
    """
    start, join = f"self.xs = list(range({tasks}))", "self.sum = sum(i.y for i in inputs)"
    script = flow(flow_source(FOREACH, start=start, body=body, join=join))
    until, words = time.monotonic() + seconds, ["run"]
    while True:
        # Quiet, since nobody reads what it prints before it ends: a pipe that is full would hold the driver.
        process = script.start("--quiet", *words, *ON, *option(lease=6), "--max-workers", 6)
        ended, deadline = 0, time.monotonic() + 200  # a pilot that is frozen before it connects is waited for
        while process.poll() is None:
            done = sum(script.sql("select count(finished_at) from attempts")) if script.db.exists() else 0
            if done > ended:
                ended, deadline = done, time.monotonic() + 200
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(rng.uniform(0.5, 1.5))
            if time.monotonic() < until:
                harm(slurm, rng, kinds)
        stderr = process.communicate()[1].decode()
        print(stderr[-600:] if process.returncode else "")
        assert process.returncode in (0, 1), stderr
        assert "Traceback" not in stderr, stderr
        if process.returncode == 0 and time.monotonic() > until:
            break
        words = ["resume"] if process.returncode and script.db.exists() else ["run"]
    twice = "select 1 from attempts where status = 'successful' group by task_id having count(*) > 1"
    assert script.sql(f"select count(*) from ({twice})") == [0]
    assert script.sql("select count(*) from attempts where status = 'running'") == [0]
    [last] = script.sql("select max(id) from runs")
    assert script.client(last)["join"].task.data.sum == sum(range(tasks))
    slurm.wait(lambda: not pilots(slurm), "the end of all pilots", 30)


def test_a_storm(slurm, flow):
    """Jobs are cancelled, and pilots killed and frozen, at random."""
    storm(slurm, flow, 5, 60, 10, ["cancel", "kill", "kill", "freeze"])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_long_storm(slurm, flow):
    """The storm for five minutes, with fan-outs to 300 tasks, and with a controller that is away at times."""
    storm(slurm, flow, 6, 300, 300, ["cancel", "cancel", "kill", "kill", "kill", "freeze", "controller"])
