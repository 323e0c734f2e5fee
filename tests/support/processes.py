"""Other processes: Python that they run, and what they print; waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

AS_NOBODY = """
import os, shutil, sys, tempfile
import flowstore, flowstore.client  # all that it uses is imported before it may no longer be read
from flowstore.sqlite import database as db, liveness
from flowstore.store import blobs, codecs, opening, pickling, queries, records, trust
if os.geteuid() == 0:  # which may do anything, also what the file's mode forbids
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


def with_support(env):
    """Return these environment variables, changed so that a process finds this package."""
    places = (str(Path(__file__).parents[1]), env.get("PYTHONPATH"))
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def python(code, *args, folder=None, **options):
    """Begin `python -c CODE`, its warnings being errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        **options,
    )


def told(process, code=0):
    """What a process printed, by the time that it ended with this exit code."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == code, stderr
    return stdout


def together(setup, body, *args, count=8):
    """Run `body` in several processes that start it at the same moment; gives what each printed."""
    gate = "\nprint('ready', flush=True); sys.stdin.readline()\n"
    code = setup + gate + textwrap.dedent(body)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(python(code, *args)) for _ in range(count)]
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [told(process) for process in processes]


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


def skip_without_room(memory, disk):
    """Skip the test where so many bytes of memory, and of disk in the current folder, are not free."""
    available = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    if int(available[1]) * 1024 < memory or shutil.disk_usage(Path.cwd()).free < disk:
        pytest.skip(f"needs {memory / 1e9:.0f} GB of memory and {disk / 1e9:.0f} GB of disk")
