"""Flows that a cell of a notebook defines, run from there: the cell becomes a file, without what is the notebook's."""

from __future__ import annotations

import ast
import linecache
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from flowstore.errors import FlowstoreError
from flowstore.flow.spec import FlowSpec
from flowstore.runner import ExecutingRun, ExecutingTask, Runner
from flowstore.runner.deployer import Deployer

if TYPE_CHECKING:
    from flowstore.client import Run

_OF_NOTEBOOK = frozenset({"NBRunner", "NBDeployer", "get_ipython"})  # what mentions them stays in the notebook


class NotebookFile:
    """The file of a flow that was defined in a cell, which goes with this object.

    Args:
        flow: the flow's class.
        env: environment variables for the flow.
        base_dir: the folder whose modules it may import; default: this process's own.

    Raises:
        FlowstoreError: no cell defines the flow.
    """

    def __init__(
        self, flow: type[FlowSpec], env: Mapping[str, str] | None, base_dir: str | os.PathLike[str] | None
    ) -> None:
        text = source_of(flow)
        folder = tempfile.mkdtemp(prefix="flowstore-notebook-")
        self.remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder, f"{flow.__name__}.py")
        self.path.write_text(text, "utf-8")
        before = os.environ.get("PYTHONPATH")
        modules = os.pathsep.join([os.fspath(base_dir or Path.cwd()), *filter(None, [before])])
        self.environment = {"PYTHONPATH": modules, **(env or {})}


class NBRunner:
    """Runs a flow that a notebook's cell defines, in a process of its own each time.

    The cell has to contain the whole flow, with the imports that it needs. What else the cell does with `NBRunner`, and
    magic commands, are left out of the file that is run.

    Args:
        flow: the flow's class.
        show_output: print what a run prints, where it is waited for.
        profile: accepted for Metaflow's sake, and ignored.
        env: environment variables for the flow, besides this process's own.
        base_dir: the folder to run in, and whose modules the flow imports; default: this process's own.
        file_read_timeout: accepted for Metaflow's sake, and ignored.
        options: options before the command, as for `Runner`.

    Raises:
        FlowstoreError: no cell defines the flow.

    Example:
        In the cell that defines `TrainFlow`, or in a later one:

            run = NBRunner(TrainFlow).nbrun(alpha=3)
            run.data.accuracy
    """

    def __init__(
        self,
        flow: type[FlowSpec],
        show_output: bool = True,
        profile: str | None = None,
        env: Mapping[str, str] | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        file_read_timeout: float = 3600,
        **options: Any,
    ) -> None:
        self._file = file = NotebookFile(flow, env, base_dir)
        self.runner = Runner(file.path, show_output, profile, file.environment, base_dir, file_read_timeout, **options)
        self.runner._resume_hint = f"NBRunner({flow.__name__}).nbresume(origin_run_id={{run_id}})"

    def nbrun(self, **arguments: Any) -> Run:
        """Run the flow, wait for the end, and return the run; see `Runner.run`."""
        return self.runner.run(**arguments).run

    def nbresume(self, step_to_rerun: str | None = None, **arguments: Any) -> Run:
        """Resume a run, wait for the end, and return the new run; see `Runner.resume`."""
        return self.runner.resume(step_to_rerun, **arguments).run

    def nbspin(self, pathspec: str, **arguments: Any) -> ExecutingTask:
        """Run a step again, on the inputs that it had in an earlier run, and wait for the end; see `Runner.spin`."""
        return self.runner.spin(pathspec, **arguments)

    async def async_run(self, **arguments: Any) -> ExecutingRun:
        """Start a run, and return as soon as it exists; see `Runner.async_run`."""
        return await self.runner.async_run(**arguments)

    async def async_resume(self, step_to_rerun: str | None = None, **arguments: Any) -> ExecutingRun:
        """Start a run that resumes another one, and return as soon as it exists; see `Runner.async_resume`."""
        return await self.runner.async_resume(step_to_rerun, **arguments)

    def cleanup(self) -> None:
        """Remove the temporary files; what is still running goes on."""
        self.runner.cleanup()
        self._file.remove()


class NBDeployer(Deployer):
    """Puts a flow that a notebook's cell defines into production; see `NBRunner` for what the cell contains.

    Args:
        flow: the flow's class.
        show_output: print what the commands print.
        profile: accepted for Metaflow's sake, and ignored.
        env: environment variables for the flow, besides this process's own.
        base_dir: the folder to deploy from; default: this process's own.
        file_read_timeout: accepted for Metaflow's sake, and ignored.
        options: options before the command, as for `Runner`.

    Raises:
        FlowstoreError: no cell defines the flow.
    """

    def __init__(
        self,
        flow: type[FlowSpec],
        show_output: bool = True,
        profile: str | None = None,
        env: Mapping[str, str] | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        file_read_timeout: float = 3600,
        **options: Any,
    ) -> None:
        self._file = file = NotebookFile(flow, env, base_dir)
        super().__init__(file.path, show_output, profile, file.environment, base_dir, file_read_timeout, **options)

    def cleanup(self) -> None:
        """Remove the temporary file; what was deployed is in the store."""
        self._file.remove()


# --- the source


def source_of(flow: type[FlowSpec]) -> str:
    """Return the program that runs a flow which cells define: the cells of its class and of the bases of that.

    Raises:
        FlowstoreError: no cell defines it.
    """
    names = dict.fromkeys(name for cls in reversed(flow.__mro__) for name in _files(cls))
    cells = ["".join(linecache.getlines(name)) for name in names]
    if not cells or not all(cells) or any(Path(name).is_file() for name in names):
        raise FlowstoreError(
            f"No cell of a notebook defines the flow {flow.__name__}. Run a flow of a file with "
            "Runner('flow.py').run(), and a flow of a cell after that cell."
        )
    text = "\n".join(map(without_notebook, cells))
    return f'{text.rstrip()}\n\n\nif __name__ == "__main__":\n    {flow.__name__}()\n'


def _files(cls: type) -> Iterator[str]:
    """Yield the name under which Python knows the cell of a class: that of its first function, if it has any."""
    if cls.__module__ == "__main__":
        functions = (getattr(item, "__wrapped__", item) for item in vars(cls).values())
        names = [item.__code__.co_filename for item in functions if isinstance(item, FunctionType)]
        yield from (names or [*_cells_with(f"class {cls.__name__}")])[:1]


def _cells_with(beginning: str) -> Iterator[str]:
    """Yield the names of cells, newest first, that have a line which begins so."""
    for name in reversed([*linecache.cache]):
        if not Path(name).is_file() and any(
            re.match(rf"{re.escape(beginning)}\b", line) for line in linecache.getlines(name)
        ):
            yield name


def without_notebook(cell: str) -> str:
    """Return a cell without the statements that concern the notebook; the others stay on their lines."""
    tree = compile(cell, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    kept = cell.encode()
    starts = [0, *(at + 1 for at, byte in enumerate(kept) if byte == ord("\n"))]  # of the lines
    spans: list[tuple[int, int]] = []
    dropped = set(_OF_NOTEBOOK)
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        if not dropped.isdisjoint(node.id for node in names) or _is_main(statement):
            dropped |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
            end_line, end_column = statement.end_lineno or 0, statement.end_col_offset or 0
            begin = starts[statement.lineno - 1] + statement.col_offset
            spans.append((begin, starts[end_line - 1] + end_column))
    for begin, end in reversed(spans):
        kept = kept[:begin] + b"\n" * kept.count(b"\n", begin, end) + b"pass" + kept[end:]
    return kept.decode().rstrip("\n") + "\n"


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
