"""`NBRunner`: a flow that a notebook's cell defines."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap

import pytest

import flowstore
from flowstore import FlowSpec, FlowstoreError, NBRunner, step
from flowstore.runner.notebook import without_notebook
from support.pages import DOCS, blocks

BASE = '''\
from flowstore import FlowSpec, Parameter

class Shared(FlowSpec):
    """A base of flows that has no functions."""
    alpha = Parameter("alpha", default=1)
'''
CELL = '''\
%matplotlib --list
import os
from flowstore import NBRunner, step
import beside

class CellFlow(Shared):
    """A flow in a cell, with a base in an earlier one."""

    @step
    def start(self):
        self.x, self.where = beside.double(self.alpha), os.getcwd()
        print("x is", self.x)
        self.next(self.end)

    @step
    def end(self):
        assert self.alpha != 13, "unlucky"
'''
CALL = "run = NBRunner(CellFlow, env={'MODE': 'test'}).nbrun(alpha=alpha, tags=['cell'])\n"
SHOW = "print(run.pathspec, run.successful, run.data.x, sorted(run.user_tags), run.data.where == os.getcwd())\n"
AGAIN = """
runner = NBRunner(CellFlow, show_output=False)
running = await runner.async_run(alpha=13)
async for _, line in running.stream_log("stdout"):
    if "unlucky" in line: print("seen:", line.split("] ")[1])
await running.wait()
print(running.status)
print(running.stderr)
resumed = runner.nbresume(origin_run_id=running.run.id)
print(resumed.pathspec, resumed.origin_run_id, resumed.status)
runner.cleanup()
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a module that the flow imports."""
    (tmp_path / "beside.py").write_text("def double(x): return 2 * x\n")
    return tmp_path


def check(printed):
    """Return what the cells print."""
    assert "x is 42" in printed
    assert "to go on: NBRunner(CellFlow).nbresume(origin_run_id=2)" in printed
    assert "CellFlow/1 True 42 ['cell'] True" in printed
    assert "seen: AssertionError: unlucky" in printed
    assert "\nCellFlow/3 2 failed" in printed


def test_in_ipython(folder):
    """A flow, and what is done with it, in cells of a real IPython."""
    pytest.importorskip("IPython")
    program = f"""
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        for cell in {["alpha = 21", BASE, CELL, CALL + SHOW, AGAIN]!r}:
            result = shell.run_cell(cell, store_history=True)
            result.raise_error()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    check(ran.stdout)
    assert flowstore.open_store(folder / "flowstore.db").run("CellFlow/1").code.flowspec.count("NBRunner") == 1


EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read("notebook.ipynb", 4)
nbclient.NotebookClient(notebook, timeout=50).execute()
print("".join(item["text"] for cell in notebook.cells for item in cell.outputs if "text" in item))
"""


def test_in_a_kernel(folder):
    """In a notebook that a real Jupyter kernel runs, the flow and its run may stand in one cell."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        {"cell_type": "code", "source": cell, "metadata": {}, "outputs": [], "execution_count": None}
        for cell in ("alpha = 21", BASE, CELL + CALL + SHOW, AGAIN)
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (folder / "notebook.ipynb").write_text(json.dumps(notebook))
    ran = subprocess.run([sys.executable, "-c", EXECUTE], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    check(ran.stdout)


def test_the_page(folder):
    """The cells of the page about notebooks do what it says, in a real IPython."""
    pytest.importorskip("IPython")
    cells = [block.text for block in blocks(DOCS / "notebooks.md")]
    program = f"""
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        for cell in {cells!r}:
            shell.run_cell(cell, store_history=True).raise_error()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Run('TrainFlow/1') {'depth': 6}" in ran.stdout
    assert ran.stdout.endswith("fitted {'depth': 8}\nsuccessful\n")


def test_what_stays_in_the_notebook():
    """Statements that concern the notebook, and what follows from them, are left out; others stay on their lines."""
    cell = """\
    from flowstore import NBRunner
    get_ipython().run_line_magic("matplotlib", "inline")
    limit = 3
    class F: pass
    def helper(): return NBRunner(F)
    runner = NBRunner(
        F)
    running = await runner.async_run()
    running.run.data
    print(limit)
    if __name__ == "__main__":
        F()
    text = "é\f"; runner.run(
    ); more = 4; runner.run();
    """
    kept = ast.parse(without_notebook(textwrap.dedent(cell)))
    lines = [(statement.lineno, type(statement)) for statement in kept.body if not isinstance(statement, ast.Pass)]
    assert lines == [
        (1, ast.ImportFrom), (3, ast.Assign), (4, ast.ClassDef), (5, ast.FunctionDef), (10, ast.Expr),
        (13, ast.Assign), (14, ast.Assign),
    ]  # fmt: skip


def test_a_flow_of_a_file():
    """A flow that no cell defines is refused, with what to write instead."""

    class OwnFlow(FlowSpec):
        @step
        def start(self):
            pass

    with pytest.raises(FlowstoreError, match=r"No cell of a notebook defines the flow OwnFlow. Run a flow of a file"):
        NBRunner(OwnFlow)
