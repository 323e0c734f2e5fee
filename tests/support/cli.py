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
from support.processes import with_support
from support.zygote import ZYGOTE, Forked


def failure(script, run_id=1):
    """The failure of the one task that failed in a run."""
    [task] = [task for step in script.client(run_id) for task in step if task.status == "failed"]
    return task.exception


def on_terminal(story, columns, *calls, before=""):
    """The lines that each of some commands prints on a terminal that is so wide; Python code `before` runs first."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment = with_support(environment)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    called = [sys.executable, "-c", before + IN_ONE_PROCESS, json.dumps(calls)]
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
from support import cli
for args in json.loads(sys.argv[1]):
    assert cli.exit_code(*args.split()) == 0
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


def command(*words, expect=0, folder=".", fresh=False, **env):
    """Run `flowstore WORDS` and return how it ended, which must be with the exit code `expect`, unless that is `None`.

    It runs in this process, which is quicker and the same; with `fresh` in one of its own.
    """
    result = (_command_in_a_process if fresh else _command_here)(words, folder, env)
    said = f"{words} ended with {result.code}:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    assert expect in {None, result.code}, said
    assert "Traceback" not in result.stderr, said
    return result


def known_commands():
    """The command `flowstore`, as click knows it."""
    from flowstore.cli.main import flowstore as group

    return group


def exit_code(*words, make=known_commands):
    """Run `flowstore WORDS` in this process, as its console script does, and return its exit code.

    What no message tells is raised. What the command prints goes to `sys.stdout` and `sys.stderr`.

    Args:
        words: the command line.
        make: makes another command to run instead.
    """
    from flowstore.cli import app

    return app.exit_code(lambda: make().main([*map(str, words)], prog_name="flowstore", standalone_mode=False))


def _command_here(words, folder, env):
    before = context.state.store, context.state.namespace
    context.state.store = None
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    try:
        with (
            contextlib.chdir(folder),
            mock.patch.dict(os.environ, {name: str(value) for name, value in env.items()}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = exit_code(*words)
    finally:
        if context.state.store is not None:
            context.state.store.close()
        context.state.store, context.state.namespace = before
    return Result(code, *(_text(stream.buffer.getvalue()) for stream in (out, err)))


def _command_in_a_process(words, folder, env):
    with started("-m", "flowstore", *words, folder=folder, **env) as process:
        return ended(process)


def started(*words, folder=".", fresh=True, **env):
    """Begin `python WORDS` in a process group of its own, its warnings being errors.

    Unless it is to have a fresh interpreter, it is forked from one that has flowstore imported, where that is the same.
    """
    words = [*map(str, words)]
    env = {**os.environ, "PYTHONWARNINGS": "error", **{name: str(value) for name, value in env.items()}}
    begin = subprocess.Popen if fresh or not ZYGOTE.serves(words, env) else Forked
    return begin(
        [sys.executable, *words],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ended(process, timeout=100):
    """Wait for the end of a process, and return its exit code and what it said."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"{process.args} hangs:\n{_tail(stdout)}\n{_tail(stderr)}") from None
    return Result(process.returncode, _text(stdout), _text(stderr))


class Script:
    """One flow file, the commands that it takes, and the store beside it."""

    fresh = False  # whether each command has an interpreter of its own

    def __init__(self, folder, source, **env):
        self.folder = folder
        self.file = folder / "flow.py"
        self.db = folder / "flowstore.db"
        self.env = env
        self.rewrite(source)

    def rewrite(self, source):
        """Change the file, as a user does between a failed run and `resume`."""
        self.file.write_text(source, "utf-8")

    def __call__(self, *args, expect=0, timeout=60, **env):
        """Run `python flow.py ARGS` to its end, which must be with the exit code `expect`."""
        with self.start(*args, **env) as process:
            result = ended(process, timeout)
        said = f"{args} ended with {result.code}:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        assert expect in {None, result.code}, said
        assert "Traceback" not in result.stderr, said
        return result

    def start(self, *args, **env):
        """Begin `python flow.py ARGS` in a process group of its own."""
        return started(self.file.name, *args, folder=self.folder, fresh=self.fresh, **{**self.env, **env})

    def flowstore(self, *words, **options):
        """Run `flowstore WORDS` in the script's folder, as `command` does."""
        return command(*words, folder=self.folder, **{**self.env, **options})

    def rows(self, *words, **options):
        """The rows that a `flowstore` command prints as JSON."""
        return json.loads(self.flowstore(*words, "--json", **options).stdout)

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
    return ended(process, timeout=60)
