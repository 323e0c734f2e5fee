"""What a step prints, and how a task may end."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from support.cli import failure
from support.flows import FOREACH, LINEAR, flow_source
from support.processes import alive

# --- what a step may print


def test_fifty_megabytes_of_output(flow):
    """However much a step prints, all of it is stored, in order, and the run ends."""
    script = flow(flow_source(LINEAR, start="for n in range(500_000): print(f'{n:0100d}')"))
    script("run", timeout=150)
    [task] = script.client()["start"]
    lines = task.stdout.splitlines()
    assert (len(lines), len(task.stdout)) == (500_000, 500_000 * 101)
    assert [int(line) for line in lines[:: len(lines) // 100]] == list(range(0, 500_000, 5000))
    assert script.sql("select sum(length(text)) from task_logs") == [500_000 * 101]


def test_odd_output(flow):
    """Bytes that are no text, a line without an end and a carriage return are kept without harm."""
    start = "os.write(1, b'a\\xffb\\r\\n'); print('x' * 3_000_000, end=''); sys.stderr.write('\\udc80 \\x1b[31m')"
    script = flow(flow_source(LINEAR, start=start))
    script("run")
    task = script.client()["start"].task
    assert task.stdout == "a\N{REPLACEMENT CHARACTER}b\r\n" + "x" * 3_000_000
    assert task.stderr == "\\udc80 \x1b[31m"


CLOSERS = ["sys.stdout.close()", "os.close(1)", "os.close(1); os.close(2)", "sys.stdout = sys.stderr = None"]


@pytest.mark.parametrize("closing", CLOSERS)
def test_a_step_may_close_its_streams(closing, flow):
    """A task that closes its streams still ends as it should, with what it had printed before."""
    script = flow(flow_source(LINEAR, start=f"print('before'); self.x = 1; {closing}", end="print(self.x)"))
    script("run")
    run = script.client()
    assert (run["start"].task.stdout, run["end"].task.stdout) == ("before\n", "1\n")


@pytest.mark.parametrize("closing", ["sys.stderr.close()", "os.close(2)", "sys.stderr = None"])
def test_a_failure_after_closing_stderr_keeps_its_reason(closing, flow):
    """The exception of a step that had closed its stderr is recorded all the same."""
    script = flow(flow_source(LINEAR, start=f"{closing}\nraise RuntimeError('boom')"))
    script("run", expect=1)
    assert (failure(script).name, failure(script).message) == ("RuntimeError", "boom")


# --- how a task may end


ENDS = {
    "os._exit(0)": ("TaskDied", "exited with code 0 before"),
    "os._exit(3)": ("TaskDied", "exited with code 3 before"),
    "sys.exit(0)": ("SystemExit", "0"),
    "raise KeyboardInterrupt": ("KeyboardInterrupt", ""),
    "os.abort()": ("TaskDied", "SIGABRT"),
    "__import__('ctypes').string_at(0)": ("TaskDied", "SIGSEGV"),
    "open(b'\\xff')": ("FileNotFoundError", "No such file"),
    "raise RuntimeError('\\udc80')": ("RuntimeError", ""),
    "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})": ("Odd", ""),
    "raise BaseExceptionGroup('two', [ValueError(1), GeneratorExit()])": ("BaseExceptionGroup", "two"),
}


@pytest.mark.parametrize(("ending", "told"), ENDS.items(), ids=ENDS)
def test_a_task_that_does_not_finish_has_failed(ending, told, flow):
    """Whatever ends a step early is a failure of its task, which says what it was, and no more than that."""
    script = flow(flow_source(FOREACH, start="self.xs = range(3)", body=f"if self.index == 1: {ending}"))
    result = script("run", expect=1)
    assert script.client().status == "failed"
    kind, message = told
    error = failure(script)
    assert error.name == kind
    assert message in error.message
    assert result.stdout.count("Task failed.") == 1
    assert len(result.stderr.splitlines()) == 2  # the banner, and the line that says how to resume


@pytest.mark.untraced
def test_tasks_that_die_at_once_do_not_hang_the_run(flow):
    """Many processes that die while others are being started are all noticed."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = range(200)",
            body="@catch(var='problem', print_exception=False)\nos._exit(3)",
            join="self.types = sorted({i.problem.type for i in inputs})",
        )
    )
    script("run", "--max-workers", 8, timeout=30)
    assert script.client().data.types == ["TaskDied"]


def test_a_child_left_behind_does_not_hold_up_the_run(flow):
    """A process that a step started and forgot, with the step's streams open, does not keep the run from ending."""
    start = """
import subprocess
self.child = subprocess.Popen(["sleep", "300"]).pid
self.fork = os.fork()
if self.fork == 0:
    signal.pause()
"""
    script = flow(flow_source(LINEAR, start=start))
    script("run", timeout=20)
    run = script.client()
    assert run.successful
    for pid in filter(alive, (run.data.child, run.data.fork)):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.fresh
def test_late_output_does_not_keep_the_driver_busy(flow):
    """What a forgotten child of a reused process prints between tasks costs no processor time."""
    body = """
if os.fork() == 0:
    for n in range(20):
        time.sleep(0.1)
        print("late", n, flush=True)
    os._exit(0)
"""
    script = flow(flow_source(FOREACH, start="self.xs = [1]", body=body, join="time.sleep(2)"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script("run", "--reuse-workers")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


FORKS = {
    "multiprocessing": """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    self.x = pool.map(abs, [-1, -2])
""",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    self.x = list(pool.map(abs, [-1, -2]))
""",
    "processes": """
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2) as pool:
    self.x = list(pool.map(abs, [-1, -2]))
""",
    "subprocess": """
import subprocess
self.x = [int(x) for x in subprocess.check_output([sys.executable, "-c", "print(1, 2)"]).split()]
""",
    "a fork that ends by itself": """
child = os.fork()
if child == 0: os._exit(0)
os.waitpid(child, 0)
self.x = [1, 2]
""",
    "a fork that calls sys.exit": """
child = os.fork()
if child == 0: sys.exit(0)
os.waitpid(child, 0)
self.x = [1, 2]
""",
    "a fork that raises": """
child = os.fork()
if child == 0: raise RuntimeError("only the child's")
os.waitpid(child, 0)
self.x = [1, 2]
""",
}


@pytest.mark.parametrize("start", FORKS.values(), ids=FORKS)
def test_a_step_may_start_processes(start, flow):
    """Children and threads of a step are its own affair; only the step's own end is the task's."""
    script = flow(flow_source(LINEAR, start=start, end="self.y = self.x"))
    script("run")
    assert script.client().data.y == [1, 2]


def test_a_step_may_change_directory(flow, tmp_path):
    """A step's current folder is its own: the next task starts where the run was started."""
    script = flow(flow_source(LINEAR, start="self.x = 1; os.chdir('/')", end="self.where = os.getcwd(); self.x"))
    script("run")
    assert script.client().data.where == str(tmp_path)
