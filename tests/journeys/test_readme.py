"""The README's examples run, in its order, in one folder, as a newcomer would paste them."""

from __future__ import annotations

import doctest
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import flowstore

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks():
    return [match.groups() for match in BLOCK.finditer(README.read_text("utf-8"))]


def run_console(text, folder):
    """Run each `$ command`, and compare what it prints with what follows it, in which `...` stands for anything."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        ran = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
            timeout=60,
        )
        printed = ran.stdout + "".join(
            line for line in ran.stderr.splitlines(True) if line.startswith(("Run ", "Error: "))
        )
        assert doctest.OutputChecker().check_output(expected, printed, FLAGS), f"{command}\n{printed}\n{ran.stderr}"


def run_doctest(text, names):
    """Run a block in the session that `names` are of."""
    test = doctest.DocTestParser().get_doctest(text, {}, "README", str(README), 0)
    test.globs = names
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, clear_globs=False)
    assert runner.failures == 0


def test_examples(tmp_path, monkeypatch):
    """Flows, commands, Python and SQL of the README do what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSTORE_USER", "tester")
    names = {}
    for kind, title, text in blocks():
        if title:
            (tmp_path / title).write_text(text, "utf-8")
        elif kind == "console":
            run_console(text, tmp_path)
        elif kind == "python":
            run_doctest(text, names)
    with sqlite3.connect(tmp_path / "flowstore.db") as database:
        for kind, _, text in blocks():
            if kind == "sql":
                assert database.execute(text).fetchall(), text
    database.close()


def test_every_kind_of_block_is_known():
    """No block of the README escapes this test, but for the commands that install."""
    kinds = {kind for kind, _, _ in blocks()}
    assert kinds <= {"sh", "python", "console", "sql"}
    assert sum(kind == "sh" for kind, _, _ in blocks()) == 2


@pytest.mark.parametrize("activated", [True, False], ids=["activated", "not activated"])
def test_demo_says_what_works(tmp_path, activated):
    """The lines that `flowstore demo` prints can be pasted, whether or not its environment is activated."""
    folders = [str(Path(sys.executable).parent)] if activated else []
    environment = {**os.environ, "PATH": os.pathsep.join([*folders, "/usr/bin", "/bin"])}
    ran = subprocess.run(
        [sys.executable, "-m", "flowstore", "demo"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.strip() for line in ran.stdout.split("can be pasted:")[1].splitlines() if line.strip()]
    assert len(lines) >= 6
    for line in lines:
        pasted = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert pasted.returncode == 0, (line, pasted.stderr)
        assert pasted.stdout.strip(), line
    assert [path.name for path in tmp_path.glob("*.db*")] == ["flowstore.db"]


@pytest.mark.parametrize("name", ["penguins", "digits"])
def test_tutorials(tmp_path, name):
    """The tutorials run, and their metrics can be asked for in SQL."""
    if name == "digits":
        pytest.importorskip("sklearn")
    command = [sys.executable, "-m", f"flowstore.tutorials.{name}", "--quiet", "run"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with flowstore.use_store(tmp_path / "flowstore.db"):
        [flow] = flowstore.Flows()
        assert flow.latest_run.data.metrics["accuracy"] > 0.9
