"""Signals to the driver, and resuming what they leave."""

from __future__ import annotations

import shlex
import signal

import pytest

import flowstore
from support.cli import Script, failure, stop
from support.flows import FOREACH, LINEAR, MEND, MIDDLE, flow_source
from support.processes import alive, wait_for

# --- signals to the driver

WAITS = """
Path(f"pid-{self.index}").write_text(str(os.getpid()))
if not Path("mended").exists() and self.index > 0:
    time.sleep(300)
"""


def waiting_run(flow, *options):
    """A run of which one task has finished and two are at work; gives its script, driver and their pids."""
    script = flow(flow_source(FOREACH, start="self.xs = range(3)", body=WAITS, join="self.n = len(inputs)"))
    process = script.start("run", "--max-workers", 3, *options)

    def at_work():
        pids = [script.folder / f"pid-{index}" for index in range(3)]
        if not all(pid.exists() and pid.read_text() for pid in pids):
            return None
        done = script.sql("select count(*) from task_summary where status = 'successful' and step = 'body'")
        return [int(pid.read_text()) for pid in pids] if done == [1] else None

    return script, process, wait_for(at_work)


def check_resumes(script):
    """The run goes on from where it was, and its finished tasks are not run again."""
    (script.folder / "mended").touch()
    script("resume")
    run = script.client(2)
    assert (run.status, run.data.n, run.origin_run_id) == ("successful", 3, "1")
    reused = script.sql("select origin_pathspec from task_summary where run_id = 2 and origin_pathspec is not null")
    assert len(reused) == 2


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_command_that_goes_on_names_the_store(flow, by):
    """It is to be pasted, and would find another store, or none; `show` gives the same one."""
    script = flow(flow_source(LINEAR, end=MEND))
    chosen = {"FLOWSTORE_STORE": "my runs.db"} if by == "variable" else {}
    script("run", expect=1)
    failed = script(*([] if chosen else ["--store", "my runs.db"]), "run", expect=1, **chosen)
    command = failed.stderr.strip().rpartition("to go on: ")[2]
    assert command == "python flow.py resume --origin-run-id 1 --store 'my runs.db'"
    assert command in script.flowstore("--store", "my runs.db", "show", "F/1").stdout
    assert "python flow.py resume --origin-run-id 1\n" in script.flowstore("show", "F/1").stdout
    (script.folder / "mended").touch()
    script(*shlex.split(command)[2:])
    assert script.flowstore("--store", "my runs.db", "show", "F/2").code == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run(how, code, method, flow):
    """Ctrl-C and SIGTERM stop the tasks, keep what had finished, and say how to resume."""
    script, process, pids = waiting_run(flow, "--start-method", method)
    result = stop(process, how)
    assert result.code == code
    assert "resume --origin-run-id 1" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    run = script.client()
    assert (run.status, run.finished, run.successful) == ("stopped", True, False)
    assert sorted(task.status for task in run["body"]) == ["stopped", "stopped", "successful"]
    assert not any(map(alive, pids))
    script.check()
    check_resumes(script)


def test_a_step_that_reacts_to_nothing(flow, tmp_path):
    """A step that ignores its timeout, or SIGTERM when its run is to stop, is killed some seconds later."""
    deaf = "@timeout(seconds=0.2)\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\ntime.sleep(100)"
    (tmp_path / "late").mkdir()
    late = Script(tmp_path / "late", flow_source(LINEAR, start=deaf))
    timed = late.start("run", "--store", late.db)  # not the one in the folder above, which may be there
    start = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nPath('pid').write_text(str(os.getpid()))\ntime.sleep(300)"
    script = flow(flow_source(LINEAR, start=start))
    process = script.start("run")
    pid = wait_for(lambda: (script.folder / "pid").exists() and (script.folder / "pid").read_text())
    assert stop(process).code == 130
    assert not alive(int(pid))
    assert script.client().status == "stopped"
    timed.communicate(timeout=40)
    assert timed.returncode == 1
    assert failure(late).type == "flowstore.errors.TimeoutExpired"
    assert "0.2 s" in failure(late).message
    flowstore.context.state.store.close()
    late.check()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_driver(method, flow):
    """When the driver is killed its tasks die, the run is dead at once, and resuming goes on from there."""
    script, process, pids = waiting_run(flow, "--start-method", method)
    process.kill()
    process.wait()
    run = script.client()
    assert (run.status, run.finished, run.finished_at) == ("dead", False, None)
    assert sorted(task.status for task in run["body"]) == ["dead", "dead", "successful"]
    process.communicate(timeout=20)  # until everything that had its streams open is gone
    wait_for(lambda: not any(map(alive, pids)))
    flowstore.context.state.store.close()
    script.check()
    check_resumes(script)
    assert script.sql("select status from run_summary order by run_id") == ["dead", "successful"]
    assert script.client(1).status == "dead"


def test_a_killed_driver_in_the_middle_of_a_large_artifact(flow):
    """What a killed driver had begun to write is gone after the next run."""
    start = "self.big = os.urandom(200_000_000)"
    script = flow(flow_source(LINEAR, start=start))
    process = script.start("run")
    wait_for(lambda: script.db.exists() and script.sql("select count(*) from chunks")[0] > 20)
    process.kill()
    process.communicate()
    assert script.client().status == "dead"
    flowstore.context.state.store.close()
    script.rewrite(flow_source(LINEAR))
    script("run")
    assert script.sql("select count(*) from chunks") == [0]


def test_a_reader_that_goes_away(flow):
    """A run goes on when whoever reads its output closes the pipe."""
    script = flow(flow_source(LINEAR, start="for n in range(100_000): print(n)", end="self.x = 1"))
    process = script.start("run")
    process.stdout.readline()
    process.stdout.close()
    process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert script.client().data.x == 1
    assert script.sql("select sum(length(text)) from task_logs") == [588_890]


# --- resume


def test_resume_of_a_resume(flow):
    """A run that was resumed twice points at where its tasks first ran; the latest run is the default origin."""
    script = flow(flow_source(MIDDLE, start="self.x = 1", middle="self.y = self.x + 1", end=MEND))
    script("run", expect=1)
    script("resume", expect=1)
    (script.folder / "mended").touch()
    script("resume", "--tag", "third")
    run = script.client(3)
    assert (run.origin_run_id, run.data.y, run.user_tags) == ("2", 2, {"third"})
    assert [step.task.origin_pathspec for step in run] == [None, "F/1/middle/2", "F/1/start/1"]


def test_a_step_after_the_failure(flow):
    """`resume STEP`, where the run had failed before STEP, starts at the failure."""
    script = flow(flow_source(MIDDLE, start="self.x = 1", middle=MEND, end="self.y = self.x + 1"))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume", "end")
    run = script.client(2)
    assert (run.data.y, [step.task.origin_pathspec for step in run]) == (2, [None, None, "F/1/start/1"])


def test_resume_takes_the_code_as_it_is_now(flow):
    """A resumed run runs the mended file, and its snapshot says so; a step added in front runs first."""
    script = flow(flow_source(LINEAR, start="self.x = 1", end="raise RuntimeError('boom')"))
    script("run", expect=1)
    source = flow_source(MIDDLE, start="self.x = 'not run again'", middle="self.y = self.x + 1", end="self.z = self.y")
    script.rewrite(source)
    script("resume")
    run = script.client(2)
    assert (run.data.z, run.code.flowspec) == (2, source)
    assert [step.task.origin_pathspec for step in run] == [None, None, "F/1/start/1"]


@pytest.mark.parametrize(
    "given", [["nowhere"], *(["--origin-run-id", run] for run in ("99", "x", "01", "\u0661", "-1", "1/start"))]
)
def test_resume_of_what_is_not_there(given, flow):
    """A step or run that doesn't exist is one message, and starts nothing."""
    script = flow(flow_source(LINEAR))
    script("run")
    told = script("resume", *given, expect=2 if given == ["nowhere"] else 1)
    assert given[-1] in told.stderr
    assert script.sql("select count(*) from runs") == [1]


def test_resume_without_a_run(flow):
    """`resume` where nothing ran says so."""
    script = flow(flow_source(LINEAR))
    assert "no run of F" in script("resume", expect=1).stderr


def test_two_runs_at_once(flow):
    """Two drivers write the same file: no ids are shared, and each run is whole."""
    script = flow(flow_source(FOREACH, start="self.xs = range(20)", body="self.y = os.urandom(100_000)"))
    runs = [script.start("run", "--quiet") for _ in range(3)]
    ended = [process.communicate(timeout=100) for process in runs]
    assert [process.returncode for process in runs] == [0, 0, 0], ended
    assert script.sql("select tasks, status from run_summary") == [(23, "successful")] * 3
    assert len(script.client(3)["body"].task.data.y) == 100_000
