"""Flows as files, modules and packages, run in every way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

METHODS = [["--start-method", "fork"], ["--start-method", "spawn"], ["--start-method", "spawn", "--reuse-workers"]]
IDS = ["fork", "spawn", "reuse"]


def python(folder, *words, expect=0, stdin="", **env):
    """Run `python WORDS` in a folder; gives what it printed, stderr after stdout."""
    ran = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error", **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == expect, f"{words} ended with {ran.returncode}:\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
    return ran.stdout + ran.stderr


def write(folder, **files):
    """Write modules, by their names with `__` between folders, as in `shop__rates`."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
