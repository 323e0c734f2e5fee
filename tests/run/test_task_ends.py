"""How a task's process ends: as a script does."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from support.cli import stop
from support.flows import FOREACH, LINEAR, METHODS, every_method, flow_source
from support.processes import wait_for

pytestmark = pytest.mark.fresh

LEFT = {  # what a step leaves: what stands at the top of the file, the step's body, and the lines of `out.txt` then
    "a file of the import": ("OUT = open('out.txt', 'a')", "OUT.write('task\\n')", ["task"]),
    "what the import wrote, too": (
        "OUT = open('out.txt', 'a'); OUT.write('import\\n')",
        "OUT.write('task\\n')",
        ["import", "task"],
    ),
    "a binary file": ("OUT = open('out.txt', 'ab')", "OUT.write(b'task\\n')", ["task"]),
    "a file of the task": ("OUT = []", "OUT.append(open('out.txt', 'a')); OUT[0].write('task\\n')", ["task"]),
    "a file in a cycle": (
        "class Box: pass",
        "box = Box(); box.box = box; box.file = open('out.txt', 'a'); box.file.write('task\\n')",
        ["task"],
    ),
    "another stream of stdout": ("OUT = []", "OUT.append(open(1, 'w', closefd=False)); OUT[0].write('told\\n')", []),
    "a thread": (
        "import threading",
        (
            "def late():\n    time.sleep(0.3)\n    with open('out.txt', 'a') as file: file.write('task\\n')\n"
            "threading.Thread(target=late).start()"
        ),
        ["task"],
    ),
    "work in an executor": (
        (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "def late():\n    time.sleep(0.1)\n    with open('out.txt', 'a') as file: file.write('task\\n')"
        ),
        "pool = ThreadPoolExecutor(1)\nfor _ in range(3): pool.submit(late)",
        ["task"] * 3,
    ),
    "work in an executor of processes": (
        (
            "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\n"
            "def late():\n    with open('out.txt', 'a') as file: file.write('task\\n')"
        ),
        "pool = ProcessPoolExecutor(1, multiprocessing.get_context('fork'))\npool.submit(late)",
        ["task"],
    ),
    "an atexit hook": (
        "import atexit\ndef late():\n    with open('out.txt', 'a') as file: file.write('task\\n')",
        "atexit.register(late)",
        ["task"],
    ),
    "a log file": (
        "import logging\nlogging.basicConfig(filename='out.txt', format='%(message)s')",
        "logging.warning('task')",
        ["task"],
    ),
    "a MemoryHandler": (
        (
            "import logging.handlers\n"
            "memory = logging.handlers.MemoryHandler(99, target=logging.FileHandler('out.txt'))\n"
            "logging.getLogger().addHandler(memory)\nlogging.warning('import')"
        ),
        "logging.warning('task')",
        ["import", "task"],
    ),
    "a MemoryHandler of the task": (
        "import logging.handlers",
        (
            "memory = logging.handlers.MemoryHandler(99, target=logging.FileHandler('out.txt'))\n"
            "logging.getLogger().addHandler(memory)\nlogging.warning('task')"
        ),
        ["task"],
    ),
    "a finalizer": (
        (
            "import weakref\nclass Box: pass\nBOX = Box()\n"
            "def late():\n    with open('out.txt', 'a') as file: file.write('task\\n')"
        ),
        "weakref.finalize(BOX, late)",
        ["task"],
    ),
}


@pytest.mark.fresh  # what a command imports after the flow must not hide the flow's files
@pytest.mark.parametrize("options", [METHODS["fork"], METHODS["spawn"], METHODS["reused fork"]], ids=str)
@pytest.mark.parametrize(("head", "start", "lines"), LEFT.values(), ids=LEFT)
@pytest.mark.quick(
    "a file of the import-('--start-method', 'fork')",
    "a binary file-('--start-method', 'fork')",
    "work in an executor-('--start-method', 'fork')",
    "a thread-('--start-method', 'spawn')",
    "a file of the task-('--reuse-workers',)",
)
def test_what_a_step_leaves_is_finished(head, start, lines, options, flow, tmp_path):
    """What a script's end would write is written when the task has ended, once, and before the next task starts."""
    there = "self.there = Path('out.txt').read_text() if Path('out.txt').exists() else ''"
    script = flow(flow_source(LINEAR, head=head, start=start, end=there))
    script("run", *options, PYTHONWARNINGS="default")
    run = script.client()
    spawned = "spawn" in options
    found = (tmp_path / "out.txt").read_text().splitlines() if lines else []
    assert [line for line in found if line != "import"] == [line for line in lines if line != "import"]
    assert found.count("import") == lines.count("import") * (3 if spawned else 1)  # each process imports the flow
    if options != METHODS["reused fork"]:
        assert run.data.there.count("task") == lines.count("task")
    assert run["start"].task.stdout == ("told\n" if not lines else "")


@every_method
@pytest.mark.quick("fork", "reused spawn")
def test_compressed_files_are_ended(options, flow, tmp_path):
    """A compressed file that a step leaves open is whole."""
    script = flow(
        flow_source(
            LINEAR, head="import gzip\nOUT = []", start="OUT.append(gzip.open('x.gz', 'wt')); OUT[0].write('all')"
        )
    )
    script("run", *options)
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()) == b"all"


@every_method
def test_temporary_folders_of_a_task(options, flow):
    """A `TemporaryDirectory` that a step leaves in a global is gone when the run has ended."""
    source = flow_source(
        LINEAR,
        head="from tempfile import TemporaryDirectory\nHELD = []",
        start="HELD.append(TemporaryDirectory()); self.folder = HELD[0].name; self.there = Path(self.folder).exists()",
    )
    script = flow(source)
    script("run", *options, PYTHONWARNINGS="default")
    data = script.client().data
    assert data.there
    assert not Path(data.folder).exists()


@pytest.mark.parametrize("options", [METHODS["fork"], METHODS["reused fork"]], ids=str)
def test_temporary_folders_of_the_import(options, flow, tmp_path):
    """A `TemporaryDirectory` of the import outlives all tasks, even one that drops it, and goes with the run."""
    script = flow(
        flow_source(
            FOREACH,
            head="from tempfile import TemporaryDirectory\nHELD = TemporaryDirectory(dir='.')\nNAME = HELD.name\n"
            "import atexit\natexit.register(lambda: open('ended', 'a').write('x'))",
            start="self.xs = range(3)",
            body="global HELD\nHELD = None\nPath(NAME, str(self.index)).touch()",
            join="self.names = sorted(os.listdir(NAME)); self.folder = os.path.abspath(NAME)",
        )
    )
    script("run", *options, PYTHONWARNINGS="default")
    data = script.client().data
    assert data.names == ["0", "1", "2"]
    assert not Path(data.folder).exists()
    assert (tmp_path / "ended").read_text() == "x"  # a hook of the import runs once


@every_method
def test_what_the_end_prints_is_in_the_log(options, flow):
    """Hooks print into their task's log, tracebacks too, and the task stays successful."""
    start = """
import atexit
atexit.register(lambda: 1 / 0)
atexit.register(print, "good bye")
print("step")
"""
    script = flow(flow_source(LINEAR, start=start))
    script("run", *options)
    task = script.client()["start"].task
    assert task.status == "successful"
    assert task.stdout == "step\ngood bye\n"
    assert "ZeroDivisionError" in task.stderr


def test_what_c_prints_is_in_the_log(flow):
    """What a library written in C has printed is flushed at the end of a task."""
    script = flow(flow_source(LINEAR, start="import ctypes; ctypes.CDLL(None).printf(b'from C\\n')"))
    script("run")
    assert script.client()["start"].task.stdout == "from C\n"


HELD = {  # what the import does with Python's output stream, and what a step then writes to
    "the stream": ("import sys; OUT = sys.stdout", "OUT.write('held')"),
    "its buffer": ("import sys; OUT = sys.stdout.buffer", "OUT.write(b'held')"),
    "one that it replaced": (
        "import io, sys; OUT = sys.stdout; sys.stdout = sys.__stdout__ = io.StringIO()",
        "OUT.write('held')",
    ),
}


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(("head", "start"), HELD.values(), ids=HELD)
@every_method
@pytest.mark.quick(
    "fork-the stream-buffered",
    "spawn-its buffer-unbuffered",
    "reused fork-one that it replaced-buffered",
    "reused spawn-the stream-unbuffered",
)
def test_a_stream_that_the_import_holds(options, head, start, unbuffered, flow):
    """What a step writes to an output stream that the import has kept is in its log."""
    script = flow(flow_source(LINEAR, head=head, start=start))
    script("run", *options, PYTHONUNBUFFERED=unbuffered)
    assert script.client()["start"].task.stdout == "held"


HANGING = """
import threading
threading.Thread(target=threading.Event().wait, name="for ever").start()
self.x = 1
"""


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_an_end_that_hangs(options, flow):
    """A process that does not end is killed after 10 s, with a warning in its task's log; the result is kept."""
    script = flow(flow_source(LINEAR, start=HANGING, end="self.y = self.x"))
    result = script("run", *options)
    run = script.client()
    assert run.data.y == 1
    assert "was killed: 10 s after" in run["start"].task.stderr
    assert "was killed: 10 s after" in result.stdout


@pytest.mark.parametrize(("last", "told"), [("os._exit(3)", "code 3"), ("os.abort()", "SIGABRT"), ("os._exit(0)", "")])
def test_an_end_that_crashes(last, told, flow):
    """A process that dies while it ends costs nothing but a warning."""
    script = flow(
        flow_source(LINEAR, start=f"import atexit\natexit.register(lambda: {last})\nself.x = 1", end="self.y = self.x")
    )
    script("run", PYTHONFAULTHANDLER="")
    run = script.client()
    assert run.data.y == 1
    assert told in run["start"].task.stderr
    assert bool(told) == bool(run["start"].task.stderr)


def test_the_result_is_kept_before_the_end(flow):
    """A result is in the store while its process is still ending, and what follows waits."""
    script = flow(flow_source(LINEAR, start=HANGING))
    with script.start("run") as process:
        wait_for(
            lambda: (
                script.db.exists()
                and script.sql("select status from task_summary where step = 'start'") == ["successful"]
            )
        )
        assert script.sql("select step from task_summary") == ["start"]
        stop(process)
    assert script.client()["start"].task.successful
    script("resume")
    assert script.sql("select count(*) from task_summary where origin_pathspec is not null") == [1]


def test_an_attempt_ends_before_the_next(flow):
    """A retry starts when the process of the failed attempt has ended."""
    start = """
@retry(times=1, minutes_between_retries=0)
import threading
def late():
    time.sleep(0.5)
    Path("ended").touch()
if current.retry_count == 0:
    threading.Thread(target=late).start()
    raise RuntimeError("once")
self.ended = Path("ended").exists()
"""
    script = flow(flow_source(LINEAR, start=start))
    script("run")
    assert script.client().data.ended


def test_a_fork_of_a_step_ends_like_a_script(flow, tmp_path):
    """A process that a step forks, and that ends with the step's body, writes what it has in its buffers."""
    start = """
out = open("out.txt", "a")
child = os.fork()
if child == 0:
    HELD.append(out)
    out.write("child")
    sys.exit(0)
os.waitpid(child, 0)
"""
    script = flow(flow_source(LINEAR, head="HELD = []", start=start))
    script("run")
    assert (tmp_path / "out.txt").read_text() == "child"


def test_child_processes_of_the_import(flow):
    """A manager that the import has started serves all tasks; none of them ends it."""
    head = """
import multiprocessing
if __name__ == "__main__":
    manager = multiprocessing.get_context("fork").Manager()
    shared = manager.list()
"""
    source = flow_source(
        FOREACH,
        head=head,
        start="self.xs = range(5)",
        body="shared.append(self.index)",
        join="self.all = sorted(shared)",
    )
    script = flow(source)
    script("run")
    assert script.client().data.all == [0, 1, 2, 3, 4]
