"""The source code that a run ran."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, overload

from flowstore import later
from flowstore.client.addresses import Scope
from flowstore.client.base import InStore
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.sqlite import outputs
from flowstore.store import blobs, snapshots
from flowstore.store.blobs import Blob
from flowstore.text import counted

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory


def missing_module(code: Code | None, error: BaseException) -> str | None:
    """Return a sentence that names the module that a value needs, if its run kept it in its code; else `None`."""
    cause = error.__cause__
    while cause is not None and cause.__cause__ is not None and not isinstance(cause, ImportError | AttributeError):
        cause = cause.__cause__
    if isinstance(cause, ImportError):
        name, state = cause.name, "cannot be imported here"
    elif isinstance(cause, AttributeError):  # from a pickle: "Can't get attribute 'C' on <module 'm' from '…'>"
        match = re.search(r"on <module '([\w.]+)'", str(cause))
        name, state = match and match[1], "is another one here"
    else:
        return None
    if code is None or not name:
        return None
    path = name.replace(".", "/")
    kept = next((file for file in code.files if file == f"{path}.py" or file.startswith(f"{path}/")), None)
    return None if kept is None else f"Loading it needs the module {name!r} of the run's code ({kept}), which {state}."


def where_code_is(run: str) -> str:
    """Return a sentence that says how to make the modules of a run's code importable.

    >>> where_code_is("F/5")
    'Run("F/5").code.extract("F-5") writes the code to a folder; put it on sys.path, or into $PYTHONPATH for a command.'
    """
    folder = run.replace("/", "-")
    return (
        f'Run("{run}").code.extract("{folder}") writes the code to a folder; put it on sys.path, or into $PYTHONPATH '
        "for a command."
    )


@later.frozen
class Frame:
    """A line of the source at which something failed.

    Attributes:
        file: its path in the code of the run; of another library, the path of the file there.
        line: its number, from 1.
        function: the function that it is in.
        text: the line itself, and what Python marks below it.
        own: whether it is in the code of the run.
    """

    file: str
    line: int
    function: str
    text: str
    own: bool


_FRAME = re.compile(r'^ *File "(.{1,4000})", line (\d{1,9})(?:, in (.{1,500}))?$')


def last_frame(traceback: str, files: Collection[str]) -> Frame | None:
    r"""Return the last line of a traceback that is in the code of a run; else its last line; `None` if it has none.

    >>> text = 'Traceback …:\n  File "/x/flow.py", line 24, in try_out\n    self.ratio = 1 / 0\nZeroDivisionError: …'
    >>> frame = last_frame(text, ["flow.py"])
    >>> frame.file, frame.line, frame.function, frame.text, frame.own
    ('flow.py', 24, 'try_out', '    self.ratio = 1 / 0', True)
    """
    frames: list[Frame] = []
    lines: list[list[str]] = []
    for line in traceback.splitlines():
        if match := _FRAME.match(line):
            file = next((path for path in files if match[1] == path or match[1].endswith(f"/{path}")), None)
            frames.append(Frame(file or match[1], int(match[2]), match[3] or "", "", file is not None))
            lines.append([])
        elif lines and line.startswith("    "):
            lines[-1].append(line)
    last = max(range(len(frames)), key=lambda n: (frames[n].own, n), default=None)
    return None if last is None else later.evolve(frames[last], text="\n".join(lines[last]))


class Code(InStore):
    """The source that a run ran: the flow's file, the modules beside it, or the package that it is part of."""

    _PICKLED = ("_code_id",)

    def __init__(self, scope: Scope, code_id: int) -> None:
        self._scope = scope
        self._code_id = code_id

    @functools.cached_property
    def _files(self) -> dict[str, Blob]:
        return snapshots.files(self._store, self._code_id)

    @functools.cached_property
    def script_name(self) -> str:
        """The path of the flow's file."""
        return snapshots.script_name(self._store, self._code_id)

    @functools.cached_property
    def module(self) -> str | None:
        """The name of the flow's module, where it ran with `python -m`; else `None`."""
        return snapshots.program_of(self._store, self._code_id).module

    @property
    def flowspec(self) -> str:
        """The text of the flow's file."""
        return self._read(self.script_name).decode("utf-8", "replace")

    @property
    def files(self) -> list[str]:
        """The paths of all files, relative to the flow's folder."""
        return list(self._files)

    @overload
    def extract(self) -> TemporaryDirectory[str]: ...
    @overload
    def extract(self, folder: str | Path) -> Path: ...

    def extract(self, folder: str | Path | None = None) -> Path | TemporaryDirectory[str]:
        """Write the files below `folder`, which is created if it is missing, and return it.

        Without one, the files are in a temporary folder, which is removed with the object that is returned.

        Raises:
            StoreCorrupt: a path points outside of the folder, which no run of flowstore wrote.
            FlowstoreError: a file can't be written.
        """
        if folder is None:
            from tempfile import TemporaryDirectory

            temporary = TemporaryDirectory(prefix="flowstore-code-")
            self.extract(temporary.name)
            return temporary
        target = Path(folder).resolve()
        outputs_by_path = {path: self._output(target, path) for path in self._files}
        for path, output in outputs_by_path.items():
            data = self._read(path)
            try:
                outputs.check(output)
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_bytes(data)
            except OSError as error:
                raise FlowstoreError(f"{output} cannot be written: {error.strerror}. Choose another folder.") from error
        return target

    def source(self, path: str, most_bytes: int) -> str | None:
        """Return a file as text; `None` where it is missing, larger, or not stored as bytes.

        Whatever the store says of it, nothing is unpickled.
        """
        blob = self._files.get(path)
        if blob is None or blob.codec != "bytes" or blob.size_bytes > most_bytes:
            return None
        return self._read(path).decode("utf-8", "replace")

    def _output(self, target: Path, path: str) -> Path:
        try:
            output = (target / path).resolve()
        except (ValueError, OSError, RuntimeError):  # a null character, a name that is too long, a circle of links
            output = target
        if output == target or not output.is_relative_to(target):
            raise StoreCorrupt(f"{self._store.path}: the code holds the path {path!r}, which points outside.")
        return output

    def _read(self, path: str) -> bytes:
        if path not in self._files:
            raise StoreCorrupt.damaged(f"the code lacks its file {path!r}", self._store.path)
        value = blobs.load(self._store, self._files[path], path)
        if not isinstance(value, bytes):
            raise StoreCorrupt.damaged(f"the code file {path!r} is not stored as bytes", self._store.path)
        return value

    def __repr__(self) -> str:
        return f"Code({self.script_name!r}, {counted(len(self._files), 'file')})"
