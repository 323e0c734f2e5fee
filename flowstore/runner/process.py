"""A flow's command line in a process of its own, which can be watched while it runs."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowstore.context import state
from flowstore.errors import FlowstoreError, ParameterError
from flowstore.run.caller import VARIABLE, Exchange, Started
from flowstore.runner import words

if TYPE_CHECKING:
    from flowstore.client import Store

_PAUSE_S = 0.03  # between two looks at a process that runs
_STREAMS = ("stdout", "stderr")
_USAGE = re.compile(r"\AUsage: .*?^Error: ", re.DOTALL | re.MULTILINE)


class FlowCommands:
    """The base of what runs commands of a flow's file; `Runner` and `Deployer` say what it is given."""

    def __init__(
        self,
        flow_file: str | os.PathLike[str],
        show_output: bool = True,
        profile: str | None = None,  # noqa: ARG002  # Metaflow's
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        file_read_timeout: float = 3600,  # noqa: ARG002  # Metaflow's
        **options: Any,
    ) -> None:
        file = _existing_file(flow_file)
        self.flow_file = os.fspath(file if cwd is None else file.absolute())
        self.show_output = show_output
        self._env = dict(env or {})
        self._cwd = cwd
        self._options = options
        self._settings = words.settings(options, type(self).__name__)
        self._processes: list[FlowProcess] = []

    def cleanup(self) -> None:
        """Remove the temporary files of what was started."""
        for process in self._processes:
            process.remove_files()

    def _before(self) -> list[str]:
        """Return the options before the command, with the store that is active in this process."""
        is_elsewhere = self._cwd is not None or "FLOWSTORE_STORE" in self._env or "store" in self._options
        store = None if is_elsewhere else chosen_store()
        return self._settings if store is None else [f"--store={store}", *self._settings]


class FlowProcess:
    """A process that runs `python flow.py COMMAND`, with its output in files that vanish with this object.

    Args:
        words: the command line after `python`.
        values: of the flow's parameters, by name.
        env: variables that it has besides this process's own.
        cwd: the folder that it runs in.
        resume_hint: what the user would write to resume a run, where that is no command line.
        at_terminal: whether it reads what this process's terminal says.
    """

    def __init__(
        self,
        words: Sequence[str],
        values: Mapping[str, Any],
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
        *,
        resume_hint: str | None = None,
        at_terminal: bool = False,
    ) -> None:
        folder = tempfile.mkdtemp(prefix="flowstore-runner-")
        self.timed_out = False
        self._remove_folder = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._started: Started | None = None
        self._exchange = Exchange(folder)
        self._exchange.put_values(values)
        if resume_hint is not None:
            self._exchange.put_resume_hint(resume_hint)
        self._logs = {name: _nameless_file(self) for name in _STREAMS}
        self._process = subprocess.Popen(
            [sys.executable, *([] if words[0] == "-m" else _program()), *words],
            cwd=cwd,
            env={**os.environ, **{name: str(value) for name, value in env.items()}, VARIABLE: folder},
            stdin=None if at_terminal else subprocess.DEVNULL,
            stdout=self._logs["stdout"],
            stderr=self._logs["stderr"],
        )

    @property
    def returncode(self) -> int | None:
        """The exit code; `None` while it runs."""
        return self._process.poll()

    @property
    def started(self) -> Started | None:
        """The run or task that it has started, once it has."""
        self._started = self._started or self._exchange.started()
        return self._started

    def remove_files(self) -> None:
        """Remove the temporary files but for what it prints, which has no name and goes with this object."""
        _ = self.started
        self._remove_folder()

    def text(self, stream: str) -> str:
        """Return what it has printed so far."""
        return b"".join(self._new(stream, 0)).decode("utf-8", "replace")

    def finish(self, *, show: bool) -> None:
        """Wait for its end; Ctrl-C stops it.

        Args:
            show: print what it prints.
        """
        shown = [self._shown(name, getattr(sys, name)) for name in _STREAMS] if show else []
        try:
            while self._is_running():
                for part in shown:
                    next(part)
        except KeyboardInterrupt:
            self._process.send_signal(signal.SIGINT)  # a notebook interrupts this process alone; twice is harmless
            self._process.wait()
            raise
        finally:
            for part in shown:
                next(part)

    def _is_running(self) -> bool:
        try:
            self._process.wait(_PAUSE_S)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _shown(self, name: str, stream: Any) -> Iterator[None]:
        """Print what is new each time that it is asked to go on."""
        decoder, position = codecs.getincrementaldecoder("utf-8")("replace"), 0
        while True:
            for data in self._new(name, position):
                position += len(data)
                stream.write(decoder.decode(data))
                stream.flush()
            yield

    def _new(self, name: str, position: int) -> Iterator[bytes]:
        """Yield the bytes that were printed after a position: the file's own one is where the process writes."""
        while data := os.pread(self._logs[name], 1 << 20, position):
            position += len(data)
            yield data

    def stop(self) -> bool:
        """Ask the run to stop, and wait for that; return whether it was running."""
        if self.returncode is not None:
            return False
        self._process.terminate()
        self._process.wait()
        return True

    # --- without blocking

    async def until_started(self) -> None:
        """Wait until the run exists, or the process has ended without one."""
        while self.started is None and self.returncode is None:  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(_PAUSE_S)

    async def until_end(self, at_most_s: float | None) -> None:
        """Wait for its end, and stop it where that takes longer than `at_most_s`."""
        end = None if at_most_s is None else time.monotonic() + at_most_s
        while self.returncode is None:
            if end is not None and time.monotonic() >= end and not self.timed_out:
                self.timed_out = True
                self._process.terminate()
            await asyncio.sleep(_PAUSE_S)

    async def lines(self, name: str, position: int) -> AsyncIterator[tuple[int, str]]:
        """Yield lines as they are printed, each with the position after it, until the process ends."""
        rest = b""
        while True:
            ended = self.returncode is not None  # asked first: what is printed afterwards is nothing
            for data in self._new(name, position + len(rest)):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    position += len(line) + 1
                    yield position, line.decode("utf-8", "replace")
            if ended:
                break
            await asyncio.sleep(_PAUSE_S)
        if rest:
            yield position + len(rest), rest.decode("utf-8", "replace")

    # --- errors

    def need_started(self, what: str) -> Started:
        """Return what was started.

        Raises:
            ParameterError: a parameter or an option is wrong; the message is the command line's.
            FlowstoreError: it ended without starting anything, for any other reason.
        """
        started = self.started
        if started is not None:
            return started
        raise self._error(f"{what} could not be started")

    def need_success(self, what: str) -> None:
        """Raise ParameterError or FlowstoreError, with the command line's message, unless it has succeeded."""
        if self._process.wait() != 0:
            raise self._error(f"{what} failed")

    def _error(self, what: str) -> FlowstoreError:
        code = self._process.wait()
        error = ParameterError if code == 2 else FlowstoreError
        printed = _USAGE.sub("", self.text("stderr").strip()).removeprefix("Error: ") or "It printed no error."
        return error(f"{what} (exit code {code}): {printed[-4000:]}")


def _nameless_file(owner: FlowProcess) -> int:
    """Return the descriptor of a file without a name, which is closed when its owner goes."""
    descriptor, path = tempfile.mkstemp(prefix="flowstore-runner-")
    os.unlink(path)  # noqa: PTH108
    weakref.finalize(owner, os.close, descriptor)
    return descriptor


def _program() -> list[str]:
    """Return the options of Python that make the flow see flowstore under the name that it has in this process."""
    return ["-m", "flowstore.metaflow"] if "flowstore.metaflow" in sys.modules else []


def chosen_store() -> str | None:
    """Return the store that this process uses, so that what it starts uses the same."""
    if state.store is not None:
        return str(state.store.path)
    return state.task_store[0] or None if state.task_store is not None else None


def seen_whole(store: str) -> Store:
    """Return the store of a file as the Client shows it, whichever namespace is active."""
    from flowstore.client.store import seen
    from flowstore.store.opening import store_at

    return seen(store_at(store), None)


def _existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a flow's file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no flow's file at {Path(path).absolute()}.")
    return Path(path)
