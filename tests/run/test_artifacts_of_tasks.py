"""What a task sets, changes and deletes is what the next one sees; joins merge it; nothing else is shared."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flowstore import NotFound, Task
from support.cli import failure
from support.flows import FOREACH, LINEAR, MIDDLE, every_method, flow_source

# --- artifacts


def test_what_cannot_be_pickled_is_named(flow):
    """An artifact that can't be stored fails the task, naming the artifact; the others are kept."""
    script = flow(flow_source(LINEAR, start="self.good = 1; self.lock = __import__('threading').Lock()"))
    script("run", expect=1)
    assert "'lock'" in failure(script).message
    task = script.client()["start"].task
    assert (task.data.good, "lock" in task) == (1, False)


def test_an_open_file_is_no_artifact(flow):
    """Nobody could go on reading it; the streams of the process are what they are in the process that reads them."""
    script = flow(flow_source(LINEAR, start="self.out = [sys.stdout]", end="self.log = {'file': open(__file__)}"))
    assert "'log' of step end cannot be stored: It holds an open file." in script("run", expect=1).stdout
    assert script.client()["start"].task.successful


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


SMALL_AND_LARGE = {
    "start": """
self.gone, self.listed, self.read, self.grows, self.shrinks = 1, [1], {"a": (1, 2)}, "small", b"x" * 100_000
for n in range(9):
    setattr(self, f"many_{n}", str(n) * 900)
self.next(self.a, self.b)
""",
    "a": """
del self.gone
self.listed.append(self.read["a"][0])
self.grows, self.shrinks = "x" * 9000, b"y"
self.next(self.a_again)
""",
    "a_again": """
assert not hasattr(self, "gone")
assert (self.listed, self.read, self.grows, self.shrinks) == ([1, 1], {"a": (1, 2)}, "x" * 9000, b"y")
self.grows = "small again"
self.next(self.join)
""",
    "b": """
assert (self.gone, self.listed, self.grows, self.shrinks) == (1, [1], "small", b"x" * 100_000)
self.gone = "back"
self.next(self.join)
""",
    "join": """
one, other = inputs
assert (one.grows, one.shrinks, other.grows, other.gone) == ("small again", b"y", "small", "back")
self.listed, self.grows, self.shrinks, self.gone = one.listed, one.grows, one.shrinks, other.gone
self.merge_artifacts(inputs)
self.next(self.end)
""",
    "end": """
assert (self.listed, self.read, self.gone) == ([1, 1], {"a": (1, 2)}, "back")
assert (self.grows, self.shrinks) == ("small again", b"y")
assert [getattr(self, f"many_{n}") for n in range(9)] == [str(n) * 900 for n in range(9)]
""",
}


@every_method
def test_artifacts_are_seen_as_they_were_set_whatever_their_size(flow, options):
    """Small ones travel with the order and large ones do not: both are changed, deleted and set again on the way."""
    script = flow(flow_source(SMALL_AND_LARGE))
    script("run", *options)
    changed = "select name from artifact_values where step = ? order by name"
    assert script.sql(changed, "a") == ["grows", "listed", "shrinks"]  # not what it only read
    assert script.sql(changed, "a_again") == ["grows"]
    script("resume", "a_again", *options)
    assert script.client(2).successful


@pytest.mark.parametrize("bound", [0, 2000, 6000])
def test_artifacts_that_the_driver_has_forgotten(bound, flow):
    """Where small artifacts are too many to be remembered, tasks read them from the store, and find the same."""
    head = f"from flowstore.run import order_writer\norder_writer._HELD_BYTES = {bound}"
    script = flow(flow_source(SMALL_AND_LARGE, head=head))
    script("run")
    assert script.client().successful


def test_what_cannot_be_loaded_is_named_at_any_size(flow):
    """The message names the artifact, whether its bytes came with the order or from the store."""
    head = """
class Sly:
    def __init__(self, more): self.more = more
    def __setstate__(self, state): raise RuntimeError("sly")
"""
    for size in (1, 100_000):
        script = flow(flow_source(LINEAR, head=head, start=f"self.sly = Sly('x' * {size})", end="self.sly"))
        script("run", expect=1)
        assert "sly: " in failure(script, run_id=script.sql("select max(id) from runs")[0]).message


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


# --- isolation


@pytest.mark.untraced
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


def test_inputs_come_from_the_own_store_of_a_task(flow):
    """A step that looks into another store still reads its own artifacts, not those of that store's tasks."""
    middle = """
    if os.environ["VALUE"] == "mine": use_store("other.db")
    self.read = self.value, self.large[:5]
    """
    start = "self.value, self.large = os.environ['VALUE'], os.environ['VALUE'] * 30_000"
    script = flow(flow_source(MIDDLE, start=start, middle=middle))
    script("run", "--store", "other.db", VALUE="other")
    script("run", VALUE="mine")
    assert script.client()["middle"].task.data.read == ("mine", "minem")
