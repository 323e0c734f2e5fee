"""Processes that are killed at a chosen moment, and what has to hold afterwards, whichever moment it was.

A `sitecustomize` in a folder of the test counts the moments at which a process is about to change, or has just
changed, what others see: around its transactions, its switches of the journal, and its links and renames. The
n-th of them kills it, so that trying n = 1, 2, … until it survives tries them all. What it starts is not counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import attrs

import flowstore
from flowstore import context
from flowstore.maintenance import check
from flowstore.store.opening import open_store
from support.cli import Script
from support.flows import FOREACH, MIDDLE, flow_source
from support.processes import wait_for

HOOK = """\
import os, signal, sqlite3

at, log, me, count = int(os.environ.pop("KILL_AT")), os.environ.pop("KILL_LOG"), os.getpid(), 0
STATEMENTS = ("begin immediate", "commit", "vacuum", "pragma journal_mode = ", "pragma wal_checkpoint")
connect = sqlite3.connect

def moment(what):
    global count
    if os.getpid() != me:
        return
    count += 1
    if count == at:
        with open(log, "w") as file:
            file.write(what)
        os.kill(me, signal.SIGKILL)

def around(what, call, *args, **options):
    moment(f"before {what}")
    result = call(*args, **options)
    moment(f"after {what}")
    return result

class Connection(sqlite3.Connection):
    def execute(self, sql, *args):
        for statement in STATEMENTS:
            if sql.startswith(statement):
                return around(sql, super().execute, sql, *args)
        return super().execute(sql, *args)

    def executescript(self, sql):
        return around(sql[:40], super().executescript, sql)

    def close(self):
        return around("close", super().close)

sqlite3.connect = lambda *args, **options: connect(*args, **{"factory": Connection, **options})

def watched(name):
    call = getattr(os, name)
    setattr(os, name, lambda *args, **options: around(name, call, *args, **options))

for name in ("link", "rename", "replace", "unlink", "mkdir", "rmdir"):
    watched(name)
"""
ACKNOWLEDGED = re.compile(r"\[(\d+)/(\w+)/(\d+) \(pid \d+\)\] Task finished successfully")

NOTE = """
key = f"{current.step_name}.{self.index}.{getattr(self, 'turn', 0)}"
with open("executed", "a") as log:
    print(current.run_id, current.task_id, key, file=log)
self.first = key
"""
LAST = "self.last = key\n"


# A result waits for its process to end, so that what follows is in the same transaction, but not for long. Here it
# waits however slow the machine or a tracer is, so that `HALF_VISIBLE` holds at each moment.
PATIENT = "import flowstore.run.driver\nflowstore.run.driver._REPORT_S = 30.0"


def _flow(tails, *, marks="", marked="", **bodies):
    """A flow each task of which sets something first and something last; `marks` decorate the step `marked`."""
    bodies = {name: NOTE + bodies.get(name, "") + "\n" + LAST for name in tails}
    if marked:
        bodies[marked] = f"{marks}\n{bodies[marked]}"
    return flow_source(tails, head=PATIENT, **bodies)


WIDE = {"start": "self.xs = [1, 2, 3]", "body": "self.y = self.input * 10", "join": "self.r = sum(i.y for i in inputs)"}
LARGE_BYTES = 17 << 20  # more than one batch of `Staging`, and many chunks


@attrs.frozen
class Work:
    """A flow whose runs are killed.

    Attributes:
        source: its text.
        result: what its end task's `r` has to be.
        options: of `run` and `resume`.
        resumed: whether the run that is killed resumes an earlier one.
        moments: at least how many there are at which it can be killed.
    """

    source: str
    result: object
    options: tuple[str, ...] = ()
    resumed: bool = False
    moments: int = 45


WORKS = {
    "linear": Work(_flow(MIDDLE, start="self.x = 1", middle="self.r = (self.x, 2)"), (1, 2)),
    "foreach": Work(_flow(FOREACH, **WIDE), 60),
    "large": Work(
        _flow(
            MIDDLE,
            start=f"self.big = bytes(range(256)) * {LARGE_BYTES // 256}\nself.less = [0.5] * 400_000",
            middle="self.big2 = self.big[::-1]",
            end="self.r = len(self.big) + len(self.less), self.big2[:3]",
        ),
        (LARGE_BYTES + 400_000, b"\xff\xfe\xfd"),
    ),
    "retry": Work(
        _flow(
            FOREACH,
            marks="@catch(var='problem', print_exception=False)\n@retry(times=1, minutes_between_retries=0)",
            marked="body",
            start=WIDE["start"],
            body="if self.input == 2 or (self.input == 1 and current.retry_count == 0): raise ValueError(self.input)",
            join="self.r = [i.problem is not None for i in inputs]",
        ),
        [False, True, False],
    ),
    "switch": Work(
        _flow(
            {
                "start": "self.next(self.turns)",
                "turns": "self.next({'on': self.turns, 'off': self.end}, condition='state')",
                "end": "",
            },
            start="self.turn = 0",
            turns="self.turn += 1\nself.state = 'on' if self.turn < 3 else 'off'",
            end="self.r = self.turn",
        ),
        3,
    ),
    "resume": Work(
        _flow(FOREACH, **{**WIDE, "join": WIDE["join"] + "\nassert Path('mended').exists()"}),
        60,
        resumed=True,
        moments=23,
    ),
    "reuse": Work(_flow(FOREACH, **WIDE), 60, ("--reuse-workers",)),
    "spawn": Work(_flow(FOREACH, **WIDE), 60, ("--start-method", "spawn")),
}
WORKERS = ("--max-workers", "8")  # whatever is ready starts at once, so what follows from a task is seen with its end


@attrs.frozen
class Killed:
    """A process that was told to die at a moment.

    Attributes:
        moment: at which it died; `None`: it came to its end before.
        code, stdout, stderr: how it ended, and what it had said.
    """

    moment: str | None
    code: int
    stdout: str
    stderr: str

    @property
    def acknowledged(self):
        """The tasks that were said to have finished."""
        return {int(task_id) for _, _, task_id in ACKNOWLEDGED.findall(self.stdout)}


def hooked(folder, at, log):
    """The environment in which a process dies at its moment number `at`."""
    hook = folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(f'import os\nif "KILL_AT" in os.environ:\n{_indented(HOOK)}')
    path = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "KILL_AT": str(at), "KILL_LOG": str(log)}


def _indented(text):
    return "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))


def killed_at(folder, at, *command, cwd=None):
    """Run a Python command that dies at its moment number `at`, and wait until nothing of it is left."""
    cwd = cwd or folder
    log = folder / "moment"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=hooked(folder, at, log), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: not processes_in(cwd))
    moment = log.read_text() if log.exists() else None
    assert moment is None or done.returncode == -signal.SIGKILL, (moment, done)
    return Killed(moment, done.returncode, done.stdout, done.stderr)


def killed_after(folder, seconds, *command):
    """Run a Python command and kill it after a time, if it has not come to its end by then."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    moment = None
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate(timeout=100)
        moment = "at random" if process.returncode == -signal.SIGKILL else None
    wait_for(lambda: not processes_in(folder))
    return Killed(moment, process.returncode, stdout, stderr)


def processes_in(folder):
    """The living processes whose current folder is this one: whatever a run started, whoever adopted it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended, or is somebody else's
                zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
                if not zombie and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                    found.append(int(entry.name))
    return found


def _children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def _grandchildren(pid):
    return [each for child in _children(pid) for each in _children(child)]


# --- what has to hold afterwards


def assert_sound(path):
    """A deep check finds nothing wrong, and the store is one file once it has been opened and closed."""
    with contextlib.closing(open_store(path)) as store:
        assert check.check(store, deep=True).problems == []
    assert_at_rest(path)


def assert_at_rest(path):
    """Nothing lies beside a store: no log, no journal, no draft."""
    assert [each.name for each in path.parent.iterdir() if path.name in each.name] == [path.name]


# Each query gives what is half visible. A task is to set `first` and `last`; what follows from its end starts with it.
HALF_VISIBLE = {
    "a successful attempt without all that it set": """
        select a.id from attempts a where a.status = 'successful' and a.error_type is null
          and (select count(*) from artifacts s where s.attempt_id = a.id and s.name in ('first', 'last')) <> 2""",
    "artifacts of an attempt that did not finish": """
        select a.id from attempts a join artifacts s on s.attempt_id = a.id
        where a.status in ('running', 'dead', 'stopped')""",
    "a task that differs from its last attempt": """
        select t.id from tasks t left join attempts a on a.id = t.attempt_id where a.status is not t.status""",
    "a task that ended without saying what comes next": """
        select id from tasks where status = 'successful' and (transition is null or finished_at is null)""",
    "the end of a run without the run's": """
        select t.id from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id
        where s.name = 'end' and t.status = 'successful' and r.status <> 'successful'""",
    "a task that nothing follows": """
        select t.id from tasks t join steps s on s.id = t.step_id
        where t.status = 'successful' and s.name not in ('body', 'end')
          and (select count(*) from task_parents p where p.parent_id = t.id)
            <> coalesce(json_extract(t.transition, '$.count'), 1)""",
    "tasks of a foreach that are not joined": """
        select b.run_id from tasks b join steps s on s.id = b.step_id where s.name = 'body'
        group by b.run_id having sum(b.status = 'successful') = 3
          and not exists (select 1 from steps j where j.run_id = b.run_id and j.name = 'join')""",
}


def assert_nothing_half_visible(store):
    """An attempt's artifacts, its status and what follows from it are there together, or not at all."""
    for what, query in HALF_VISIBLE.items():
        assert store.rows(query) == [], what


class Scene:
    """A folder with a flow's runs, some of them killed.

    Args:
        folder: an empty one.
        work: one of `WORKS`.
    """

    def __init__(self, folder, work):
        self.work = work
        self.folder = folder
        self.script = Script(folder, work.source)
        if work.resumed:
            self.script("run", *WORKERS, expect=1)
            (self.folder / "mended").touch()

    def command(self, verb=None):
        """What is run: the first time as the work asks for, later `resume`."""
        return [verb or ("resume" if self.work.resumed else "run"), *WORKERS, *self.work.options]

    def kill(self, at):
        """Run it until its moment number `at`."""
        return killed_at(self.folder, at, "flow.py", *self.command())

    def strike(self, target, rng):
        """Run it, and kill one of its processes at random; gives what it said, and whether there was one to kill."""
        process = self.script.start(*self.command())
        said = b"".join(process.stdout.readline() for _ in range(rng.randrange(6)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.random() * (0.4 if not said else 0.03))
        victim = {"driver": [process.pid], "server": _children(process.pid), "task": _grandchildren(process.pid)}
        struck = False
        for pid in victim[target][:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                struck = process.poll() is None or target == "driver"
        stdout, stderr = process.communicate(timeout=100)
        assert b"Traceback (most recent call last)" not in stderr, stderr
        wait_for(lambda: not processes_in(self.folder))
        return Killed(target if struck else None, process.returncode, (said + stdout).decode(), stderr.decode())

    def verify(self, acknowledged):
        """Look at what a killed run left, resume it, and look again; gives how many tasks were taken over.

        Args:
            acknowledged: ids of the tasks that were said to have finished.
        """
        if not self.script.db.exists():
            assert not acknowledged
            self.script(*self.command("run"))
            assert_sound(self.script.db)
            return 0
        run_id, finished = self._look(acknowledged)
        if run_id is None:
            self.script(*self.command("resume" if self.work.resumed else "run"))
            assert_sound(self.script.db)
            return 0
        self._resume(run_id, finished)
        return len(finished)

    def _look(self, acknowledged):
        """What is there of the killed run: its id, and the ids of its tasks that finished."""
        flowstore.use_store(self.script.db)
        store = context.state.store
        assert_nothing_half_visible(store)
        run_id = store.value("select max(id) from runs")
        if run_id is None or (self.work.resumed and run_id == 1):
            assert not acknowledged
            store.close()
            assert_sound(self.script.db)
            return None, set()
        run = flowstore.Run(f"F/{run_id}")
        recorded = store.value("select status from runs where id = ?", (run_id,))
        assert run.status == ("dead" if recorded == "running" else recorded)
        assert recorded != "dead"
        finished = {int(task.id): task for step in run for task in step if task.successful}
        assert acknowledged <= finished.keys()
        for task in finished.values():
            for artifact in task:
                _ = artifact.data  # readable; the check below compares every byte with its hash
        store.close()
        assert_sound(self.script.db)
        return run_id, set(finished)

    def _resume(self, run_id, finished):
        """The run goes on from where it was, to the same result, and no finished task runs again."""
        before = self._executed()
        self.script(*self.command("resume"), "--origin-run-id", run_id)
        flowstore.use_store(self.script.db)
        run = flowstore.Run(f"F/{run_id + 1}")
        assert (run.status, run.data.r) == ("successful", self.work.result)
        taken = context.state.store.rows(
            "select origin_pathspec from tasks where run_id = ? and origin_pathspec is not null", (run_id + 1,)
        )
        assert len(taken) == len(finished)
        done = {key for _, task_id, key in before if task_id in finished}
        assert not done & {key for _, _, key in self._executed()[len(before) :]}
        assert context.state.store.value("select count(*) from blobs where sha is null") == 0
        assert context.state.store.value("select count(*) from runs where status = 'running'") == 0
        context.state.store.close()
        assert_sound(self.script.db)

    def _executed(self):
        """Run, task and key of each attempt that began to run, in order."""
        lines = (line.split() for line in self.script.executed())
        return [(int(run_id), int(task_id), key) for run_id, task_id, key in lines]
