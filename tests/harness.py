"""Flows as text, run by `python flow.py` in a folder of their own, and their store as plain `sqlite3` sees it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest import mock

import attrs
import pytest

import flowstore
from flowstore import context

HEAD = """\
import os
import signal
import sys
import time
from pathlib import Path

from flowstore import *
from flowstore import current

"""

LINEAR = {"start": "self.next(self.end)", "end": ""}
MIDDLE = {"start": "self.next(self.middle)", "middle": "self.next(self.end)", "end": ""}
FOREACH = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
GANG = {**FOREACH, "start": "self.next(self.body, num_parallel=2)"}
BRANCH = {
    "start": "self.next(self.a, self.b)",
    "a": "self.next(self.join)",
    "b": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}

METHODS = {  # the ways in which tasks' processes start
    "fork": ("--start-method", "fork"),
    "spawn": ("--start-method", "spawn"),
    "reused fork": ("--reuse-workers",),
    "reused spawn": ("--reuse-workers", "--start-method", "spawn"),
}
every_method = pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
COUNT_IMPORTS = "with open('imported', 'a') as file: file.write('x')\n"  # at the top of a flow


def flow_source(tails, *, head="", members="", **bodies):
    """The source of a flow `F`.

    `tails` holds the last statement of each step, `bodies` what comes before it, beginning with the step's
    decorators. A step whose name begins with `join` takes `inputs`. `members` stands in the class, `head` above it.
    """
    assert bodies.keys() <= tails.keys(), "a body without a step"
    parts = [HEAD, textwrap.dedent(head), "\nclass F(FlowSpec):\n", _indented(members, 4)]
    for name, tail in tails.items():
        lines = textwrap.dedent(bodies.get(name, "")).strip("\n").splitlines()
        marks = [line for line in lines if line.startswith("@")]
        inputs = ", inputs" if name.startswith("join") else ""
        parts += [_indented("\n".join([*marks, "@step", f"def {name}(self{inputs}):"]), 4)]
        parts += [_indented("\n".join([*lines[len(marks) :], tail or "pass"]), 8)]
    return "".join([*parts, '\n\nif __name__ == "__main__":\n    F()\n'])


def _indented(text, by):
    return textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", " " * by)


@attrs.frozen
class Result:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


def command(*words, expect=0, folder=".", **env):
    """Run `flowstore WORDS` in this process, as another would, and sooner; it must end with the exit code `expect`."""
    from flowstore.cli import admin, shell

    before = context.state.store, context.state.namespace
    context.state.store = None
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    try:
        with (
            contextlib.chdir(folder),
            mock.patch.dict(os.environ, env),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = shell._exit_code(
                lambda: admin._with_commands().main([*map(str, words)], prog_name="flowstore", standalone_mode=False)
            )
    finally:
        if context.state.store is not None:
            context.state.store.close()
        context.state.store, context.state.namespace = before
    result = Result(code, *(_text(stream.buffer.getvalue()) for stream in (out, err)))
    assert result.code == expect, f"{words} ended with {code}:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result


class Script:
    """One flow file, the commands that it takes, and the store beside it."""

    def __init__(self, folder, source):
        self.folder = folder
        self.file = folder / "flow.py"
        self.db = folder / "flowstore.db"
        self.rewrite(source)

    def rewrite(self, source):
        """Change the file, as a user does between a failed run and `resume`."""
        self.file.write_text(source, "utf-8")

    def __call__(self, *args, expect=0, timeout=60, **env):
        """Run `python flow.py ARGS` to its end, which must be with the exit code `expect`."""
        with self.start(*args, **env) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate()
                raise AssertionError(f"{args} hangs:\n{_tail(stdout)}\n{_tail(stderr)}") from None
        result = Result(process.returncode, _text(stdout), _text(stderr))
        assert result.code == expect, f"{args} ended with {result.code}:\n{_tail(stdout)}\n{_tail(stderr)}"
        assert "Traceback" not in result.stderr, f"the driver raised:\n{_tail(stderr)}"
        return result

    def start(self, *args, **env):
        """Begin `python flow.py ARGS` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, self.file.name, *map(str, args)],
            cwd=self.folder,
            env={**os.environ, "PYTHONWARNINGS": "error", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def sql(self, query, *parameters):
        """Rows of the store, read without flowstore; a list of values where there is one column."""
        with contextlib.closing(sqlite3.connect(f"file:{self.db}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query, parameters).fetchall()
        return [row[0] for row in rows] if rows and len(rows[0]) == 1 else rows

    def counts(self, run_id=1, where="true"):
        """How many tasks each step of a run has."""
        query = f"select step, count(*) from task_summary where run_id = ? and {where} group by step"
        return dict(self.sql(query, run_id))

    def client(self, run_id=1):
        """A run, seen by the Client of this process."""
        flowstore.use_store(self.db)
        return flowstore.Run(f"F/{run_id}")

    def executed(self):
        """The lines that tasks have written to the file `executed`, in order."""
        file = self.folder / "executed"
        return file.read_text("utf-8").splitlines() if file.exists() else []

    def check(self):
        """At rest a store is one sound file."""
        if self.db.exists():
            assert [path.name for path in self.folder.glob("*flowstore.db*")] == ["flowstore.db"]
            assert self.sql("pragma integrity_check") == ["ok"]
            assert self.sql("pragma foreign_key_check") == []
            assert self.sql("select count(*) from blobs where sha is null") == [0]


def _text(data):
    return data.decode("utf-8", "replace")


def _tail(data):
    return "\n".join(_text(data[-4000:]).splitlines()[-12:])


def wait_for(condition, seconds=30):
    """Wait until a condition holds; gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def alive(pid):
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def stop(process, how=signal.SIGINT):
    """Send a signal to a driver and wait for its end; gives its exit code and what it said."""
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=60)
    return Result(process.returncode, _text(stdout), _text(stderr))
