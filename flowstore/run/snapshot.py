"""The source files of a flow: what a run or a deployment keeps, and what its tasks are compiled from.

The root of a snapshot is the folder in which the flow's own imports are looked for: the script's folder, or the folder
that contains the top-level package of a flow that was started with `python -m shop.flows.train`. All Python files
of the script's folder, or of the package, are kept, since a step may import one of them only when it runs. Virtual
environments, hidden folders and installed packages are left out: a run finds them where they are.

A deployment needs every file, since it runs elsewhere. A run must start quickly even where the script lies in
somebody's home folder, so it looks at no more than `MOST_ENTRIES` entries of folders. Where there are more, it keeps
the script, the modules that have been imported with the packages that they belong to, and the files beside the script.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from flowstore import context, later
from flowstore.errors import FlowstoreError

COMMAND = "command.py"  # what the program of `python -c` is kept as
LARGEST_BYTES = 100 << 20
MOST_ENTRIES = 2_000  # of folders that a run looks at: less than 5 ms
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
_OWN_FOLDER = str(Path(__file__).parent.parent)
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120  # a prefix of text


@later.frozen(kw_only=True)
class Sources:
    """The source files of a flow as they were when its run began, and how its program was started.

    Attributes:
        root: the folder, or the zip file, that contains them; "" where there is no file.
        files: their bytes, by path relative to the root, with "/" between folders.
        script: the path of the program's file among them; "" where it has none.
        flow_file: the path of the file that holds the flow's class; usually the script.
        module: the program's name, where it was started with `python -m`.
        main_file: the `__file__` of the program.
        text: the program itself, where it was given with `python -c`.
        launcher: the module that ran the program, and is imported before it.
        configs: the values of the flow's configs, packed; `None` where nothing of it depends on any.
    """

    root: str = ""
    files: Mapping[str, bytes] = later.field(factory=dict)
    script: str = ""
    flow_file: str = ""
    module: str | None = None
    main_file: str | None = None
    text: str | None = None
    launcher: str | None = None
    configs: Mapping[str, tuple[str, str]] | None = None


@later.frozen(kw_only=True)
class _Program:
    """Describe the program: its file, its name with `python -m`, and the zip file that contains it."""

    file: str
    module: str | None = None
    archive: str | None = None


def take(flow: type, suffixes: Sequence[str] = (), *, whole: bool = False) -> Sources:
    """Read the source files of a flow.

    Args:
        flow: its class.
        suffixes: those of further files to keep, such as `.sql`.
        whole: whether all files are needed, however many folders have to be searched. They are, too, where there
            are `suffixes`.

    Raises:
        FlowstoreError: the script can't be read, or with `whole` another file, or the files are too large.
    """
    main = sys.modules["__main__"]
    text = context.command_text() if getattr(main, "__file__", None) is None else None
    program = _program(flow)
    if program is None:
        return Sources(text=text)
    root, script = _place(program)
    reader = _Reader(root, suffixes, strict=whole)
    if program.archive is not None:
        files = _from_archive(program.archive, suffixes)
    else:
        reader.read(script)
        package = script.split("/")[0] if "/" in script else ""
        installed = not _LEFT_OUT.isdisjoint(Path(root).parts)
        imported = {} if installed else dict(_imported(root))
        reader.read_tree(package, sorted(imported), None if whole or suffixes else MOST_ENTRIES, alone=installed)
        files = reader.files
        _check_read(root, files, imported)
    has_main = getattr(main, "__file__", None) is not None
    return Sources(
        root=root,
        files=files,
        script=script if has_main else "",
        flow_file=_flow_file(flow, root, files) or script,
        module=program.module if has_main else None,
        main_file=program.file if has_main else None,
        text=text,
        launcher=context.state.launcher,
    )


# --- what runs


def _program(flow: type) -> _Program | None:
    """Return the program of this process, or where that has no file, as with `python -c`, the module of the flow."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    file = getattr(main, "__file__", None)
    if file is None:
        module = sys.modules.get(flow.__module__)
        file = getattr(module, "__file__", None)
        return _Program(file=file, module=flow.__module__) if file is not None and Path(file).is_file() else None
    archive = getattr(getattr(main, "__loader__", None), "archive", None)
    if archive is not None:
        return _Program(file=file, archive=archive, module=None if name == "__main__" else name)
    own = _file_of_steps(flow) if flow.__module__ == "__main__" else None
    if own is not None and not _same(own, file):  # a profiler or debugger is `__main__`, and runs the flow's file
        return _Program(file=own)
    if not Path(file).is_file():
        return None
    if name is None or name == "__main__" or _is_below(os.path.abspath(file), _OWN_FOLDER):
        return _Program(file=file)
    return _Program(file=file, module=name)


def _file_of_steps(flow: type) -> str | None:
    """Return the file of the flow's own steps, if it is one."""
    for value in vars(flow).values():
        if getattr(value, "is_step", False):
            file = getattr(getattr(value, "__code__", None), "co_filename", "")
            return file if Path(file).is_file() else None
    return None


def _same(one: str, other: str) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _place(program: _Program) -> tuple[str, str]:
    """Return the root of a program's imports, and the path of its file below that."""
    if program.archive is not None:
        return os.path.realpath(program.archive), _slashed(os.path.relpath(program.file, program.archive))
    if program.module is None:
        script = os.path.realpath(program.file)  # as Python does for the folder that imports are looked for in
        return os.path.dirname(script), os.path.basename(script)  # noqa: PTH119, PTH120
    path = Path(os.path.abspath(program.file))  # without following links: names count
    depth = program.module.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    return os.path.realpath(root), path.relative_to(root).as_posix()


def _flow_file(flow: type, root: str, files: Mapping[str, bytes]) -> str | None:
    """Return the path of the file that holds the flow's class, if it is among the files."""
    file = getattr(sys.modules.get(flow.__module__), "__file__", None)
    if file is None or flow.__module__ == "__main__":
        return None
    path = os.path.realpath(file)
    relative = _slashed(os.path.relpath(path, root)) if _is_below(path, root) else ""
    return relative if relative in files else None


def _slashed(path: str) -> str:
    return path.replace(os.sep, "/")


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


# --- which files


def _imported(root: str) -> Iterator[tuple[str, ModuleType]]:
    """Yield the modules below the root that have been imported, with their paths, without those that are installed."""
    aliases = aliases_of(root)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or _is_below(file, _LIBRARY):
            continue
        for folder, prefix in aliases.items():
            if _is_below(file, folder) and not _is_below(file, _OWN_FOLDER):
                path = prefix + _slashed(file[len(folder.rstrip(os.sep)) + 1 :])
                if _LEFT_OUT.isdisjoint(path.split("/")):
                    yield path, module


def _check_read(root: str, files: Mapping[str, bytes], imported: Mapping[str, ModuleType]) -> None:
    """Refuse a file that was changed after this process had imported it: what ran would not be what is kept."""
    for path, module in imported.items():
        full = f"{root}/{path}"
        try:
            changed = os.stat(full).st_mtime >= context.STARTED_AT and path in files  # noqa: PTH116
        except OSError:
            continue
        if changed and not _is_made_from(module, files[path]):
            raise FlowstoreError(
                f"{full} was changed after this process had read it, so what runs would be another version than what "
                "is kept. Nothing was started; run it again."
            )


def _is_made_from(module: ModuleType, source: bytes) -> bool:
    """Return whether the functions of a module are those of a source."""
    try:
        pending = [compile(source, "", "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return False
    known = set()
    while pending:
        code = pending.pop()
        known.add(code)
        pending += [item for item in code.co_consts if isinstance(item, CodeType)]
    file = os.path.realpath(str(module.__file__))
    scopes = [vars(module), *(vars(item) for item in vars(module).values() if isinstance(item, type))]
    own = [item.__code__ for scope in scopes for item in scope.values() if isinstance(item, FunctionType)]
    return all(code in known for code in own if os.path.realpath(code.co_filename) == file)


def aliases_of(root: str) -> dict[str, str]:
    """Return the folders where modules below the root are found, with their paths: links may lead there."""
    return _aliases(root, tuple(sys.path), os.getcwd())  # noqa: PTH109


@functools.lru_cache(maxsize=4)
def _aliases(root: str, paths: tuple[str, ...], here: str) -> dict[str, str]:
    aliases = {root: ""}
    for entry in paths:
        path = os.path.normpath(os.path.join(here, entry))  # noqa: PTH118
        real = os.path.realpath(path)
        if real == root:
            aliases.setdefault(path, "")
        elif _is_below(real, root):
            aliases.setdefault(path, _slashed(real[len(root.rstrip(os.sep)) + 1 :]) + "/")
    return aliases


class _TooMany(Exception):
    """A folder has more entries than a run looks at."""


class _Reader:
    """Reads files below the root, each once."""

    def __init__(self, root: str, suffixes: Sequence[str], *, strict: bool) -> None:
        self.files: dict[str, bytes] = {}
        self._root = root
        self._suffixes = (".py", *suffixes)
        self._strict = strict
        self._size_bytes = 0

    def read_tree(self, package: str, imported: Sequence[str], most: int | None, *, alone: bool) -> None:
        """Read what belongs to the program.

        Args:
            package: the folder of its package; "" where it is no package, and all of the root is searched.
            imported: the paths of modules that have been imported.
            most: how many entries of folders to look at.
            alone: whether the root contains what others have installed, so that it is not searched.
        """
        for path in imported:
            self.read(path)
        packages = dict.fromkeys([package, *(path.split("/")[0] for path in imported if "/" in path)])
        try:
            trees = [*packages] if package else [] if alone else [""]
            paths = [path for tree in trees for path in self._walk(tree, most)]
        except _TooMany:
            paths = [] if package else self._beside(most or 0)
            for tree in filter(None, packages):
                try:
                    paths += [*self._walk(tree, most)]
                except _TooMany:
                    continue
        for path in paths:
            self.read(path)

    def read(self, path: str) -> None:
        """Read one file.

        Raises:
            FlowstoreError: it is the script, or all files are needed, and it can't be read; or they are too large.
        """
        if path in self.files:
            return
        full = f"{self._root}/{path}"  # much less than what `Path` does, for each of many files
        try:
            with open(full, "rb", buffering=0) as file:  # noqa: PTH123
                data = file.readall()
        except OSError as error:
            if self.files and not self._strict:
                return
            raise FlowstoreError(f"{full} cannot be read: {error.strerror}. Nothing was started.") from error
        self._size_bytes += len(data)
        if self._size_bytes > LARGEST_BYTES:
            if self.files and not self._strict:
                return
            raise FlowstoreError(
                f"The source files below {self._root} are more than {LARGEST_BYTES >> 20} MiB. "
                "Put the flow and its modules into a folder of their own; nothing was started."
            )
        self.files[path] = data

    def _walk(self, folder: str, most: int | None) -> Iterator[str]:
        """Yield the paths of the files to keep below a folder, in order."""
        pending = [folder]
        seen = 0
        while pending:
            folder = pending.pop()
            entries = self._entries(folder)
            seen += len(entries)
            if most is not None and seen > most:
                raise _TooMany
            prefix = f"{folder}/" if folder else ""
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not _is_left_out(entry):
                        pending.append(prefix + entry.name)
                elif self._is_kept(entry):
                    yield prefix + entry.name

    def _beside(self, most: int) -> list[str]:
        """Return the files directly in the root, unless there are too many."""
        entries = self._entries("")
        return [] if len(entries) > most else [entry.name for entry in entries if self._is_kept(entry)]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(Path(self._root, folder)) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:  # somebody else's, perhaps
            return []

    def _is_kept(self, entry: os.DirEntry[str]) -> bool:
        """Return whether Python could import it: editors leave dangling links, and a name may be no text at all."""
        try:
            return entry.name.endswith(self._suffixes) and bool(entry.name.encode()) and entry.is_file()
        except (UnicodeEncodeError, OSError):
            return False


def _is_left_out(folder: os.DirEntry[str]) -> bool:
    if folder.name in _LEFT_OUT or folder.name.startswith(".") or folder.path in {_OWN_FOLDER, _LIBRARY}:
        return True
    return any(os.path.lexists(f"{folder.path}/{mark}") for mark in ("pyvenv.cfg", "conda-meta"))


def _from_archive(archive: str, suffixes: Sequence[str]) -> dict[str, bytes]:
    """Return the source files in a zip file."""
    import zipfile

    kept = (".py", *suffixes)
    try:
        with zipfile.ZipFile(archive) as opened:
            return {item.filename: opened.read(item) for item in opened.infolist() if item.filename.endswith(kept)}
    except (OSError, zipfile.BadZipFile) as error:
        raise FlowstoreError(f"{archive} cannot be read: {error}. Nothing was started.") from error


def checked_suffixes(given: Sequence[str]) -> tuple[str, ...]:
    """Return the suffixes in texts such as `.sql,.yaml`.

    >>> checked_suffixes([".sql, yaml", ".txt"])
    ('.sql', '.yaml', '.txt')
    """
    parts = [part.strip() for text in given for part in text.split(",")]
    return tuple(dict.fromkeys(part if part.startswith(".") else f".{part}" for part in parts if part))


def described(sources: Sources) -> dict[str, Any]:
    """Everything about sources but the files, as plain values."""
    return {name: value for name, value in later.as_dict(sources).items() if name != "files"}
