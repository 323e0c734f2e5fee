"""Flows run from Python: in a script, in a test, in a notebook.

    Runner("flow.py")        a flow's file; `run`, `resume` and `spin` run it in a process of its own
    ExecutingRun             a run that was started, as an `ExecutingProcess`: its status, its output, its `run`
    NBRunner(MyFlow)         the same for a flow that a notebook's cell defines
    Deployer("flow.py")      puts a flow into production; `DeployedFlow`, `TriggeredRun`

Example:
    >>> from flowstore import Runner
    >>> with Runner("flow.py").run(alpha=3, tags=["baseline"]) as running:
    ...     print(running.status, running.run.data.accuracy)
    Traceback (most recent call last):
    ...
    FileNotFoundError: There is no flow's file at ...flow.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flowstore.errors import NotFound
from flowstore.runner import words
from flowstore.runner.process import FlowCommands, FlowProcess, seen_whole

if TYPE_CHECKING:
    from flowstore.client import Run, Task


class ExecutingProcess:
    """A command of a flow that was started, and what it prints. As a context manager it removes temporary files."""

    _WHAT: str

    def __init__(self, process: FlowProcess) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        """The exit code of the process; `None` while it runs."""
        return self._process.returncode

    @property
    def status(self) -> str:
        """`'running'`, `'successful'` or `'failed'`; `'timeout'` where `wait` has stopped it."""
        if self._process.timed_out:
            return "timeout"
        code = self.returncode
        return "running" if code is None else "failed" if code else "successful"

    @property
    def stdout(self) -> str:
        """The output so far: lines about tasks, and what these printed."""
        return self._process.text("stdout")

    @property
    def stderr(self) -> str:
        """The messages so far: banner, progress, warnings and errors."""
        return self._process.text("stderr")

    async def wait(self, timeout: float | None = None, stream: str | None = None) -> Self:  # noqa: ASYNC109  # Metaflow's
        """Wait for the end.

        Args:
            timeout: the number of seconds after which it is stopped; its `status` is `'timeout'` then.
            stream: `'stdout'` or `'stderr'`, to print what appears there meanwhile.

        Returns:
            This object.
        """
        ending = asyncio.ensure_future(self._process.until_end(timeout))  # the timeout counts while lines are printed
        try:
            if stream is not None:
                async for _, line in self.stream_log(stream):
                    print(line)
            await ending
        finally:
            ending.cancel()
        return self

    async def stream_log(self, stream: str, position: int | None = None) -> AsyncIterator[tuple[int, str]]:
        """Yield the lines of a log as they appear, until the end.

        Args:
            stream: `'stdout'` or `'stderr'`.
            position: where to begin, as yielded earlier; default: the beginning.

        Yields:
            The position after a line, and the line.

        Raises:
            ValueError: there is no such log.
        """
        if stream not in {"stdout", "stderr"}:
            raise ValueError(f"There is no log {stream!r}: choose 'stdout' or 'stderr'.")
        async for after, line in self._process.lines(stream, position or 0):
            yield after, line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.remove_files()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._process.need_started(self._WHAT).pathspec}: {self.status}>"


class ExecutingRun(ExecutingProcess):
    """A run that a `Runner` has started."""

    _WHAT = "The run"

    @property
    def run(self) -> Run:
        """The run, as the Client shows it, whichever namespace is active."""
        started = self._process.need_started(self._WHAT)
        return seen_whole(started.store).run(started.pathspec)


class ExecutingTask(ExecutingProcess):
    """A step that a `Runner` has run again, with `spin`."""

    _WHAT = "The step"

    @property
    def task(self) -> Task:
        """The task, as the Client shows it, whichever namespace is active.

        Raises:
            NotFound: the result was not stored.
        """
        started = self._process.need_started(self._WHAT)
        if not started.pathspec:
            raise NotFound("There is no task: spin stores its result only with persist=True.")
        return seen_whole(started.store).task(started.pathspec)


class Runner(FlowCommands):
    """Runs a flow's file, in a process of its own each time, and waits for it or not.

    As a context manager it removes the temporary files of what it has started, as `cleanup` does.

    Args:
        flow_file: the path of the flow's file, relative to this process's folder.
        show_output: print what a run prints, where it is waited for.
        profile: accepted for Metaflow's sake, and ignored.
        env: environment variables for the flow, besides this process's own.
        cwd: the folder to run in; by default this process's own, and then the active store is used.
        file_read_timeout: accepted for Metaflow's sake, and ignored.
        options: options before the command: `quiet`, `namespace`, `store`, `durable`, `branch`, `production`,
            `decospecs` (texts for `--with`), `config` and `config_value` (pairs of a name and a file, or a value).

    Raises:
        FileNotFoundError: there is no such file.
        ParameterError: there is no such option.

    Example:
        >>> from flowstore import Runner
        >>> with Runner("flow.py", decospecs=["retry:times=2"]) as runner:
        ...     first = runner.run(alpha=3)
        ...     second = runner.run(alpha=4, tags=["larger"])
        Traceback (most recent call last):
        ...
        FileNotFoundError: There is no flow's file at ...flow.py.
    """

    _resume_hint: str | None = None  # `NBRunner` has one

    def run(self, **arguments: Any) -> ExecutingRun:
        """Run the flow, and wait for the end.

        Args:
            arguments: values of parameters, and options of `run` such as `tags`, `max_workers` and `decospecs`.

        Returns:
            The run, which may have failed.

        Raises:
            ParameterError: a parameter or option does not exist, or its value does not fit; nothing was run.
        """
        return ExecutingRun(self._finished("run", [], arguments, ExecutingRun._WHAT))

    def resume(self, step_to_rerun: str | None = None, **arguments: Any) -> ExecutingRun:
        """Resume a run, and wait for the end.

        Args:
            step_to_rerun: a step to run again in any case, with all steps after it.
            arguments: `origin_run_id`, the run to resume, by default the latest one; and options of `run`.

        Returns:
            The new run, which may have failed.

        Raises:
            ParameterError, FlowstoreError: there is nothing to resume, or an option is wrong; nothing was run.
        """
        return ExecutingRun(self._finished("resume", _steps(step_to_rerun), arguments, ExecutingRun._WHAT))

    def spin(self, pathspec: str, **arguments: Any) -> ExecutingTask:
        """Run a step again, on the inputs that it had in an earlier run, and wait for the end.

        Where this process has a terminal, the step can read from it, as `breakpoint()` does.

        Args:
            pathspec: the step, or the task whose inputs are taken, as in `"5/train/17"`.
            arguments: `persist`, to store the result; `artifacts_module`, a file whose `ARTIFACTS` replace inputs;
                `skip_decorators`; `tags`, `decospecs`.

        Returns:
            The step that was run, which may have failed.

        Raises:
            ParameterError, FlowstoreError: there is no such step or task; nothing was run.
        """
        return ExecutingTask(self._finished("spin", [pathspec], arguments, ExecutingTask._WHAT))

    async def async_spin(self, pathspec: str, **arguments: Any) -> ExecutingTask:
        """Start to run a step again, and return as soon as it has begun; see `spin`."""
        return ExecutingTask(await self._started("spin", [pathspec], arguments, ExecutingTask._WHAT))

    async def async_run(self, **arguments: Any) -> ExecutingRun:
        """Start a run, and return as soon as it exists; see `run`."""
        return ExecutingRun(await self._started("run", [], arguments, ExecutingRun._WHAT))

    async def async_resume(self, step_to_rerun: str | None = None, **arguments: Any) -> ExecutingRun:
        """Start a run that resumes another one, and return as soon as it exists; see `resume`."""
        return ExecutingRun(await self._started("resume", _steps(step_to_rerun), arguments, ExecutingRun._WHAT))

    def _finished(self, command: str, steps: list[str], arguments: Mapping[str, Any], what: str) -> FlowProcess:
        process = self._begin(command, steps, arguments)
        process.finish(show=self.show_output)
        process.need_started(what)
        return process

    async def _started(self, command: str, steps: list[str], arguments: Mapping[str, Any], what: str) -> FlowProcess:
        process = self._begin(command, steps, arguments)
        await process.until_started()
        process.need_started(what)
        return process

    def _begin(self, command: str, steps: list[str], arguments: Mapping[str, Any]) -> FlowProcess:
        suffixes = {"package_suffixes": None if command == "spin" else self._options.get("package_suffixes")}
        options, values = words.split({**suffixes, **arguments}, words.OPTIONS[command])
        if values and command != "run":
            raise words.no_option(command, next(iter(values)), words.OPTIONS[command])
        command_line = [self.flow_file, *self._before(), command, *options, *steps]
        process = FlowProcess(
            command_line,
            values,
            self._env,
            self._cwd,
            resume_hint=self._resume_hint,
            at_terminal=command == "spin" and sys.stdin is sys.__stdin__ and sys.stdin is not None,
        )
        self._processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cleanup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cleanup()


def inspect_spin(datastore_root: str | os.PathLike[str] = ".") -> None:
    """Look at the results that `spin --persist` has stored, rather than at runs.

    It switches this process to the store in a folder and to the namespace of your own results of `spin`, so that
    `Flow("TrainFlow").latest_run["train"].task` is the last of them. `default_namespace()` leads back.

    Args:
        datastore_root: the folder, or the store's file.

    Raises:
        StoreNotFound: there is no store.
    """
    from flowstore.context import namespace, username
    from flowstore.store.opening import FILENAME, use_store

    path = Path(datastore_root)
    use_store(path / FILENAME if path.is_dir() else path)
    namespace(f"spin:{username()}")


def _steps(step: str | None) -> list[str]:
    return [] if step is None else [step]
