"""Fresh interpreters that import the flow from its snapshot, and then do what they were started for.

    interpreters = Interpreters(flow, sources)
    process = interpreters.start("flowstore.run.local.worker:spawned", argument, fds=[7], stdout=out, stderr=err)

The new process runs the flow's program as `__main__`, like `python flow.py` or `python -m shop.flows.train` would, but
from the bytes of the snapshot and with the arguments of this process. When the program makes an instance of the flow,
or has ended without one, the process calls the function that it was started for, as in
`spawned(flow, graph, argument)`, and ends.

The snapshot is handed over in a file without a name, which nobody else can open or replace.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run import snapshot
from flowstore.run.local import guard, imports
from flowstore.run.snapshot import Sources

_VARIABLE = "FLOWSTORE_INTERPRETER"
_START = (  # its arguments: where flowstore is, and what stands first on `sys.path`
    "import sys; sys.path[:] = [*sys.argv[2:3], *filter(None, sys.path), sys.argv[1]]; "
    "from flowstore.run.local.interpreter import main; sys.path.pop(); main()"
)


class Interpreters:
    """Starts interpreters that import a flow from its snapshot.

    Args:
        flow: its class, as this process imported it.
        sources: its snapshot.

    Raises:
        FlowstoreError: the flow was not read from anything that another process could read.
    """

    def __init__(self, flow: type[FlowSpec], sources: Sources) -> None:
        check_importable(flow, sources)
        self._flow = flow
        self._sources = sources
        self._file: IO[bytes] | None = None

    def start(
        self,
        role: str,
        argument: Mapping[str, Any],
        *,
        fds: Sequence[int] = (),
        stdout: int | None = None,
        stderr: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start an interpreter, in a session of its own.

        Args:
            role: the function that it calls once it has imported the flow, as `"module:function"`.
            argument: the third argument of that function, plain values.
            fds: file descriptors that it inherits, under the same numbers.
            stdout: where its output goes.
            stderr: where its errors go.
            environment: its environment variables, by default those of this process.

        Returns:
            The process. On Windows its stdin is a pipe, from which `role` may read what is written there.
        """
        message = {
            "driver": os.getpid(),
            "flow": [self._flow.__module__, self._flow.__qualname__],
            "role": role,
            "argument": dict(argument),
        }
        windows = sys.platform == "win32"
        if not windows:
            if self._file is None:
                self._file = _nameless_file(self._pack())
            message["sources"] = self._file.fileno()
            fds = [*fds, self._file.fileno()]
        process = subprocess.Popen(
            [sys.executable, *_flags(), "-c", _START, str(Path(context.__file__).parent.parent), *self._first_path()],
            stdin=subprocess.PIPE if windows else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=fds,
            start_new_session=not windows,
            env={**(os.environ if environment is None else environment), _VARIABLE: json.dumps(message)},
        )
        if windows:
            assert process.stdin is not None
            packed = self._pack()
            process.stdin.write(len(packed).to_bytes(8) + packed)
        return process

    def close(self) -> None:
        """Close the snapshot's file."""
        if self._file is not None:
            self._file.close()

    def _first_path(self) -> list[str]:
        """Return what Python puts first on `sys.path` for such a program."""
        sources = self._sources
        if sys.flags.safe_path:
            return []
        if sources.main_file is None:
            return [""]
        return [sources.root if sources.module is None else os.getcwd()]  # noqa: PTH109

    def _pack(self) -> bytes:
        """Return everything that the program is made of."""
        files = {path: source for path, source in self._sources.files.items() if path.endswith(".py")}
        head = {
            "argv": sys.argv,
            "sources": snapshot.described(self._sources),
            "sizes": {path: len(source) for path, source in files.items()},
        }
        encoded = json.dumps(head).encode()
        return b"".join([len(encoded).to_bytes(8), encoded, *files.values()])


def check_importable(flow: type[FlowSpec], sources: Sources) -> None:
    """Raise FlowstoreError where a flow was not read from anything that another process could read."""
    if flow.__module__ == "__main__" and sources.text is None and not sources.script:
        raise FlowstoreError(
            f"The tasks of {flow.__name__} are to start in fresh interpreters, which cannot import it: "
            "it was not read from a file. Save it in one, and run: python flow.py run"
        )


class Spawner:
    """Starts interpreters that run tasks, and knows those that have not ended.

    Args:
        flow: its class, as this process imported it.
        sources: its snapshot.
    """

    def __init__(self, flow: type[FlowSpec], sources: Sources) -> None:
        self._interpreters = Interpreters(flow, sources)
        self._leaving: list[subprocess.Popen[bytes]] = []
        self._guard: subprocess.Popen[bytes] | None = None
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # all else goes on without it
                self._guard = subprocess.Popen(
                    [sys.executable, "-IS", guard.__file__],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )

    def start(
        self, channel: socket.socket, ends: Sequence[int], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start an interpreter that takes its orders from a channel.

        Args:
            channel: its end of that.
            ends: where it writes its output and its errors, and where it takes its turns, if it does.
            environment: variables in addition to this process's.
        """
        handle = channel.fileno()
        out, err, *turns = ends
        fds = [] if sys.platform == "win32" else [handle, *turns]
        process = self._interpreters.start(
            "flowstore.run.local.worker:spawned",
            {"channel": handle, "turns": turns[0] if turns else None},
            fds=fds,
            stdout=out,
            stderr=err,
            environment={**os.environ, **environment},
        )
        if sys.platform == "win32":
            assert process.stdin is not None
            process.stdin.write(channel.share(process.pid))
            process.stdin.close()
        self._note(process.pid)
        return process

    def kill(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """Send a signal to a process, and to what its step has started."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, how)

    def leave(self, process: subprocess.Popen[bytes]) -> None:
        """Let a process end that has nothing left to do."""
        self._leaving.append(process)

    def reap(self) -> None:
        """Note those that have ended."""
        for process in self._leaving:
            if process.poll() is not None:
                self._note(-process.pid)
        self._leaving = [process for process in self._leaving if process.returncode is None]

    def close(self) -> None:
        """Wait until all have ended."""
        for process in self._leaving:
            process.wait()
        self._interpreters.close()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()

    def _note(self, number: int) -> None:
        """Have the guard know of a process (or, below 0, forget it)."""
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed
                self._guard.stdin.write(f"{number}\n".encode())


def _nameless_file(data: bytes) -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # which needs no room in a folder for temporary files
        file: IO[bytes] = open(os.memfd_create("flowstore"), "w+b")  # noqa: PTH123, SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as interpreters may start
    file.write(data)
    file.flush()
    return file


def _flags() -> list[str]:
    """Return the options of this interpreter, such as `-O` and `-X utf8`."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


# --- in the new process


def main() -> None:
    """Run the program of the snapshot; called by `_START`."""
    message = json.loads(os.environ.pop(_VARIABLE))
    from flowstore.run.local.worker import die_with_parent

    die_with_parent(message["driver"])
    argv, sources = _receive(message.get("sources"))
    module, _, function = message["role"].partition(":")

    def act(flow: type[FlowSpec], graph: Graph) -> None:
        getattr(importlib.import_module(module), function)(flow, graph, message["argument"])

    try:
        become(sources, argv, message["flow"], act)
    except FlowstoreError as error:
        sys.exit(f"Error: {error}")
    except Exception as error:  # as for any program, but without the lines of this module
        _tell(error)
        sys.exit(1)


def become(
    sources: Sources, argv: Sequence[str], name: Sequence[str], act: Callable[[type[FlowSpec], Graph], None]
) -> None:
    """Make this process the program of a snapshot: run it as `__main__` until it reaches its flow.

    Args:
        sources: the snapshot.
        argv: the program's arguments.
        name: the module and the qualified name of the flow's class.
        act: called with the flow; the process ends after it.
    """

    def reached(flow: type[FlowSpec]) -> None:
        if [flow.__module__, flow.__qualname__] != list(name):
            return
        from flowstore.flow.attached import prepare
        from flowstore.flow.graph import graph_of

        if sources.configs is not None:
            from flowstore.flow.configs import settle
            from flowstore.run import configs

            settle(flow, configs.unpacked(sources.configs))
        prepare(flow)
        act(flow, graph_of(flow))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    sys.argv[:] = argv
    imports.install(sources)
    if sources.launcher is not None:
        context.state.launcher = sources.launcher
        importlib.import_module(sources.launcher)
    context.state.main = reached
    main_module = sys.modules["__main__"]
    for variable in [variable for variable in vars(main_module) if not variable.startswith("__")]:
        delattr(main_module, variable)
    _run_program(sources, vars(main_module))
    reached(_flow(name, sources))


def _receive(descriptor: int | None) -> tuple[list[str], Sources]:
    """Read what `Interpreters._pack` wrote."""
    if descriptor is None:
        stdin = sys.stdin.buffer
        data = stdin.read(int.from_bytes(stdin.read(8)))
    else:
        data = _read_all(descriptor)
        os.close(descriptor)
    at = 8 + int.from_bytes(data[:8])
    head = json.loads(data[8:at])
    files: dict[str, bytes] = {}
    for path, size in head["sizes"].items():
        files[path] = data[at : at + size]
        at += size
    return head["argv"], Sources(files=files, **head["sources"])


def _read_all(descriptor: int) -> bytes:
    """Read a file from its beginning, without moving the position that others share."""
    pieces: list[bytes] = []
    at = 0
    while piece := os.pread(descriptor, 1 << 26, at):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def _run_program(sources: Sources, names: dict[str, Any]) -> None:
    """Run what `__main__` was in the process that started this one, if it can be run again."""
    names["__spec__"] = names["__package__"] = None
    if sources.module is not None:
        spec = importlib.util.find_spec(sources.module)
        if spec is None or spec.loader is None:
            raise FlowstoreError(f"The module {sources.module} cannot be found.")
        names |= {"__file__": spec.origin, "__cached__": spec.cached, "__package__": spec.parent, "__spec__": spec}
        names["__loader__"] = spec.loader
        code = spec.loader.get_code(sources.module)  # type: ignore[attr-defined]
    elif sources.main_file is not None:
        names["__file__"] = sources.main_file
        code = imports.compiled_main(sources)
    elif sources.text is not None:
        imports.remember_text("<string>", sources.text)
        code = compile(sources.text, "<string>", "exec", dont_inherit=True)
    else:
        return
    exec(code, names)  # noqa: S102  # the user's own program


def _flow(name: Sequence[str], sources: Sources) -> type[FlowSpec]:
    """Return the flow's class, which its program did not make an instance of."""
    module, qualified = name
    flow: Any = importlib.import_module(module)
    for part in qualified.split("."):
        flow = getattr(flow, part, None)
    if not (isinstance(flow, type) and issubclass(flow, FlowSpec)):
        raise FlowstoreError(f"{sources.flow_file or module} defines no flow {qualified} when it is imported again.")
    return flow


def _tell(error: BaseException) -> None:
    """Print a traceback that begins with the user's own code."""
    import traceback

    shown = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
        shown = shown.tb_next
    traceback.print_exception(type(error), error, shown)
