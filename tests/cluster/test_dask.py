"""Flows on a Dask cluster of real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import textwrap
import threading
import time
from pathlib import Path

import pytest

import flowstore
from cluster.conftest import gone, on
from support.cli import stop
from support.flows import BRANCH, FOREACH, GANG, LINEAR, MIDDLE, flow_source
from support.processes import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


class TestAsLocally:
    """What holds for a task on this machine holds for one that is not."""

    def test_a_flow_with_its_modules(self, shared, flow):
        """Code beside the script comes along; tasks run in a folder of the host's own, and their results come back."""
        script = flow(
            flow_source(
                FOREACH,
                head="import helper",
                members="size = Parameter('size', default=3)\nlarge = Parameter('large', default='p' * 10_000)",
                start="self.xs = ['x' * 5000 + str(i) for i in range(self.size)]\nself.shared = b'ab' * 3_000_000",
                body="self.last = helper.last(self.input)\nself.n = len(self.shared) + len(self.large)\n"
                "self.folder = str(Path.cwd())\nprint('line', self.index)\nprint('error', file=sys.stderr)",
                join="self.all = [(i.last, i.n) for i in inputs]\nself.folders = {i.folder for i in inputs}\n"
                "self.merge_artifacts(inputs, include=['shared'])",
                end="assert len(self.shared) == 6_000_000",
            )
        )
        (script.folder / "helper.py").write_text("def last(text): return text[-1]")
        (script.folder / "data.txt").write_text("not shipped")
        script("run", *on(shared), timeout=120)
        data = script.client()["end"].task.data
        assert data.all == [(str(i), 6_010_000) for i in range(3)]
        assert str(script.folder) not in data.folders
        assert script.sql("select count(*) from blobs where size_bytes > 1000000") == [1]
        for task in script.client()["body"]:
            assert (task.stdout, task.stderr) == (f"line {task.index}\n", "error\n")
        hosts = set(script.sql("select host from task_summary"))
        assert hosts == {os.uname().nodename}

    def test_processes_of_a_step_read_its_inputs(self, shared, flow):
        """Each gets what it asks for, though they ask at the same time."""
        script = flow(
            flow_source(
                MIDDLE,
                start="for n in range(40): setattr(self, f'a{n}', f'{n}' * 300_000)",
                middle="""
                    def ask(first):
                        names = [f'a{(first + n) % 40}' for n in range(40)]
                        return [name for name in names if set(getattr(self, name)) != set(name[1:])]
                    self.wrong = parallel_map(ask, range(0, 40, 5), max_parallel=8)
                """,
            )
        )
        script("run", *on(shared), timeout=120)
        assert script.client()["end"].task.data.wrong == [[]] * 8

    def test_a_process_of_a_step_that_is_killed_while_it_reads(self, shared, flow):
        """Nobody gets its answer instead of theirs: they get their own, or an error."""
        script = flow(
            flow_source(
                MIDDLE,
                start="for n in range(40): setattr(self, f'a{n}', f'{n}' * 300_000)",
                middle="""
                    self.wrong = []
                    for n in range(20):
                        pid = os.fork()
                        if pid == 0:
                            for other in range(20, 40):
                                getattr(self, f'a{other}')
                            os._exit(0)
                        time.sleep(0.002 * n)
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                        try:
                            right = set(getattr(self, f'a{n}')) == set(str(n))
                        except Exception as error:
                            right = 'was ended while it read an input' in str(error)
                        if not right:
                            self.wrong.append(n)
                """,
            )
        )
        script("run", *on(shared), timeout=120)
        assert script.client()["end"].task.data.wrong == []

    def test_where_it_ran_is_named(self, shared, flow):
        """The label of each line, and `show`, name the host."""
        script = flow(flow_source(LINEAR, start="print('hello')"))
        stdout = script("run", *on(shared), timeout=120).stdout
        assert f" on {os.uname().nodename})] hello" in stdout

    def test_failures_are_tried_again(self, shared, flow):
        """Exceptions, deaths and timeouts of attempts are those of the attempt alone."""
        script = flow(
            flow_source(
                BRANCH,
                start="self.x = 1",
                a="@retry(times=2, minutes_between_retries=0)\n"
                "if current.retry_count == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
                "if current.retry_count == 1: raise ValueError('no')\nself.n = current.retry_count",
                b="@timeout(seconds=1)\n@catch(var='why')\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
                "while True: time.sleep(1)",
                join="self.n = inputs.a.n\nself.why = inputs.b.why.type",
            )
        )
        script("run", *on(shared), timeout=120)
        data = script.client()["end"].task.data
        assert (data.n, data.why) == (2, "flowstore.errors.TimeoutExpired")
        [failed] = script.sql("select error_type from attempts where number = 1 and status = 'failed'")
        assert failed == "ValueError"

    def test_a_gang(self, shared, flow):
        """The members of a gang run at the same time, beyond `--max-workers`, and know the first one's address."""
        body = """
        @parallel
        import socket
        server = None
        if current.parallel.node_index == 0:
            server = socket.create_server(('127.0.0.1', int(self.port)))
            for _ in range(current.parallel.num_nodes - 1): server.accept()[0].sendall(b'x')
        else:
            for _ in range(500):
                try: connection = socket.create_connection((current.parallel.main_ip, int(self.port))); break
                except OSError: time.sleep(0.02)
            assert connection.recv(1) == b'x'
        self.ip = current.parallel.main_ip
        """
        tails = {**GANG, "start": "self.next(self.body, num_parallel=4)"}
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        script = flow(
            flow_source(tails, start=f"self.port = {port}", body=body, join="self.ips = [i.ip for i in inputs]")
        )
        script("run", *on(shared), "--max-workers", 1, timeout=120)
        assert script.client()["join"].task.data.ips == ["127.0.0.1"] * 4

    def test_a_gang_that_can_never_fit(self, shared, flow):
        """A gang that is larger than the cluster is refused at once, with the number that would fit."""
        tails = {**GANG, "start": "self.next(self.body, num_parallel=5)"}
        script = flow(flow_source(tails, body="@parallel\npass"))
        stderr = script("run", *on(shared), expect=1, timeout=120).stderr
        assert "Step body needs 5 tasks at the same time, but there is room for 4." in stderr

    def test_the_client_is_refused(self, shared, flow):
        """A task that uses the Client fails with an error that says why."""
        script = flow(flow_source(LINEAR, start="Run('F/1')"))
        script("run", *on(shared), expect=1, timeout=120)
        [message] = script.sql("select error_message from attempts where status = 'failed'")
        assert "This task runs on another machine than the store" in message

    def test_resume_goes_between_executors(self, shared, flow, tmp_path):
        """A run on a cluster is resumed on this machine, and the other way round."""
        mark = tmp_path / "mark"
        script = flow(flow_source(MIDDLE, middle=f"assert Path({str(mark)!r}).exists(), 'no'"))
        script("run", *on(shared), expect=1, timeout=120)
        script("resume", expect=1)
        mark.touch()
        script("resume", *on(shared), timeout=120)
        assert script.client(3).successful
        assert script.counts(3) == {"start": 1, "middle": 1, "end": 1}


class TestRefusals:
    """What can't work is said at once, in one message."""

    def test_resources_that_nobody_has(self, shared, flow):
        """A step that asks for more than any worker offers ends the command before there is a run."""
        script = flow(flow_source(LINEAR, start="@resources(gpu=1)\npass"))
        stderr = script("run", *on(shared), expect=1, timeout=60).stderr
        assert "Step start: @resources(gpu=1) is more than any worker" in stderr
        assert "They offer: 2 threads" in stderr
        assert '--resources "GPU=1"' in stderr
        assert not script.db.exists()

    def test_no_scheduler(self, flow):
        """A scheduler that is not there is named."""
        script = flow(flow_source(LINEAR))
        stderr = script("run", "--executor", "dask:tcp://127.0.0.1:9", expect=1, timeout=60).stderr
        assert "There is no Dask scheduler at tcp://127.0.0.1:9" in stderr

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (["--executor", "dask:nowhere.json"], "neither an address"),
            (["--executor", "dask", "--executor-option", "leese=3"], "no option 'leese'"),
            (["--executor", "dask", "--executor-option", "lease=soon"], "must be a number"),
            (["--executor", "dask", "--executor-option", "lease"], "write NAME=VALUE"),
            (["--executor-option", "lease=3"], "The executor 'local' has no options"),
            (["--executor", "local:here"], "takes no address"),
        ],
    )
    def test_wrong_options(self, flow, options, why):
        """A wrong address or option is wrong usage."""
        script = flow(flow_source(LINEAR))
        assert why in script("run", *options, expect=2).stderr

    def test_no_workers(self, make_cluster, flow):
        """A scheduler without workers is no place to run."""
        script = flow(flow_source(LINEAR))
        stderr = script("run", *on(make_cluster()), expect=1, timeout=90).stderr
        assert "has no workers. Start one: dask worker tcp://" in stderr

    def test_workers_that_lack_flowstore(self, make_cluster, flow, tmp_path):
        """The message names the worker, and what to install there."""
        (tmp_path / "sitecustomize.py").write_text(
            "import importlib.util\nfind = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *more: None if name == 'flowstore' else find(name, *more)\n"
        )
        cluster = make_cluster()
        cluster.worker(env={"PYTHONPATH": str(tmp_path)})
        script = flow(flow_source(LINEAR))
        stderr = script("run", *on(cluster), expect=1, timeout=90).stderr
        assert "lowstore is not installed on the Dask worker tcp://127.0.0.1:" in stderr
        assert "pip install flowstore==" in stderr

    def test_workers_that_lack_numpy(self, make_cluster, flow, tmp_path):
        """A warning names it before the run; a flow that needs it says where to install it."""
        (tmp_path / "sitecustomize.py").write_text(
            textwrap.dedent("""
            import importlib.metadata as metadata, sys

            class Hidden:
                def find_spec(self, name, *more):
                    if name.partition(".")[0] == "numpy":
                        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

            sys.meta_path.insert(0, Hidden())
            distributions = metadata.distributions
            metadata.distributions = lambda **more: [] if more.get("name") == "numpy" else distributions(**more)
            """)
        )
        cluster = make_cluster()
        cluster.worker(env={"PYTHONPATH": str(tmp_path)})
        script = flow(flow_source(LINEAR, head="import numpy"))
        stderr = script("run", *on(cluster), expect=1, timeout=90).stderr
        assert "numpy (none) instead of " in stderr
        assert "could not be imported on " in stderr
        assert "No module named 'numpy'. Install it there" in stderr
        script.rewrite(script.file.read_text().replace("import numpy", ""))
        script("run", *on(cluster), timeout=90)

    def test_a_server_that_is_no_scheduler(self, flow):
        """A server that is no scheduler is refused, however much it sends."""
        script = flow(flow_source(LINEAR))
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=_flood, args=[server], daemon=True).start()
            port = server.getsockname()[1]
            stderr = script("run", "--executor", f"dask:tcp://127.0.0.1:{port}", expect=1, timeout=60).stderr
        assert f"The server at tcp://127.0.0.1:{port} does not answer as a Dask scheduler does" in stderr

    def test_a_file_of_no_scheduler(self, flow):
        """A scheduler's file that is damaged is named."""
        script = flow(flow_source(LINEAR))
        (script.folder / "s.json").write_text('{"addr')
        stderr = script("run", "--executor", "dask:s.json", expect=1, timeout=60).stderr
        assert "s.json is not a file that dask scheduler --scheduler-file has written" in stderr

    def test_workers_of_another_version(self, make_cluster, flow, tmp_path):
        """A worker with another version of flowstore or Python is refused; both versions are named."""
        package = Path(flowstore.__file__).parent
        copy = tmp_path / "other" / "flowstore"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "_version.py").write_text('"""Version."""\n__version__ = "9.9"\n')
        cluster = make_cluster()
        cluster.worker(env={"PYTHONPATH": str(copy.parent)})
        script = flow(flow_source(LINEAR))
        stderr = script("run", *on(cluster), expect=1, timeout=90).stderr
        assert f"has flowstore 9.9, and this process has flowstore {flowstore.__version__}" in stderr

    def test_tls(self, make_cluster, flow, tmp_path):
        """With TLS, a run works with the certificates where Dask looks for them, and says so without them."""
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl")
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        for name in ("good", "wrong"):
            files = "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem"
            subprocess.run([*request, *files], check=True, capture_output=True)

        def certified(name):
            files = {"CA_FILE": f"{name}.pem", "CLIENT__CERT": f"{name}.pem", "CLIENT__KEY": f"{name}.key"}
            return {f"DASK_DISTRIBUTED__COMM__TLS__{what}": str(tmp_path / file) for what, file in files.items()}

        pem, key = tmp_path / "good.pem", tmp_path / "good.key"
        cluster = make_cluster("--protocol", "tls", "--tls-ca-file", pem, "--tls-cert", pem, "--tls-key", key)
        cluster.worker()
        script = flow(flow_source(LINEAR))
        for env in ({}, certified("wrong"), certified("missing")):
            stderr = script("run", *on(cluster), expect=1, timeout=90, **env).stderr
            assert f"at {cluster.address} needs TLS, and this process has no fitting certificates" in stderr
        plain = cluster.address.replace("tls://", "tcp://")
        stderr = script("run", "--executor", f"dask:{plain}", expect=1, timeout=90).stderr
        assert f"The server at {plain} does not answer as a Dask scheduler does" in stderr
        cluster.wait(1, **certified("good"))
        script("run", *on(cluster), timeout=90, **certified("good"))
        script("run", "--executor", f"dask:{cluster.file}", timeout=90, **certified("good"))


def _flood(server):
    """Send the first client bytes without end."""
    server.accept()[0].close()  # of who only looks whether somebody listens
    with contextlib.suppress(OSError), server.accept()[0] as connection:
        while True:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 100)


class TestResources:
    """Resources that workers declare are passed to Dask."""

    def test_a_step_runs_where_its_resources_are(self, make_cluster, flow):
        """A step with `gpu=1` runs on the worker that declares it; no more run at a time than it has."""
        cluster = make_cluster()
        cluster.worker()
        cluster.worker("--resources", "GPU=1", env={"HAS_GPU": "yes"})
        cluster.wait(2)
        body = "@resources(gpu=1)\nself.has = os.environ.get('HAS_GPU')"
        script = flow(
            flow_source(FOREACH, start="self.xs = [1, 2, 3]", body=body, join="self.has = {i.has for i in inputs}")
        )
        script("run", *on(cluster), timeout=120)
        assert script.client()["join"].task.data.has == {"yes"}


def begun(flow, cluster, *options, first="pass"):
    """Start a run whose middle step sleeps at its first attempt, after the statement `first`.

    Returns the script, its process, and the file to which each attempt writes its number and its process's id. The
    file's path is in the environment of the step's processes.
    """
    ran = cluster.folder / f"ran-{time.time_ns()}"
    body = f"""
    @environment(vars={{"RAN": {str(ran)!r}}})
    with open(os.environ["RAN"], "a") as file: file.write(f"{{current.retry_count}} {{os.getpid()}}\\n")
    if Path(os.environ["RAN"]).read_text().count(" ") == 1:
        {first}
        time.sleep(300)
    self.value = current.retry_count
    """
    script = flow(flow_source(MIDDLE, middle=body))
    process = script.start("run", *on(cluster), *options)
    wait_for(lambda: (ran.exists() and ran.read_text()) or process.poll() is not None, 60)
    return script, process, ran


class TestDeaths:
    """What a driver, a host or a worker does when another one dies."""

    def lose(self, make_cluster, flow, how, *options):
        """Begin a task on a worker, which then gets a signal; return the script and `ran` after the run's success."""
        cluster = make_cluster()
        cluster.worker(threads=1)
        cluster.wait(1)
        script, process, ran = begun(flow, cluster, "--with", "retry:times=1,minutes_between_retries=0", *options)
        cluster.worker(threads=1)
        cluster.wait(2)
        os.killpg(cluster.processes[1].pid, how)
        assert process.wait(60) == 0
        process.communicate()
        assert [line[0] for line in ran.read_text().splitlines()] == ["0", "1"]
        assert script.client()["middle"].task.data.value == 1
        statuses = "select status from attempts where task_id = 2 order by number"
        assert script.sql(statuses) == ["failed", "successful"]
        return script, ran

    def test_a_killed_worker(self, make_cluster, flow):
        """Its attempt dies with a message that names the host, runs again on another worker, and has one result."""
        script, ran = self.lose(make_cluster, flow, signal.SIGKILL)
        [message] = script.sql("select error_message from attempts where status = 'failed'")
        assert f"The task was lost with its host {os.uname().nodename}" in message
        first = int(ran.read_text().split()[1])
        wait_for(lambda: not Path(f"/proc/{first}").exists(), 30)

    def test_a_worker_that_is_killed_while_a_process_ends(self, make_cluster, flow):
        """The task's result is there already, so it is kept, and the task is not run again."""
        cluster = make_cluster()
        cluster.worker(threads=1)
        cluster.wait(1)
        body = """
        @retry(times=1, minutes_between_retries=0)
        import atexit
        atexit.register(time.sleep, 300)
        self.value = current.retry_count
        """
        script = flow(flow_source(MIDDLE, middle=body))
        process = script.start("run", *on(cluster))
        status = "select status from attempts where task_id = 2"
        wait_for(lambda: script.db.exists() and script.sql(status) == ["successful"], 60)
        cluster.worker(threads=1)
        os.killpg(cluster.processes[1].pid, signal.SIGKILL)
        assert process.wait(60) == 0
        process.communicate()
        assert script.sql(status) == ["successful"]
        assert script.client()["middle"].task.data.value == 0

    def test_a_frozen_worker(self, make_cluster, flow):
        """A worker that stops answering is lost after its lease."""
        script, _ = self.lose(make_cluster, flow, signal.SIGSTOP, "--executor-option", "lease=3")
        [message] = script.sql("select error_message from attempts where status = 'failed'")
        assert "The task was lost with its host" in message

    def test_a_killed_driver(self, shared, flow):
        """Nothing is left of its tasks after 30 s, and the run can be resumed."""
        script, process, ran = begun(flow, shared, first="import subprocess; subprocess.Popen(['sleep', '300'])")
        process.kill()
        process.communicate()
        assert gone(str(ran), 30)
        script("resume", timeout=60)

    def test_a_scheduler_that_dies(self, make_cluster, flow):
        """The run ends with a message that says so, and can be resumed."""
        cluster = make_cluster()
        cluster.worker()
        cluster.wait(1)
        script, process, _ = begun(flow, cluster)
        os.killpg(cluster.scheduler.pid, signal.SIGKILL)
        os.killpg(cluster.processes[1].pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=90)
        assert process.returncode == 1
        assert b"lost" in stdout + stderr
        assert b"Traceback" not in stderr
        script("resume", timeout=60)


def test_a_stop(shared, flow):
    """A run that is stopped ends its tasks, and keeps what had finished."""
    script, process, ran = begun(flow, shared)
    assert stop(process, signal.SIGINT).code == 130
    assert gone(str(ran), 5)
    assert script.sql("select status from runs") == ["stopped"]


def test_the_host_is_named_everywhere(shared, flow):
    """`show`, the metadata of a task and the views say where it ran, also where that is another machine."""
    script = flow(flow_source(LINEAR))
    script("run", *on(shared), timeout=120)
    with contextlib.closing(sqlite3.connect(script.db)) as db, db:
        db.execute("update attempts set ran_on = 'node7'")
    assert "ran on: node7" in script.flowstore("show", "F/1/start/1").stdout
    assert script.client()["start"].task.metadata_dict["host"] == "node7"
    assert script.sql("select distinct host from task_summary") == ["node7"]
