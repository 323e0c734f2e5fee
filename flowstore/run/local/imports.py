"""Imports of a flow's own modules, which are compiled from its snapshot under their real paths.

Editing, deleting or half saving a file while a run goes on changes nothing in that run: its processes take the source
of what they import late from the snapshot, and so do tracebacks and `inspect.getsource`. `__file__` is the real path,
so that data files beside the flow are found. Modules that the snapshot lacks come from where Python finds them:
extension modules, installed packages, files that a step has written.

A path hook does this: it leaves the order of `sys.path`, namespace packages and all else to Python. Compiled code is
cached where Python caches it, but found by the hash of its source rather than by the time of the file, which may have
changed since the snapshot was taken.
"""

from __future__ import annotations

import importlib.util
import io
import linecache
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import machinery
from types import CodeType, ModuleType
from typing import Any

from flowstore.run.snapshot import Sources, aliases_of

_HASHED = (3).to_bytes(4, "little")  # the flags of a cache file that is checked against its source's hash, PEP 552


def install(sources: Sources) -> None:
    """Have this process import the flow's modules from their snapshot from now on."""
    if not sources.files:
        return
    show_lines(sources)
    hook = _Hook(sources)
    sys.path_hooks.insert(0, hook)
    for path in list(sys.path_importer_cache):
        if hook.prefix(path) is not None:
            del sys.path_importer_cache[path]
    on_path = any(hook.prefix(path) == "" for path in sys.path)
    if sources.module is not None and not on_path:  # an editable installation knows where it is
        sys.meta_path.insert(0, _OffPath(hook(sources.root)))


def show_lines(sources: Sources) -> None:
    """Have tracebacks show the snapshot's lines of what has been imported."""
    if sources.main_file is not None and sources.script in sources.files:
        _remember(sources.main_file, sources.files[sources.script])
    aliases = aliases_of(sources.root)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            for folder, prefix in aliases.items():
                if file.startswith(folder):
                    source = sources.files.get(prefix + file[len(folder) + 1 :].replace(os.sep, "/"))
                    if source is not None:
                        _remember(file, source)


def compiled_main(sources: Sources) -> CodeType:
    """Return the program's file, compiled."""
    assert sources.main_file is not None
    source = sources.files[sources.script]
    _remember(sources.main_file, source)
    return compile(source, sources.main_file, "exec", dont_inherit=True)


def remember_text(name: str, text: str) -> None:
    """Have tracebacks show the lines of a text that was compiled under a name."""
    lines = [line if line.endswith("\n") else f"{line}\n" for line in io.StringIO(text)]
    linecache.cache[name] = (len(text), None, lines, name)  # without a time, it is never compared with the file


def _remember(path: str, source: bytes) -> None:
    try:
        remember_text(path, importlib.util.decode_source(source))
    except (SyntaxError, UnicodeDecodeError):  # which compiling it reports
        return


class _Hook:
    """Finds modules in the root of the snapshot and in the folders below it; see `sys.path_hooks`."""

    def __init__(self, sources: Sources) -> None:
        self._root = sources.root
        self._files = sources.files
        self._folders = {""}
        for path in sources.files:
            while path := path.rpartition("/")[0]:
                self._folders.add(path)
        self._aliases = aliases_of(sources.root)

    def __call__(self, path: str) -> _Finder:
        prefix = self.prefix(path) if isinstance(path, str) else None
        if prefix is None:
            raise ImportError(f"{path!r} is not in the snapshot")
        return _Finder(path, prefix, self._files, self._folders)

    def prefix(self, path: str) -> str | None:
        """Return the prefix of a folder's files in the snapshot; `None` for a folder that is not there."""
        path = os.path.abspath(path)  # of "", the current folder
        for folder, start in self._aliases.items():
            if path == folder:
                return start
            if path.startswith(folder + os.sep):
                inner = start + path[len(folder) + 1 :].replace(os.sep, "/")
                return f"{inner}/" if inner in self._folders else None
        return None


class _Finder(machinery.FileFinder):
    """Finds the modules of one folder: those of the snapshot first, but for extension modules, as Python does."""

    def __init__(self, path: str, prefix: str, files: Mapping[str, bytes], folders: set[str]) -> None:
        super().__init__(
            path,
            (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
            (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
            (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
        )
        self._prefix = prefix
        self._files = files
        self._folders = folders

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> machinery.ModuleSpec | None:
        """Find a module."""
        tail = fullname.rpartition(".")[2]
        inner = self._prefix + tail
        on_disk = super().find_spec(fullname, target)
        if on_disk is not None and isinstance(on_disk.loader, machinery.ExtensionFileLoader):
            return on_disk
        folder = os.path.join(self.path, tail)  # noqa: PTH118  # as Python spells it
        for source, path, places in (
            (f"{inner}/__init__.py", os.path.join(folder, "__init__.py"), [folder]),  # noqa: PTH118
            (f"{inner}.py", f"{folder}.py", None),
        ):
            if source in self._files:
                _remember(path, self._files[source])
                loader = _Loader(fullname, path, self._files[source])
                return importlib.util.spec_from_file_location(
                    fullname, path, loader=loader, submodule_search_locations=places
                )
        if on_disk is None and inner in self._folders:  # a package without `__init__.py`; its folder is gone
            on_disk = machinery.ModuleSpec(fullname, None, is_package=True)
            on_disk.submodule_search_locations = [folder]
        return on_disk


class _OffPath:
    """Finds top-level modules of a root that is not on `sys.path`."""

    def __init__(self, finder: _Finder) -> None:
        self._finder = finder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        """Find a module, if it is one of the snapshot."""
        spec = self._finder.find_spec(fullname) if path is None else None
        return spec if spec is not None and isinstance(spec.loader, _Loader) else None


class _Loader(machinery.SourceFileLoader):
    """Loads one module from the bytes of its source; what it leaves to Python is in no traceback, as usual."""

    def __init__(self, fullname: str, path: str, source: bytes) -> None:
        super().__init__(fullname, path)
        self._source = source

    def path_stats(self, path: str) -> dict[str, Any]:  # noqa: ARG002  # there is one path
        """Return the size and time of the source: the time means nothing, since cached code is found by a hash."""
        return {"mtime": 0, "size": len(self._source)}

    def get_data(self, path: str) -> bytes:
        """Return the snapshot's source; of cached code, only what was compiled from that; other files as they are."""
        if path == self.path:
            return self._source
        data = super().get_data(path)
        if path.endswith(".pyc") and not data.startswith(self._header()):
            raise OSError(f"{path} was compiled from another source")
        return data

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Cache compiled code, marked with the hash of its source."""
        super().set_data(path, self._header() + data[16:], _mode=_mode)

    def _header(self) -> bytes:
        return importlib.util.MAGIC_NUMBER + _HASHED + importlib.util.source_hash(self._source)
