"""The command line: `flowstore` in this process, `python flow.py` in one of its own, and what they said."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from unittest import mock

import attrs

import flowstore
from flowstore import context


def failure(script, run_id=1):
    """The failure of the one task that failed in a run."""
    [task] = [task for step in script.client(run_id) for task in step if task.status == "failed"]
    return task.exception


def on_terminal(story, columns, *calls):
    """The lines that each of some commands prints on a terminal that is so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    called = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(calls)]
    with subprocess.Popen(called, cwd=story.folder, env=environment, **streams) as process:
        os.close(theirs)
        said = b""
        while chunk := read_terminal(ours):
            said += chunk
    os.close(ours)
    assert process.returncode == 0, said.decode()
    return [each.splitlines() for each in said.decode().replace("\r", "").split("\x00\n")[:-1]]


IN_ONE_PROCESS = """
import json, sys
from flowstore.cli.main import flowstore
for args in json.loads(sys.argv[1]):
    flowstore.main(args.split(), prog_name="flowstore", standalone_mode=False)
    print("\\0")
"""


def read_terminal(descriptor):
    """What a terminal shows next; nothing once it was closed."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


@attrs.frozen
class Result:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


def command(*words, expect=0, folder=".", **env):
    """Run `flowstore WORDS` in this process, as another would, and sooner; it must end with the exit code `expect`."""
    from flowstore.cli import app, main

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
            code = app.exit_code(
                lambda: main.flowstore.main([*map(str, words)], prog_name="flowstore", standalone_mode=False)
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


def stop(process, how=signal.SIGINT):
    """Send a signal to a driver and wait for its end; gives its exit code and what it said."""
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=60)
    return Result(process.returncode, _text(stdout), _text(stderr))
