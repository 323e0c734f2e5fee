"""Tasks that die, hang, flood, or break what is around them: the run goes on as retry and catch say, and tells why."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from support.cli import stop
from support.flows import FOREACH, LINEAR, MIDDLE, flow_source
from support.processes import alive, skip_without_room, wait_for

pytestmark = pytest.mark.fresh

# What a step does, and what is told of it; `None` where the step succeeds all the same.
DEADLY = {
    "killed, as by the out-of-memory killer": (
        "os.kill(os.getpid(), signal.SIGKILL)",
        "killed by SIGKILL, killed (out of memory, perhaps). The last it printed:\n  last words\n  no end",
    ),
    "out of its own memory": (
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 40)",
        "MemoryError",
    ),
    "segfault": (
        "__import__('ctypes').string_at(0)",
        "killed by SIGSEGV, segmentation fault. The last it printed:\n  last words\n  no end",
    ),
    "exit": ("os._exit(7)", "exited with code 7 before the step had finished. The last it printed:\n  last words"),
    "closes everything": ("os.closerange(0, 1000)", "its connection to the driver was closed"),
    "closes all but its streams": ("os.closerange(3, 1000)", "its connection to the driver was closed"),
    "writes to every socket": ("scribble()", "wrote to the connection that flowstore uses"),
}
HARMLESS = {
    "goes elsewhere": "os.chdir('/')",
    "forbids everything": "os.umask(0o777)",
    "removes its temporary folder": "shutil.rmtree(os.environ['TMPDIR'])",
    "leaves children": "leave_children()",
    "ignores signals": "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]",
}
HEAD = """
import contextlib
import shutil
import stat
import subprocess

def scribble():
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, b"no message of flowstore's" * 10)
    time.sleep(60)

FOLDER = Path.cwd()  # a reused process may be elsewhere by the time that it leaves children, and forbid everything
children = []

def leave_children():
    children[:] = [subprocess.Popen(["sleep", "300"]), subprocess.Popen(["sleep", "300"], start_new_session=True)]
    (FOLDER / "children").write_text(" ".join(str(child.pid) for child in children))
    (FOLDER / "children").chmod(0o644)
"""
BODY = """
@retry(times=1, minutes_between_retries=0)
@catch(var="problem", print_exception=False)
print("last words")
print("no end", end="", flush=True)
{actions}
self.big = b"x" * 100_000
"""


def bad_flow(actions):
    """A flow with a task for each action, whose join collects what was caught."""
    return flow_source(
        FOREACH,
        head=HEAD,
        start=f"self.actions = {list(actions)!r}\nself.xs = range(len(self.actions))",
        body=BODY.format(actions="exec(self.actions[self.index])"),
        join="self.problems = [i.problem and f'{i.problem.type}: {i.problem.message}' for i in inputs]",
        end="self.where = os.getcwd(); self.mask = os.umask(0o22)",
    )


METHODS = {
    "fork": ([], [*DEADLY], [*HARMLESS]),
    "reused": (["--reuse-workers"], [*DEADLY], [*HARMLESS]),
    "spawn": (
        ["--start-method", "spawn", "--reuse-workers"],
        ["segfault", "closes everything", "writes to every socket"],
        ["removes its temporary folder"],
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_bad_tasks_harm_nobody_else(method, flow, tmp_path):
    """However a task dies, it is tried again and caught, with what happened; whatever else it does, all goes on."""
    options, deadly, harmless = METHODS[method]
    script = flow(bad_flow([*(DEADLY[name][0] for name in deadly), *(HARMLESS[name] for name in harmless)]))
    (tmp_path / "temporary").mkdir()
    result = script("run", "--max-workers", 4, *options, TMPDIR=str(tmp_path / "temporary"))
    assert result.stdout.count("Traceback") == ("out of its own memory" in deadly)  # the one that is an exception
    data = script.client().data
    for name, problem in zip([*deadly, *harmless], data.problems, strict=True):
        assert (problem is None) == (name in harmless), (name, problem)
        assert name in harmless or DEADLY[name][1] in problem, (name, problem)
    assert (data.where, data.mask) != ("/", 0o777)
    assert dict(script.sql("select attempts, count(*) from task_summary where step = 'body' group by 1")) == {
        3: sum(name != "out of its own memory" for name in deadly),
        **({2: 1} if "out of its own memory" in deadly else {}),
        1: len(harmless),
    }
    assert len(re.findall(r"Task failed\. It will be tried again", result.stdout)) == len(deadly)
    for pid in map(int, (tmp_path / "children").read_text().split() if "leaves children" in harmless else []):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


HANGS = {
    "deaf": "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGALRM)]\nwhile True: time.sleep(60)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "floods": "while True: print('x' * 1000)",
    "swallows": "while True:\n    try: time.sleep(60)\n    except BaseException: pass",
}


def test_tasks_that_never_end(flow):
    """A timeout ends what ignores its signals, is stopped, prints without end, or catches what is raised in it."""
    body = "\n".join(f"if self.index == {n}:\n{_indented(action)}" for n, action in enumerate(HANGS.values()))
    script = flow(
        flow_source(
            FOREACH,
            head="from flowstore.run import driver\ndriver.KILL_GRACE_S = 1.0",
            start=f"self.xs = range({len(HANGS)})",
            body=f"@timeout(seconds=0.5)\n@catch(var='problem', print_exception=False)\n{body}",
            join="self.problems = [i.problem.message for i in inputs]",
        )
    )
    said = script("run", "--max-workers", 4, timeout=100).stdout
    assert "result is kept" not in said
    assert ["longer than its timeout of 0.5 s" in problem for problem in script.client().data.problems] == [True] * 4


def _indented(text):
    return "\n".join(f"    {line}" for line in text.splitlines())


REFUSALS = """
import errno

calls = []

def refusing(start):
    def started(*args, **options):
        calls.append(start)
        if len(calls) in {REFUSED}:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*args, **options)
    return started

"""
# What starts a process, and which of its calls are refused so that each of the first attempts finds none: a fork for
# the next one precedes it, and before all attempts comes the task server, or the guard of spawned processes.
STARTS = {
    "fork": (REFUSALS + "os.fork = refusing(os.fork)", [(2, 3), (3, 4), (5, 6)]),
    "spawn": (REFUSALS + "import subprocess; subprocess.Popen = refusing(subprocess.Popen)", [(2,), (3,), (4,)]),
}


@pytest.mark.parametrize("method", STARTS)
def test_a_process_that_the_system_refuses(method, flow):
    """Where there can be no more processes, that fails the attempt: it is tried again, caught, or ends the run."""
    head, calls = STARTS[method]

    def source(*refused):
        body = "@retry(times=1, minutes_between_retries=0)\n@catch(var='problem')\nself.attempt = current.retry_count"
        numbers = {number for attempt in refused for number in calls[attempt]}
        return flow_source(MIDDLE, head=head.replace("{REFUSED}", str(numbers)), middle=body)

    run = ("run", "--start-method", method)
    script = flow(source(1))
    assert "(no process)] Task failed. It will be tried again (attempt 2 of 2)." in script(*run).stdout
    assert script.client().data.attempt == 1
    assert script.client()["middle"].task.metadata_dict["pid"]

    script.rewrite(source(1, 2))
    script(*run)
    problem = script.client(2).data.problem
    assert problem.type == "TaskDied"
    assert re.search(r"could not be started \(EAGAIN: .+\).*--max-workers", problem.message)

    script.rewrite(source(0))
    result = script(*run, expect=1)
    assert "could not be started" in result.stdout
    assert "failed in start/" in result.stderr
    script.rewrite(source())
    script("resume", "--start-method", method)


KILL_SIBLING = """
def siblings():
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getppid() and int(entry.name) != os.getpid():
                yield int(entry.name)

def kill_sibling():
    while not (found := [*siblings()]):
        time.sleep(0.01)
    os.kill(found[0], signal.SIGKILL)
    time.sleep(0.2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_that_waits_for_the_next_task_dies(flow):
    """Another takes its place, and no attempt is lost."""
    script = flow(flow_source(MIDDLE, head="import contextlib\n" + KILL_SIBLING, start="kill_sibling()"))
    script("run", "--max-workers", "1")
    assert script.sql("select status, attempts from task_summary") == [("successful", 1)] * 3


def test_a_run_that_is_flooded_can_be_stopped(flow):
    """Ctrl-C is heard while a task prints as fast as it can; what it printed until then is kept."""
    script = flow(flow_source(LINEAR, start="while True: print('x' * 1000)"))
    with script.start("run", "--quiet") as process:
        os.set_blocking(process.stdout.fileno(), True)
        process.stdout.read(100_000)
        result = stop(process)
    assert result.code == 130
    run = script.client()
    assert run.status == "stopped"
    assert len(run["start"].task.stdout) > 50_000


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.long
def test_a_task_returns_five_gigabytes(method, flow):
    """An artifact of 5 GB is stored, and passed on by its hash; the driver needs no more memory than ever."""
    skip_without_room(memory=12e9, disk=16e9)
    script = flow(
        flow_source(
            LINEAR,
            start="self.huge = b'0123456789abcdef' * 312_500_000",
            end="self.size = len(self.huge)\nself.peak = max(int(line.split()[1]) for line in open("
            "f'/proc/{os.getppid()}/status') if line.startswith('VmHWM'))",
        )
    )
    with script.start("run", "--quiet", "--start-method", method) as process:
        status = Path(f"/proc/{process.pid}/status")
        peak = 0

        def over():
            nonlocal peak
            found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
            peak = max(peak, int(found[1]) if found else 0)
            return process.poll() is not None

        wait_for(over, 1000)
        assert process.returncode == 0, process.stderr.read()
    assert script.client().data.size == 5_000_000_000
    print(f"{method}: 5 GB stored and read; the driver took {peak / 1e3:.0f} MB")
    assert peak < 400_000
