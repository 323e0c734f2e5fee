"""What single tasks may do, and what becomes of the run: values, streams, processes, parameters, signals."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from harness import FOREACH, GANG, LINEAR, MIDDLE, Script, alive, flow_source, stop, wait_for

import flowstore
from flowstore import Flow, NotFound, Task

MEND = "if not Path('mended').exists(): raise RuntimeError('boom')"


def failure(script, run_id=1):
    """The failure of the one task that failed in a run."""
    [task] = [task for step in script.client(run_id) for task in step if task.status == "failed"]
    return task.exception


# --- foreach


@pytest.mark.parametrize("empty", ["[]", "()", "{}", "range(0)", "''"])
def test_a_foreach_over_nothing_fails(empty, flow):
    """A foreach without items fails the task, naming the list."""
    script = flow(flow_source(FOREACH, start=f"self.xs = {empty}"))
    script("run", expect=1)
    assert "'xs' is empty" in failure(script).message
    assert script.counts() == {"start": 1}


ITERABLES = {
    "tuple": ("('a', 'b')", ["a", "b"]),
    "range": ("range(4, 6)", [4, 5]),
    "set": ("{7}", [7]),
    "dict": ("{'k': 1, 'l': 2}", ["k", "l"]),
    "text": ("'xy'", ["x", "y"]),
    "deque": ("__import__('collections').deque([1, None])", [1, None]),
    "array": ("__import__('numpy').arange(2) * 0.5", [0.0, 0.5]),
    "large items": ("['a' * 100_000, 'b' * 100_000]", ["a" * 100_000, "b" * 100_000]),
    "items that are pickled": ("[(1, 2), {3}]", [(1, 2), {3}]),
}


@pytest.mark.parametrize(("text", "items"), ITERABLES.values(), ids=ITERABLES)
def test_what_has_a_length_can_be_fanned_out_over(text, items, flow):
    """Each item gets a task, in order, which a join can ask for it; the list itself comes back as it was."""
    script = flow(
        flow_source(
            FOREACH,
            start=f"self.xs = {text}",
            body="self.mine = self.input",
            join="self.all = [i.mine for i in inputs]; self.same = [(i.input, i.index) for i in inputs]; "
            "self.xs = inputs[0].xs",
        )
    )
    script("run")
    data = script.client().data
    assert data.all == items
    assert data.same == [(item, index) for index, item in enumerate(items)]
    assert list(data.xs) == items


def test_a_generator_is_no_list(flow):
    """A foreach over what has no length says to make a list of it."""
    script = flow(flow_source(FOREACH, start="self.xs = (x for x in 'ab')"))
    script("run", expect=1)
    error = failure(script)
    assert ("'xs'" in error.message, "self.xs = list(" in error.message) == (True, True)


def test_a_foreach_over_what_is_not_set(flow):
    """A foreach over an artifact that nobody set names it."""
    script = flow(flow_source(FOREACH))
    script("run", expect=1)
    assert "'xs' is not set" in failure(script).message


def test_a_wide_foreach(flow):
    """A thousand tasks, each with its own item, all joined."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = list(range(1000))",
            body="self.mine = self.input * 2",
            join="self.total = sum(i.mine for i in inputs)",
        )
    )
    script("run", "--quiet", timeout=200)
    assert script.client().data.total == 999_000
    assert script.counts()["body"] == 1000
    assert script.sql("select count(distinct foreach_index) from task_summary where step = 'body'") == [1000]


def test_max_num_splits(flow):
    """A foreach wider than `--max-num-splits` fails before it starts, and says how to raise the limit."""
    script = flow(flow_source(FOREACH, start="self.xs = range(3)"))
    script("run", "--max-num-splits", 2, expect=1)
    assert "--max-num-splits 3" in failure(script).message
    script("run", "--max-num-splits", 3)


@pytest.mark.parametrize("options", [["--max-workers", 1], ["--reuse-workers"], ["--max-workers", 3]])
def test_how_many_run_at_a_time(options, flow):
    """No more tasks run at once than `--max-workers`; only `--reuse-workers` lets tasks share a process."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = range(6)",
            body="begun = time.time(); time.sleep(0.05); self.mine = [begun, time.time(), os.getpid()]",
            join="self.all = [i.mine for i in inputs]",
        )
    )
    script("run", *options)
    spans = script.client().data.all
    together = max(sum(a[0] <= b[0] < a[1] for a in spans) for b in spans)
    pids = {pid for _, _, pid in spans}
    if options[0] == "--reuse-workers":
        assert len(pids) < 6
    else:
        assert together <= options[1]
        assert len(pids) == 6


def test_a_gang_runs_all_at_once(flow):
    """The members of a gang wait for each other without harm, whatever `--max-workers`, and know their places."""
    body = """
@parallel
Path(f"here-{self.index}").touch()
deadline = time.time() + 30
while not (Path("here-0").exists() and Path("here-1").exists() and Path("here-2").exists()):
    assert time.time() < deadline
    time.sleep(0.01)
p = current.parallel
self.mine = [p.node_index, p.num_nodes, p.main_ip, p.control_task_id, self.input]
"""
    tails = {**GANG, "start": "self.next(self.body, num_parallel=3)"}
    script = flow(flow_source(tails, body=body, join="self.all = [i.mine for i in inputs]"))
    script("run", "--max-workers", 1)
    run = script.client()
    first = min((task.id for task in run["body"]), key=int)
    assert run.data.all == [[i, 3, "127.0.0.1", first, i] for i in range(3)]


def test_a_gang_member_is_retried_while_the_others_wait(flow):
    """A retry of a gang's member needs no free worker: the others may be waiting for it."""
    body = """
@parallel
@retry(times=1, minutes_between_retries=0)
if self.index == 0:
    if current.retry_count == 0: raise RuntimeError("once")
    Path("ready").touch()
deadline = time.time() + 5
while not Path("ready").exists():
    assert time.time() < deadline, "the other member was not tried again in time"
    time.sleep(0.01)
"""
    script = flow(flow_source(GANG, body=body))
    script("run", "--max-workers", 1)
    attempts = script.sql("select attempts from task_summary where step = 'body' order by foreach_index")
    assert attempts == [2, 1]


def test_a_gang_ends_together(flow):
    """When one member fails for good, the others are stopped: only the one that failed counts as failed."""
    body = """
@parallel
if self.index == 0: raise RuntimeError("boom")
time.sleep(100)
"""
    script = flow(flow_source(GANG, body=body))
    script("run", expect=1)
    statuses = {task.index: task.status for task in script.client()["body"]}
    assert statuses == {0: "failed", 1: "stopped"}


def test_a_gang_is_taken_over_whole_or_not_at_all(flow):
    """Members of a gang work together, so one that failed is resumed with all the others."""
    body = """
@parallel
print("member", self.index)
if self.index == 1 and not Path("mended").exists(): raise RuntimeError("boom")
Path(f"done-{self.index}").touch()
"""
    script = flow(flow_source(GANG, body=body))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    assert script.sql("select origin_pathspec from task_summary where run_id = 2 and step = 'body'") == [None, None]


# --- artifacts


def test_what_cannot_be_pickled_is_named(flow):
    """An artifact that can't be stored fails the task, naming the artifact; the others are kept."""
    script = flow(flow_source(LINEAR, start="self.good = 1; self.lock = __import__('threading').Lock()"))
    script("run", expect=1)
    assert "'lock'" in failure(script).message
    task = script.client()["start"].task
    assert (task.data.good, "lock" in task) == (1, False)


def test_a_failed_attempt_keeps_its_artifacts(flow):
    """What an attempt had set before it failed is there under that attempt, large or small."""
    start = """
@retry(times=1, minutes_between_retries=0)
self.tried = current.retry_count
if current.retry_count == 0:
    self.small, self.large = "before", b"x" * 300_000
    raise RuntimeError("boom")
"""
    script = flow(flow_source(LINEAR, start=start))
    script("run")
    task = script.client()["start"].task
    first = Task(task.pathspec, attempt=0)
    assert (first.data.tried, first.data.small, first.data.large) == (0, "before", b"x" * 300_000)
    assert (task.data.tried, "small" in task) == (1, False)
    with pytest.raises(NotFound):
        Task(task.pathspec, attempt=2)


@pytest.mark.parametrize("size", [100, 300_000, 20_000_000])
def test_equal_artifacts_of_one_task(size, flow):
    """Two artifacts of the same content in one task are both there, and stored once."""
    script = flow(flow_source(LINEAR, start=f"self.a = b'x' * {size}; self.b = bytes(bytearray(self.a))"))
    script("run")
    data = script.client().data
    assert data.a == data.b == b"x" * size
    assert script.sql("select count(*) from artifact_values where name in ('a', 'b')") == [2]
    assert script.sql("select count(*) from blobs where size_bytes = ?", size) == [1]


def test_equal_artifacts_of_tasks_at_once(flow):
    """Tasks that store the same large content at the same time share it."""
    body = "self.mine = b'same' * 1_000_000"
    script = flow(flow_source(FOREACH, start="self.xs = range(4)", body=body))
    script("run", "--max-workers", 4)
    run = script.client()
    assert {task.data.mine for task in run["body"]} == {b"same" * 1_000_000}
    assert script.sql("select count(*) from blobs where size_bytes = 4000000") == [1]


CHANGES = """
self.plain, self.nested, self.array, self.thing = [1], {"a": [1]}, np.zeros(3), Thing([1])
self.kept = {"list": [1], "dict": {"a": [1]}, "array": np.zeros(4), "thing": Thing([2])}
self.kept_list, self.kept_array, self.kept_thing = [5], np.zeros(5), Thing([6])
"""
THING = """
import numpy as np

class Thing:
    def __init__(self, parts): self.parts = parts
"""


def test_what_a_process_sent_just_before_its_end_arrives(flow):
    """What the driver had not read yet when it heard that the process was gone, it reads all the same."""
    bodies = {"start": "self.xs = [*range(60)]", "body": "self.big = os.urandom(1_500_000)"}
    script = flow(flow_source(FOREACH, **bodies))
    script("run", "--max-workers", "6")
    assert script.sql("select count(*) from artifact_values where name = 'big' and size_bytes = 1500000") == [60]


NO_THREADS = """
import threading

def refuse(*_): raise RuntimeError("can't start new thread")

threading.Thread.start = refuse
"""


def test_large_artifacts_without_threads(flow):
    """Where the system gives no more threads, they are written, and read, without."""
    bodies = {"start": "self.big = bytes(40_000_000)", "end": "self.n = len(self.big)"}
    script = flow(flow_source(LINEAR, head=NO_THREADS, **bodies))
    script("run")
    assert script.client().data.n == 40_000_000


def test_a_large_artifact_is_loaded_while_python_ends(flow):
    """A thread that outlives the main one, and a function that Python calls at its end, can load what they like."""
    script = flow(flow_source(LINEAR, start="self.big = os.urandom(40_000_000)"))
    script("run")
    loading = """
import atexit, threading, time, flowstore

flowstore.namespace(None)

def load(): print(len(flowstore.Run("F/1")["start"].task.data.big))
def late(): time.sleep(0.5); load()

atexit.register(load)
threading.Thread(target=late).start()
"""
    done = subprocess.run([sys.executable, "-c", loading], cwd=script.folder, capture_output=True, text=True)
    assert done.stdout.split() == ["40000000"] * 2, done.stderr


def test_changes_in_place_are_kept(flow):
    """What a task reads and changes in place is stored as changed; what it only reads is not stored again."""
    script = flow(
        flow_source(
            MIDDLE,
            head=THING,
            start=CHANGES,
            middle="""
self.plain.append(2); self.nested["a"].append(2); self.array[0] = 1; self.thing.parts.append(2)
self.kept["list"], self.kept_list, self.kept_array.sum(), self.kept_thing.parts
""",
        )
    )
    script("run")
    run = script.client()
    before, after = run["start"].task.data, run.data
    assert (before.plain, before.nested, before.array.tolist(), before.thing.parts) == ([1], {"a": [1]}, [0] * 3, [1])
    assert (after.plain, after.nested, after.array.tolist(), after.thing.parts) == (
        [1, 2],
        {"a": [1, 2]},
        [1, 0, 0],
        [1, 2],
    )
    stored = script.sql("select name from artifact_values where step = 'middle' order by name")
    assert stored == ["array", "nested", "plain", "thing"]
    for name in ("kept", "kept_list", "kept_array", "kept_thing"):
        assert {step.task[name].sha for step in run} == {run["start"].task[name].sha}
    assert script.sql("select count(*) from blobs") == [8 + 4 + 1]  # start, middle, and the flow's source


def test_deleted_artifacts_are_gone(flow):
    """`del self.x` hides an inherited artifact from this task on."""
    script = flow(
        flow_source(
            MIDDLE,
            start="self.x = 1; self.y = 2; self.z = 3",
            middle="del self.x; self.y += 1; del self.y; self.z = 4; del self.z; self.z = 5",
            end="self.has = [hasattr(self, name) for name in 'xyz']",
        )
    )
    script("run")
    run = script.client()
    assert run.data.has == [False, False, True]
    assert ("x" in run["start"].task, "x" in run["middle"].task, "x" in run["end"].task) == (True, False, False)
    assert [artifact.id for artifact in run["end"].task] == ["has", "z"]
    assert run.data.z == 5


def test_what_is_not_there_is_named(flow):
    """Reading or deleting what nobody set is an AttributeError with the name; in a join it says where to look."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = [1]; assert not hasattr(self, 'nothing')",
            body="self.mine = 1",
            join="""
try: self.mine
except AttributeError as error: self.told = str(error)
try: inputs.nobody
except AttributeError as error: self.also = str(error)
assert inputs.body.mine == inputs[0].mine == 1
""",
            end="""
try: del self.nothing
except AttributeError as error: self.gone = str(error)
""",
        )
    )
    script("run")
    data = script.client().data
    assert "'mine'" in data.told
    assert "self.merge_artifacts(inputs)" in data.told
    assert ("'nobody'" in data.also, "body" in data.also) == (True, True)
    assert "'nothing'" in data.gone


CLASSES = """
import dataclasses
import enum

class Color(enum.Enum):
    RED = 1

class Flags(enum.IntFlag):
    A = 1
    B = 2

@dataclasses.dataclass
class Point:
    x: int
    color: Color = Color.RED

class Base:
    class Inner:
        pass
    def __init__(self): self.inner = Base.Inner()
    def name(self): return "base"

class Derived(Base):
    def name(self): return "derived of " + super().name()
"""
SETS_CLASSES = """
self.color, self.flags, self.point, self.thing = Color.RED, Flags.A | Flags.B, Point(3), Derived()
self.kind, self.twice = Derived, (lambda x: 2 * x)
"""
USES_CLASSES = """
assert self.color is Color.RED and self.point.color is Color.RED and self.flags == Flags.A | Flags.B
assert self.point == Point(3) and type(self.point) is Point and self.kind is Derived
assert isinstance(self.thing, Base) and type(self.thing.inner) is Base.Inner and self.twice(4) == 8
self.told = self.thing.name()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_classes_of_the_flow_file(method, flow):
    """They are the task's own in every task, resumed ones too; another process rebuilds them by value."""
    script = flow(flow_source(LINEAR, head=CLASSES, start=SETS_CLASSES, end=USES_CLASSES))
    script("run", "--start-method", method)
    script("resume", "end", "--start-method", method)
    script.file.unlink()
    data = script.client(2).data
    assert data.told == "derived of base"
    assert (data.color.name, data.point.x, int(data.flags), data.twice(3)) == ("RED", 3, 3, 6)
    assert data.thing.name() == "derived of base"
    assert data.point == data.point
    assert type(data.thing) is data.kind
    assert data.color is data.point.color


def test_spawn_gives_the_same(flow):
    """Fresh interpreters run foreach, join and failure as forked ones do."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = [1, 2]; print('from start')",
            body="""
@retry(times=1, minutes_between_retries=0)
if current.retry_count == 0: os._exit(9)
self.y = self.input
""",
            join="self.total = sum(i.y for i in inputs)",
        )
    )
    script("run", "--start-method", "spawn")
    run = script.client()
    assert (run.data.total, run["start"].task.stdout) == (3, "from start\n")
    assert "exited with code 9" in Task(run["body"].task.pathspec, attempt=0).exception.message


TEN = {f"s{n}": f"self.next(self.{'end' if n == 9 else f's{n + 1}'})" for n in range(10)}


@pytest.mark.parametrize("body", ["pass", "len(self.big)", "self.big = bytes(self.big)"], ids=["passed", "read", "set"])
def test_a_large_artifact_through_ten_steps_is_stored_once(flow, body):
    """100 MB through ten steps, passed on, read, or set again, adds 100 MB once; resuming past it adds nothing."""
    bodies = dict.fromkeys(TEN, body)
    script = flow(
        flow_source({"start": "self.next(self.s0)", **TEN, "end": ""}, start="self.big = os.urandom(10**8)", **bodies)
    )
    script("run", "--quiet", timeout=200)
    size = (script.folder / "flowstore.db").stat().st_size
    assert 10**8 < size < 1.02 * 10**8
    script("resume", "end")
    assert (script.folder / "flowstore.db").stat().st_size < size + 10**6


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
    assert (failure(script).type, failure(script).message) == ("RuntimeError", "boom")


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
    assert error.type == kind
    assert message in error.message
    assert result.stdout.count("Task failed.") == 1
    assert len(result.stderr.splitlines()) == 2  # the banner, and the line that says how to resume


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


# --- decorators


@pytest.mark.parametrize("shown", [True, False])
def test_catch_prints_the_exception_or_not(shown, flow):
    """`print_exception` decides whether the traceback is shown; `var` is None where nothing was raised."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = range(2)",
            body=f"@catch(var='problem', print_exception={shown})\nassert self.index == 0, 'odd one'",
            join="self.problems = [i.problem for i in inputs]",
        )
    )
    assert ("Traceback" in script("run").stdout) == shown
    none, problem = script.client().data.problems
    assert none is None
    assert (problem.type, problem.message) == ("AssertionError", "odd one")
    assert "odd one" in problem.traceback


def test_catch_after_retries(flow):
    """`@catch` comes into play when the last retry has failed, also when the process died each time."""
    start = "@catch(var='problem')\n@retry(times=1, minutes_between_retries=0)\nos.kill(os.getpid(), signal.SIGKILL)"
    script = flow(flow_source(LINEAR, start=start, end="self.told = self.problem.message"))
    script("run")
    run = script.client()
    assert "SIGKILL" in run.data.told
    assert run["start"].task.successful
    assert script.sql("select status, count(*) from attempts group by status") == [("failed", 2), ("successful", 2)]


SWITCH = {"start": "self.next({1: self.body, 2: self.end}, condition='mode')", "body": "self.next(self.end)", "end": ""}


@pytest.mark.parametrize(("tails", "body"), [(FOREACH, ""), (GANG, "@parallel"), (SWITCH, "")])
def test_catch_where_the_step_chooses_is_refused(tails, body, flow):
    """A caught step can't say how many tasks follow, or which: that is one message before anything runs."""
    script = flow(flow_source(tails, start="@catch(var='problem')\nraise RuntimeError('boom')", body=body))
    result = script("run", expect=1)
    assert "catch" in result.stderr
    assert "start" in result.stderr
    assert not script.db.exists() or script.sql("select count(*) from runs") == [0]


def test_what_was_caught_is_known_after_a_resume(flow):
    """A reused task tells of its caught exception, and prints it in its logs, as the first one does."""
    start = "@catch(var='problem')\nprint('hello')\nraise RuntimeError('boom')"
    script = flow(flow_source(LINEAR, start=start, end=MEND))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    first, again = script.client(1)["start"].task, script.client(2)["start"].task
    assert again.origin_pathspec == first.pathspec
    assert (again.stdout, again.stderr, again.created_at) == (first.stdout, first.stderr, first.created_at)
    assert again.exception == first.exception
    assert again.exception is not None


def test_environment_is_the_steps_own(flow):
    """`@environment` sets variables for its step's tasks only."""
    start = "@environment(vars={'COLOR': 'red', 'N': 3})\nself.seen = [os.environ['COLOR'], os.environ['N']]"
    script = flow(flow_source(LINEAR, start=start, end="self.later = os.environ.get('COLOR')"))
    script("run")
    assert (script.client().data.seen, script.client().data.later) == (["red", "3"], None)


def test_with_attaches_to_every_step(flow):
    """`--with retry` retries every step that has no retry of its own, and so do two of them before and after."""
    body = "if current.retry_count < 1: raise RuntimeError('once')"
    script = flow(flow_source(LINEAR, start=body, end=body))
    script("--with", "retry:times=1,minutes_between_retries=0", "run", "--with", "timeout:seconds=60")
    assert script.sql("select attempts from task_summary") == [2, 2]


def test_resources_are_recorded(flow):
    """`@resources` is found in the task's metadata."""
    script = flow(flow_source(LINEAR, start="@resources(cpu=2, memory=500)"))
    script("run")
    found = script.client()["start"].task.metadata_dict
    assert json.loads(found["resources"]) == {"cpu": 2, "memory": 500}


# --- isolation


def test_tasks_do_not_share_state(flow):
    """What a task does to modules, globals, the environment or signal handlers is unknown to the next one."""
    script = flow(
        flow_source(
            MIDDLE,
            head="import json\nSEEN = []",
            start="""
SEEN.append(1); json.mark = 1; os.environ["MARK"] = "1"; sys.path.append("mark")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
""",
            middle="""
self.seen = [SEEN, hasattr(json, "mark"), "MARK" in os.environ, "mark" in sys.path]
self.handler = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
""",
        )
    )
    script("run")
    assert (script.client().data.seen, script.client().data.handler) == ([[], False, False, False], True)


def test_random_numbers_differ(flow):
    """`random` and `numpy.random` give each task other numbers; what is not seeded differs in each run, too."""
    script = flow(
        flow_source(
            FOREACH,
            head="import random\nimport numpy as np\nrandom.seed(1)\nnp.random.seed(1)",
            start="self.xs = range(4)",
            body="self.mine = [random.random(), float(np.random.rand())]; self.new = np.random.default_rng().random()",
            join="self.all = [x for i in inputs for x in i.mine]; self.news = [float(i.new) for i in inputs]",
        )
    )
    script("run")
    script("run", "--reuse-workers")
    first, second = script.client(1).data, script.client(2).data
    assert first.all == second.all
    numbers = [*first.all, *first.news, *second.news]
    assert len(set(numbers)) == len(numbers) == 16


# --- parameters

PARAMETERS = """
n = Parameter("n", default=1)
rate = Parameter("rate", type=float, default=2)
on = Parameter("on", default=False)
flag = Parameter("flag", is_flag=True, default=False)
conf = Parameter("conf", type=JSONType, default={"a": 1})
many = Parameter("many", separator=",", default="a,b")
when = Parameter("when", default=lambda: "called")
who = Parameter("who", default=lambda context: f"{context.flow_name}/{context.user_name}/{context.parameter_name}")
other_name = Parameter("my-name", default="x")
none = Parameter("none", default=None)
PI = 3
"""
DEFAULTS = {
    "n": 1, "rate": 2.0, "on": False, "flag": False, "conf": {"a": 1}, "many": ["a", "b"], "when": "called",
    "who": "F/tester/who", "other_name": "x", "none": None,
}  # fmt: skip
GIVEN = {
    ("--n", "-3"): {"n": -3},
    ("--rate", "1e-3"): {"rate": 0.001},
    ("--on", "true"): {"on": True},
    ("--on", "NO"): {"on": False},
    ("--flag",): {"flag": True},
    ("--conf", "[1, null]"): {"conf": [1, None]},
    ("--conf", "null"): {"conf": None},
    ("--many", "x,,y z"): {"many": ["x", "", "y z"]},
    ("--when", ""): {"when": ""},
    ("--my-name", "größe"): {"other_name": "größe"},
    ("--my_name", "y"): {"other_name": "y"},
}


@pytest.mark.parametrize("given", GIVEN, ids=" ".join)
def test_parameter_values(given, flow):
    """Each type takes its texts; what isn't given has its default; types are exact."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    script("run", *given)
    expected = {**DEFAULTS, **GIVEN[given]}
    run = script.client()
    found = {name: getattr(run.data, name) for name in expected}
    assert (found, run.parameters) == (expected, expected)
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}
    assert run.data.PI == 3


def test_parameters_from_the_environment(flow):
    """`$FLOWSTORE_RUN_<NAME>` gives a value to every kind of parameter; an option wins over it."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    variables = {"N": "5", "FLAG": "true", "CONF": '{"b": 2}', "MANY": "p,q", "MY_NAME": "z", "ON": "1"}
    script("run", "--n", 6, **{f"FLOWSTORE_RUN_{name}": value for name, value in variables.items()})
    found = script.client().parameters
    assert {name: found[name] for name in ("n", "flag", "conf", "many", "other_name", "on")} == {
        "n": 6, "flag": True, "conf": {"b": 2}, "many": ["p", "q"], "other_name": "z", "on": True,
    }  # fmt: skip


WRONG = {
    "ill-typed": (["--n", "many"], "--n"),
    "not whole": (["--n", "1.5"], "--n"),
    "no number": (["--rate", "fast"], "--rate"),
    "no bool": (["--on", "maybe"], "--on"),
    "no JSON": (["--conf", "{"], "--conf"),
    "unknown": (["--nn", "1"], "--nn"),
    "no value": (["--n"], "--n"),
    "value of a flag": (["--flag", "yes"], "yes"),
    "workers": (["--max-workers", "0"], "--max-workers"),
    "splits": (["--max-num-splits", "0"], "--max-num-splits"),
}


@pytest.mark.parametrize(("given", "named"), WRONG.values(), ids=WRONG)
def test_wrong_usage_ends_with_2(given, named, flow):
    """What can't be a value is told by name, with exit code 2, and no store is made."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    assert named in script("run", *given, expect=2).stderr
    assert not script.db.exists()


def test_a_wrong_value_in_the_environment(flow):
    """A variable that doesn't fit is wrong usage too."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    assert "many" in script("run", expect=2, FLOWSTORE_RUN_N="many").stderr
    assert not script.db.exists()


MISTAKES = {
    "required": ("x = Parameter('x', required=True)", 2, "--x"),
    "default raises": ("x = Parameter('x', default=lambda: 1 / 0)", 2, "ZeroDivisionError"),
    "default of another type": ("x = Parameter('x', type=int, default=lambda: 'one')", 2, "one"),
    "missing file": ("x = IncludeFile('x', default='nowhere.txt')", 2, "nowhere.txt"),
    "an option of run": ("x = Parameter('max_workers')", 1, "--max-workers"),
    "twice": ("x = Parameter('a-b'); y = Parameter('a_b')", 1, "--a-b"),
}


@pytest.mark.parametrize(("members", "code", "named"), MISTAKES.values(), ids=MISTAKES)
def test_parameters_that_give_no_value(members, code, named, flow):
    """A missing value, a failing default and a name that is taken stop the run before it begins."""
    script = flow(flow_source(LINEAR, members=members))
    assert named in script("run", expect=code).stderr
    assert not script.db.exists()


def test_include_file(flow, tmp_path):
    """IncludeFile gives text in its encoding, or bytes, and keeps them in the store."""
    (tmp_path / "latin.txt").write_bytes("Größe\r\n".encode("latin-1"))
    (tmp_path / "raw.bin").write_bytes(bytes(range(256)))
    members = """
text = IncludeFile("text", encoding="latin-1", default="latin.txt")
raw = IncludeFile("raw", is_text=False, required=True)
big = IncludeFile("big", is_text=False)
utf8 = IncludeFile("utf8")
"""
    (tmp_path / "big.bin").write_bytes(b"x" * 3_000_000)
    script = flow(
        flow_source(LINEAR, members=members, end="self.sizes = [len(self.text), len(self.raw), len(self.big)]")
    )
    script("run", "--raw", "raw.bin", "--big", "big.bin")
    data = script.client().data
    assert (data.text, data.raw, data.sizes) == ("Größe\r\n", bytes(range(256)), [7, 256, 3_000_000])
    assert data.utf8 is None
    assert "utf-8" in script("run", "--raw", "raw.bin", "--utf8", "raw.bin", expect=2).stderr
    assert "nowhere" in script("run", "--raw", "nowhere", expect=2).stderr


FIXED = ["self.n = 2", "self.PI = 4", "self.start = 1", "setattr(self, 'n', 1)", "setattr(self, 'input', 1)"]


@pytest.mark.parametrize("assignment", FIXED)
def test_parameters_and_constants_cannot_be_assigned(assignment, flow):
    """Assigning a parameter, a constant, a step or what every flow has is an AttributeError that says so."""
    script = flow(flow_source(LINEAR, members=PARAMETERS, start=assignment))
    script("run", expect=1)
    assert failure(script).type == "AttributeError"
    assert "can't be assigned" in failure(script).message


def test_resume_takes_no_parameter(flow):
    """A resumed run keeps its origin's parameters: giving one is wrong usage, with the reason."""
    script = flow(flow_source(LINEAR, members=PARAMETERS, end=MEND))
    script("run", "--n", 5, expect=1)
    told = script("resume", "--n", 6, expect=2)
    assert "keeps its origin's parameters" in told.stderr
    assert script.sql("select count(*) from runs") == [1]
    (script.folder / "mended").touch()
    script("resume", FLOWSTORE_RUN_N="7")
    assert (script.client(2).data.n, script.client(2).parameters["n"]) == (5, 5)


# --- tags, ids, current


def test_tags_of_a_run(flow):
    """`--tag` and $FLOWSTORE_RUN_TAGS add user tags; the system's come by themselves."""
    script = flow(flow_source(LINEAR, start="self.tags = sorted(current.tags)"))
    script("run", "--tag", "a", "--tag", "größe b", FLOWSTORE_RUN_TAGS="c, d,,a")
    run = script.client()
    assert run.user_tags == {"a", "größe b", "c", "d"}
    assert run["start"].task.data.tags == sorted(run.tags)
    heads = {tag.partition(":")[0] for tag in run.system_tags}
    assert heads == {"user", "runtime", "date", "python_version", "flowstore_version"}
    assert [run.id for run in Flow("F").runs("a", "d")] == ["1"]
    assert list(Flow("F").runs("a", "e")) == []


@pytest.mark.parametrize("tag", ["", "user:anne", "production:x", "x" * 501])
def test_a_bad_tag_stops_the_run_before_it_begins(tag, flow):
    """A tag that can't be is one message, and no run."""
    script = flow(flow_source(LINEAR))
    script("run", "--tag", "good", "--tag", tag, expect=1)
    assert not script.db.exists() or script.sql("select count(*) from runs") == [0]


def test_run_id_file(flow, tmp_path):
    """The run id file holds the bare id before the first task starts."""
    script = flow(flow_source(LINEAR, start="self.id = Path('id').read_bytes()"))
    script("run", "--run-id-file", "id")
    assert script.client().data.id == (tmp_path / "id").read_bytes() == b"1"
    script("resume", "end", "--run-id-file", "id")
    assert (tmp_path / "id").read_text() == "2"


CURRENT = """
names = ("flow_name", "run_id", "origin_run_id", "step_name", "task_id", "pathspec", "namespace", "username",
         "retry_count", "is_running_flow", "project_name", "parallel")
self.seen = {name: getattr(current, name) for name in names}
self.also = [current.run.pathspec, current.task.pathspec, current.parameters.n, current.parameters["n"],
             current.get("run_id"), current.get("nope", 4), "run_id" in current, "nope" in current]
"""


def test_current_in_a_task(flow):
    """`current` says where a task is, in a plain run and in a resumed one; outside a task it is empty."""
    script = flow(flow_source(LINEAR, members=PARAMETERS, end=CURRENT))
    script("run")
    script("resume", "end", "--namespace", "user:anne")
    common = {
        "flow_name": "F", "step_name": "end", "username": "tester", "retry_count": 0, "is_running_flow": True,
        "project_name": None, "parallel": None,
    }  # fmt: skip
    first, second = script.client(1).data, script.client(2).data
    assert first.seen == {
        **common, "run_id": "1", "origin_run_id": None, "task_id": "2", "pathspec": "F/1/end/2",
        "namespace": "user:tester",
    }  # fmt: skip
    assert second.seen == {
        **common, "run_id": "2", "origin_run_id": "1", "task_id": "4", "pathspec": "F/2/end/4",
        "namespace": "user:anne",
    }  # fmt: skip
    assert first.also == ["F/1", "F/1/end/2", 1, 1, "1", 4, True, False]
    assert (flowstore.current.run_id, flowstore.current.is_running_flow) == (None, False)


# --- merging


def test_merge_artifacts(flow):
    """What branches agree on is carried over; what they don't is named; include and exclude choose."""
    merges = """
def told(call):
    try: call()
    except Exception as error: return str(error)
"""
    script = flow(
        flow_source(
            {
                "start": "self.next(self.left, self.right)",
                "left": "self.next(self.join)",
                "right": "self.next(self.join)",
                "join": "self.next(self.end)",
                "end": "",
            },
            head=merges,
            members="n = Parameter('n', default=1)",
            start="self.same = [1]; self.large = b'x' * 100_000; self.left_out = 1; self.own = 'start'",
            left="self.differs = 'left'; self.only_left = 'l'; self.same = [1]",
            right="self.differs = 'right'; self.own = 'right'",
            join="""
self.message = told(lambda: self.merge_artifacts(inputs, exclude=["left_out"]))
self.missing = told(lambda: self.merge_artifacts(inputs, include=["nothing"]))
self.both = told(lambda: self.merge_artifacts(inputs, include=["same"], exclude=["own"]))
self.own = "join"
self.merge_artifacts(inputs, exclude=["left_out", "differs"])
""",
            end="self.late = told(lambda: self.merge_artifacts([]))",
        )
    )
    script("run")
    data = script.client().data
    assert "differs, own" in data.message
    assert "nothing" in data.missing
    assert "not both" in data.both
    assert "join" in data.late
    assert (data.same, len(data.large), data.own, data.only_left, data.n) == ([1], 100_000, "join", "l", 1)
    assert ("left_out" in data, "differs" in data) == (False, False)
    assert script.sql("select count(*) from artifact_values where name = 'large'") == [1]
    stored = script.sql("select name from artifact_values where step = 'join' order by name")
    assert stored == ["both", "message", "missing", "own"]


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
    assert failure(late).type == "TimeoutExpired"
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
