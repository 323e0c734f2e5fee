"""The end of a process that has run tasks: what the end of a script would do, short of ending the interpreter.

Threads that are no daemons are joined, `atexit` hooks run, files and log handlers are flushed, and objects that have a
`__del__` are finalized, since archives and compressed files end their file there. A forked process does this for what
its task has made. What the import of the flow has made belongs to the process that imported: a fork shares its files,
so these are flushed and stay open, while its hooks and temporary folders wait for the end of that process. A full
finalisation of a forked interpreter would run those hooks, delete those folders, and write twice what the import had
left in buffers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import io
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

_FILE: type = io.IOBase.__mro__[1]  # its subclasses are known without the caches that `abc` keeps, and a fork copies

_MOST_KINDS = 500  # a task may define classes, which are not to stay for ever


class Ending:
    """The work that is left for the end of this process.

    Args:
        imported: the files that the import of the flow has opened in another process, which this one was forked from;
            `None` where this process has imported the flow itself.
    """

    def __init__(self, imported: list[Any] | None = None) -> None:
        self._imported = imported
        self._kept: list[Any] = []
        self._harmless: set[type] = set()  # classes of objects that need nothing
        if imported is not None:
            self._disown()
        self._hooks = atexit._ncallbacks()

    def leave_streams(self) -> None:
        """Forget Python's own streams among the files of the import: they are flushed after each attempt anyway.

        To be called once they are those that tasks have.
        """
        streams = {id(layer) for stream in (sys.stdin, sys.stdout, sys.stderr) for layer in _layers(stream)}
        self._imported = [file for file in self._imported or () if id(file) not in streams]

    def _disown(self) -> None:
        """Leave the hooks, child processes and finalizers of the import to the process that imported."""
        atexit._clear()
        if "logging" in sys.modules:
            atexit.register(sys.modules["logging"].shutdown)
        if "multiprocessing.util" in sys.modules:
            from multiprocessing import process, util

            util._run_after_forkers()  # type: ignore[attr-defined]  # connections of managers are not shared
            util._finalizer_registry.clear()  # type: ignore[attr-defined]
            process._children.clear()  # type: ignore[attr-defined]
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            finalizer.atexit = False
            self._kept.append(finalizer.peek())  # the object, so that no task deletes a folder by dropping it
        weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]

    def is_due(self) -> bool:
        """Return whether there is anything to be done."""
        if self.is_flush_due() or atexit._ncallbacks() > self._hooks:
            return True
        if threading.active_count() > 1 and any(
            not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()
        ):
            return True
        registry = getattr(sys.modules.get("multiprocessing.util"), "_finalizer_registry", None)
        return bool(registry) or bool(getattr(sys.modules.get("multiprocessing.process"), "_children", None))

    def is_flush_due(self, *, often: bool = False) -> bool:
        """Return whether there are files or log handlers, or objects to be finalized.

        Args:
            often: this is asked after each of many tasks, so it is worth to remember which classes need nothing.
        """
        if self._imported is None or self._imported or next(_handlers(), None) is not None:
            return True
        kinds = set(map(type, gc.get_objects()))
        if not often:
            return any(_is_file(kind) or _is_finalized(kind) for kind in kinds)
        kinds -= self._harmless
        if any(_is_file(kind) or _is_finalized(kind) for kind in kinds):
            return True
        self._harmless = kinds if len(self._harmless) > _MOST_KINDS else self._harmless | kinds
        return False

    def flush(self) -> None:
        """Write out what waits in buffers of files and log handlers."""
        for handler in _handlers():
            _attempt(handler.flush)
        for file in (*(self._imported or ()), *_of(gc.get_objects(), _is_file)):
            _attempt(functools.partial(_flush, file))
        flush_output()

    def finish(self) -> None:
        """Do what the end of a script does."""
        _attempt(threading._shutdown)  # type: ignore[attr-defined]  # joins them, and lets executors finish their work
        _attempt(atexit._run_exitfuncs)
        self.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # as Python does by default
            for value in _of(gc.get_objects(), _is_finalized):
                _attempt(value.__del__)
        flush_output()


def flush_imported() -> list[Any]:
    """Write out what the import of the flow has left in buffers, before a fork copies them.

    Returns:
        The files that the import has opened and that may hold something back.
    """
    for handler in _handlers():
        _attempt(handler.flush)
    files = [file for file in _of(gc.get_objects(), _is_file) if not _holds_nothing(file)]
    for file in files:
        _attempt(functools.partial(_flush, file))
    flush_output()
    return files


def flush_output() -> None:
    """Send on what was printed, from Python or from C; a step may have closed its streams."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105  # each forked task does this, and `suppress` would cost it copies of pages
            stream.flush()
        except (ValueError, OSError, AttributeError):
            pass
    if sys.platform != "win32" and "ctypes" in sys.modules:
        flush_from_c()(None)


@functools.cache
def flush_from_c() -> Any:
    """Return C's `fflush`."""
    import ctypes

    return ctypes.CDLL(None).fflush


def _layers(stream: Any) -> Iterator[Any]:
    """Yield a text stream, and what it writes to or reads from."""
    with contextlib.suppress(ValueError):  # it was detached
        while isinstance(stream, io.IOBase):
            yield stream
            stream = getattr(stream, "buffer", None) or getattr(stream, "raw", None)


def _holds_nothing(file: Any) -> bool:
    """Return whether nothing that was written to a file can wait there, since it is unbuffered, or only read."""
    kind = type(file)
    if kind is io.TextIOWrapper:
        with contextlib.suppress(ValueError):  # it is closed, or was detached
            return _holds_nothing(file.buffer) and (file.write_through or not file.writable())
        return True
    return kind is io.FileIO or kind is io.BufferedReader


def _handlers() -> Iterator[Any]:
    """Yield the log handlers that may hold something back."""
    logging = sys.modules.get("logging")
    for reference in list(getattr(logging, "_handlerList", ())):
        handler = reference()
        idle = (logging.NullHandler, logging._StderrHandler)  # type: ignore[union-attr]
        if handler is not None and not isinstance(handler, idle) and getattr(handler, "flushOnClose", True):
            yield handler


def _of(objects: list[Any], wanted: Callable[[type], bool]) -> list[Any]:
    """Return the objects that have a wanted class."""
    kinds = {kind for kind in set(map(type, objects)) if wanted(kind)}
    return [value for value in objects if type(value) in kinds] if kinds else []


def _is_file(kind: type) -> bool:
    return issubclass(kind, _FILE) and not issubclass(kind, (io.BytesIO, io.StringIO))


def _is_finalized(kind: type) -> bool:
    """Return whether objects of a class do something when they are deleted, which C would do for a plain file."""
    finalizer = getattr(kind, "__del__", None)
    return isinstance(finalizer, FunctionType) or (_is_file(kind) and kind.__module__ != "_io")


def _flush(file: Any) -> None:
    with contextlib.suppress(ValueError):  # its buffer was detached, or is closed
        if not file.closed:
            file.flush()


def _attempt(action: Callable[[], object]) -> None:
    """Do one thing at the end; what it raises is printed, as at a script's end, and stops nothing else."""
    try:
        action()
    except BaseException:
        import traceback

        with contextlib.suppress(ValueError, OSError, AttributeError):
            traceback.print_exc()
