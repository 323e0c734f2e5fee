"""Values to pickles and back: the one place of the package that unpickles.

Classes of the flow file need care. cloudpickle writes classes of `__main__` by value, so that two processes
of one run would each rebuild a class of their own, and `isinstance`, `==` and enums would fail between them.
Here such a class is written as a name *and* a by-value copy. A process that runs the same flow resolves the
name, to its own class; any other rebuilds the copy, once for all artifacts that hold the same copy.

The names `flowstore.store.pickling._flow_class` and `flowstore.store.pickling._lru_cached` are part of the file format:
stored pickles name them. This module must stay importable under this name, and these two functions in it.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import hashlib
import io
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from types import ModuleType
from typing import Any, Protocol

import cloudpickle

from flowstore.context import state
from flowstore.errors import ArtifactError

PROTOCOL = 5
_rebuilt: dict[bytes, type] = {}
_copies: dict[type, bytes | None] = {}


class Readable(Protocol):
    """A binary file, as much of it as an unpickler needs."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, /) -> bytes: ...


def dump(value: Any, write: Callable[[Any], Any]) -> object:
    """Pickle `value`, calling `write` with each piece; large buffers are passed without a copy.

    Returns:
        An object that keeps the pieces' memory alive; hold it as long as they are used.
    """
    pickler = _Pickler(_Sink(write), protocol=PROTOCOL)
    with _at_store():
        pickler.dump(value)
    return pickler


def load(file: Readable) -> Any:
    """Rebuild a value. This runs code that the pickle chooses: only for pickles that are trusted."""
    with _at_store():
        return pickle.load(file)  # noqa: S301  # guarded by flowstore.store.blobs, where trust is checked


@contextlib.contextmanager
def _at_store() -> Iterator[None]:
    """Let objects know that they are pickled for the store, or loaded from it, rather than for a pool of processes."""
    before, state.at_store = state.at_store, True
    try:
        yield
    finally:
        state.at_store = before


@functools.cache
def register_classes(module: ModuleType) -> None:
    """Prepare the classes of a flow's module, so that all processes write the same bytes for them."""
    if module.__name__ != "__main__":
        cloudpickle.register_pickle_by_value(module)
    for candidate in list(vars(module).values()):
        if isinstance(candidate, type) and candidate.__module__ == module.__name__:
            _track(candidate, module)


class _Sink:
    """A file for the pickler that hands on what it is given."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self.write = write


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        module = state.flow_module
        if module is not None and isinstance(obj, type) and _find(module, obj.__qualname__) is obj:
            return _flow_class, (obj.__qualname__, _copy_of(obj, module))
        if type(obj) is functools._lru_cache_wrapper and _is_by_value(obj.__module__):
            return _lru_cached, (obj.__wrapped__, *obj.cache_parameters().values())
        if isinstance(obj, io.TextIOWrapper) and obj not in {sys.stdin, sys.stdout, sys.stderr}:
            raise ArtifactError("It holds an open file. Store the file's path, or what it contains.")
        return super().reducer_override(obj)


class _CopyPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a class by value, with new ones for the locks that are part of it."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is functools.cached_property:  # which holds a lock in Python 3.11
            return kind, (obj.func,), {"attrname": obj.attrname}
        if kind is functools._lru_cache_wrapper and _is_by_value(obj.__module__):
            return _lru_cached, (obj.__wrapped__, *obj.cache_parameters().values())
        if kind in _NEW:
            return _NEW[kind], ()
        return super().reducer_override(obj)


_NEW: dict[type, Callable[[], Any]] = {
    type(_thread.allocate_lock()): _thread.allocate_lock,
    type(threading.RLock()): threading.RLock,
    threading.local: threading.local,
}


def _is_by_value(module: str | None) -> bool:
    """Return whether what a module defines is written by value, since another process may not have the module."""
    flow_module = state.flow_module
    return module == "__main__" or (flow_module is not None and module == flow_module.__name__)


def _lru_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:  # of pickles
    """Return a function with an empty cache. Pickles call this by its path, which is part of the file format."""
    return functools.lru_cache(maxsize, typed)(function)


def _find(module: ModuleType, qualname: str) -> Any:
    value: Any = module
    for part in qualname.split("."):
        value = getattr(value, part, None)
    return value


def _copy_of(cls: type, module: ModuleType) -> bytes | None:
    """Return the class by value, or `None` and say so where only the flow itself can load it."""
    if cls not in _copies:
        register_classes(module)
        _track(cls, module)  # one that was made after the module was imported
        buffer = BytesIO()
        try:
            _CopyPickler(buffer, protocol=PROTOCOL).dump(cls)
        except Exception as error:  # anything may raise here
            _copies[cls] = None
            print(
                f"Objects of the class {cls.__qualname__} can be loaded by this flow only: the class, or a global that "
                f"it uses, cannot be pickled ({type(error).__name__}: {error}). Create that inside a method.",
                file=sys.stderr,
            )
        else:
            _copies[cls] = buffer.getvalue()
    return _copies[cls]


def _track(cls: type, module: ModuleType) -> None:
    """Set the class's identity mark for cloudpickle, the same in every run of this source.

    Without it cloudpickle draws a random one in each process: equal values would get different bytes, and
    two artifacts loaded elsewhere would have two classes.
    """
    tracker = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", None)
    by_id = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", None)
    if tracker is not None and by_id is not None and cls not in tracker:
        source = getattr(module, "__file__", None) or module.__name__
        mark = hashlib.sha256(f"{source}\0{cls.__qualname__}\0{_members(cls)}".encode()).hexdigest()[:32]
        tracker[cls] = mark
        by_id.setdefault(mark, cls)


def _members(cls: type) -> str:
    functions = [getattr(value, "func", value) for value in vars(cls).values()]
    codes = [getattr(getattr(function, "__code__", None), "co_code", b"").hex() for function in functions]
    return "\0".join([*vars(cls), *codes])


def _flow_class(qualname: str, copy: bytes | None) -> Any:
    """Return this process's own class of that name if it runs the flow, else the copy.

    Pickles call this by its path, which is part of the file format: it must stay importable for ever.
    """
    if state.flow_module is not None and isinstance(own := _find(state.flow_module, qualname), type):
        return own
    if copy is None:
        raise pickle.UnpicklingError(f"the class {qualname} can only be loaded inside its own flow")
    mark = hashlib.sha256(copy).digest()
    if mark not in _rebuilt:
        _rebuilt[mark] = load(BytesIO(copy))
    return _rebuilt[mark]
